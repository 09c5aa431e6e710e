//! `idle`: connections that register a producer, as clients do, and then say nothing: what each costs the server.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_protocol::body::{HeartbeatData, ProducerData};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::connection::Connection;
use super::frames::Template;
use super::options::IdleOptions;
use super::usage::anonymous_mib;
use crate::output::Output;

const GROUP: &str = "mq-bench-idle";

#[derive(Debug, Serialize)]
pub(super) struct IdleReport {
    connections: usize,
    anonymous_mib_before: f64,
    anonymous_mib: f64,
    kib_each: f64,
}

pub(super) async fn idle(options: &IdleOptions) -> Result<IdleReport> {
    ensure!(options.connections > 0, "at least one connection is needed");
    ensure!(!options.reporting.pid.is_empty(), "name the server's process with --pid");
    raise_open_files()?;
    let before = anonymous_mib(&options.reporting.pid)?;
    let mut connections = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let opened = register(&options.addr, number).await;
        connections.push(opened.with_context(|| format!("connection {number}"))?);
    }
    tokio::time::sleep(Duration::from_secs_f64(options.rest.max(0.0))).await;
    let after = anonymous_mib(&options.reporting.pid)?;
    let kib_each = (after - before) * 1024.0 / connections.len() as f64;
    Ok(IdleReport { connections: connections.len(), anonymous_mib_before: before, anonymous_mib: after, kib_each })
}

async fn register(address: &str, number: usize) -> Result<Connection> {
    let mut connection = Connection::small(address).await?;
    let producer = ProducerData { group_name: GROUP.into(), ..ProducerData::default() };
    let client_id = format!("127.0.0.1@idle-{number}");
    let data = HeartbeatData { client_id, producer_data_set: vec![producer], ..HeartbeatData::default() };
    let mut out = Vec::new();
    Template::new(Command::request(request::HEART_BEAT).with_body(serde_json::to_vec(&data)?)).put(&mut out, 0, 0, 0);
    connection.write(&out).await?;
    connection
        .answers(|answer| {
            ensure!(answer.code == 0, "the heartbeat is refused: {}", answer.refusal());
            Ok(())
        })
        .await?;
    Ok(connection)
}

/// As far as this process may.
fn raise_open_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot open many connections")
}

impl IdleReport {
    pub(super) fn finish(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(self)?)?,
            Output::Table => writeln!(
                out,
                "{} idle connections: {:.1} KiB each ({:.1} MiB before, {:.1} MiB with them)",
                self.connections, self.kib_each, self.anonymous_mib_before, self.anonymous_mib
            )?,
        }
        Ok(())
    }
}
