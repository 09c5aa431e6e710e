//! `timers`: messages that wait for their time: what they cost the server meanwhile, and how long a start with them takes.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mq_protocol::ByteString;
use mq_protocol::body::KvTable;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::SendMessage;
use mq_protocol::properties::{Properties, name};
use serde::Serialize;

use super::connection::Connection;
use super::frames::Template;
use super::options::TimersOptions;
use super::server::{Server, scratch};
use super::unix_ms;
use crate::output::Output;

/// None of them is due while this runs, and then they are spread over so many slots.
const FIRST_DUE: Duration = Duration::from_secs(3600);
const SLOTS: u64 = 3600;
const LINKED_WITHIN: Duration = Duration::from_secs(600);
const ASK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
pub(super) struct TimersReport {
    timers: u64,
    send_seconds: f64,
    link_seconds: f64,
    anonymous_mib_before: f64,
    anonymous_mib: f64,
    idle_cpu_percent: f64,
    restart_seconds: f64,
    anonymous_mib_after_restart: f64,
}

pub(super) async fn timers(options: &TimersOptions) -> Result<TimersReport> {
    let directory = scratch("mq-bench-timers-", &options.alone.dir)?;
    let server = Server::broker_in("SYNC_FLUSH", directory.path()).await?;
    let before = server.anonymous_mib()?;
    let mut connection = Connection::open(server.address()).await?;
    let began = Instant::now();
    send(&mut connection, options).await?;
    let sent = Instant::now();
    linked(&mut connection).await?;
    let link_seconds = sent.elapsed().as_secs_f64();
    let idle_cpu_percent = server.cpu_percent(options.alone.rest).await?;
    let anonymous = server.anonymous_mib()?;
    drop(connection);
    server.stop().await?;
    let (restart_seconds, anonymous_mib_after_restart) = restart(directory.path(), options.alone.rest).await?;
    Ok(TimersReport {
        timers: options.count,
        send_seconds: (sent - began).as_secs_f64(),
        link_seconds,
        anonymous_mib_before: before,
        anonymous_mib: anonymous,
        idle_cpu_percent,
        restart_seconds,
        anonymous_mib_after_restart,
    })
}

async fn send(connection: &mut Connection, options: &TimersOptions) -> Result<()> {
    let first_due = unix_ms() + FIRST_DUE.as_millis() as i64;
    let templates: Vec<Template> = (0..SLOTS.min(options.count))
        .map(|slot| template(first_due + slot.cast_signed() * 1000, options.alone.size))
        .collect();
    let put = |out: &mut Vec<u8>, slot, number| {
        let template = &templates[(number % templates.len() as u64) as usize];
        template.put(out, slot, unix_ms(), number);
    };
    connection.fill("a timer", options.count, put).await
}

fn template(due_ms: i64, size: usize) -> Template {
    let due = (name::TIMER_DELIVER_MS, ByteString::from(due_ms.to_string()));
    let properties: Properties = [due].into_iter().collect();
    let header = SendMessage {
        queue_id: 0,
        properties: Some(properties.encode()),
        ..SendMessage::new("mq-bench".into(), "bench-timers".into())
    };
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(vec![b'x'; size]);
    header.encode_v2(&mut command.ext);
    Template::new(command)
}

/// Returns when every message is in the wheel.
async fn linked(connection: &mut Connection) -> Result<()> {
    let ask = Template::new(Command::request(request::GET_BROKER_RUNTIME_INFO));
    let deadline = Instant::now() + LINKED_WITHIN;
    loop {
        let (mut out, mut behind) = (Vec::new(), None);
        ask.put(&mut out, 0, 0, 0);
        connection.write(&out).await?;
        connection
            .answers(|answer| {
                ensure!(answer.code == 0, "the run-time figures are refused: {}", answer.refusal());
                let figures: KvTable = serde_json::from_slice(answer.body)?;
                behind = figures.table.get("timerOffsetBehind").cloned();
                Ok(())
            })
            .await?;
        if behind.context("the server does not say how far its timers are")? == "0" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the timers are not linked within {LINKED_WITHIN:?}");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn restart(directory: &Path, rest: f64) -> Result<(f64, f64)> {
    let began = Instant::now();
    let server = Server::broker_in("SYNC_FLUSH", directory).await?;
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs_f64(rest)).await;
    let anonymous = server.anonymous_mib()?;
    server.stop().await?;
    Ok((seconds, anonymous))
}

impl TimersReport {
    pub(super) fn finish(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if output == Output::Json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        writeln!(
            out,
            "{} timers: sent in {:.1} s, linked {:.1} s later; {:.1} MiB anonymous ({:.1} without), {:.2} % of a core \
             while nothing is due; ready {:.2} s after a restart, with {:.1} MiB",
            self.timers,
            self.send_seconds,
            self.link_seconds,
            self.anonymous_mib,
            self.anonymous_mib_before,
            self.idle_cpu_percent,
            self.restart_seconds,
            self.anonymous_mib_after_restart
        )?;
        Ok(())
    }
}
