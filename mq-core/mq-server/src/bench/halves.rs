//! `halves`: half messages that nobody ends: what they cost the server, and how a start after `kill -9` copes with them.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::BytesMut;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{EndTransaction, SendMessage};
use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::properties::{Properties, name};
use mq_protocol::sys_flag::TRANSACTION_NONE;
use serde::Serialize;

use super::connection::Connection;
use super::frames::{Answer, KEY, Template};
use super::options::HalvesOptions;
use super::server::{Server, scratch};
use super::unix_ms;
use crate::output::Output;

const GROUP: &str = "bench-halves";
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
pub(super) struct HalvesReport {
    halves: u64,
    send_seconds: f64,
    anonymous_mib_before: f64,
    anonymous_mib: f64,
    cpu_percent: f64,
    after_kill: AfterKill,
}

#[derive(Debug, Serialize)]
struct AfterKill {
    first_acknowledgement_seconds: f64,
    first_check_seconds: Option<f64>,
    checks: u64,
    checks_within_seconds: f64,
    anonymous_mib: f64,
}

pub(super) async fn halves(options: &HalvesOptions) -> Result<HalvesReport> {
    let directory = scratch("mq-bench-halves-", &options.alone.dir)?;
    let server = Server::broker_in("SYNC_FLUSH", directory.path()).await?;
    let anonymous_mib_before = server.anonymous_mib()?;
    let mut connection = Connection::open(server.address()).await?;
    let began = Instant::now();
    let template = half(options);
    let put = |out: &mut Vec<u8>, slot, number| template.put(out, slot, unix_ms(), number);
    connection.fill("a half message", options.count, put).await?;
    let send_seconds = began.elapsed().as_secs_f64();
    // Its verdicts are saved every ten seconds: a start goes by what was saved last.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let cpu_percent = server.cpu_percent(options.alone.rest).await?;
    let with_halves = server.anonymous_mib()?;
    drop(connection);
    server.kill().await?;
    let after_kill = restart(directory.path(), options).await?;
    let halves = options.count;
    Ok(HalvesReport { halves, send_seconds, anonymous_mib_before, anonymous_mib: with_halves, cpu_percent, after_kill })
}

fn half(options: &HalvesOptions) -> Template {
    let immunity = options.immunity.to_string();
    let key = format!("7F00000100001F90{KEY}");
    let properties: Properties = [
        (name::TRANSACTION_PREPARED, "true"),
        (name::PRODUCER_GROUP, GROUP),
        (name::UNIQ_KEY, key.as_str()),
        (name::CHECK_IMMUNITY_SECONDS, immunity.as_str()),
    ]
    .into_iter()
    .filter(|(name, _)| options.immunity > 0 || *name != name::CHECK_IMMUNITY_SECONDS)
    .collect();
    let header = SendMessage {
        queue_id: 0,
        properties: Some(properties.encode()),
        ..SendMessage::new(GROUP.into(), "bench-halves".into())
    };
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(vec![b'x'; options.alone.size]);
    header.encode_v2(&mut command.ext);
    Template::new(command)
}

/// A producer of the group is there at once, and asks for a send to be acknowledged.
async fn restart(directory: &Path, options: &HalvesOptions) -> Result<AfterKill> {
    let began = Instant::now();
    let server = Server::broker_in("SYNC_FLUSH", directory).await?;
    let mut connection = Connection::open(server.address()).await?;
    let heartbeat = format!(
        r#"{{"clientID":"127.0.0.1@bench","consumerDataSet":[],"producerDataSet":[{{"groupName":"{GROUP}"}}]}}"#
    );
    let heartbeat = Template::new(Command::request(request::HEART_BEAT).with_body(heartbeat.into_bytes()));
    let mut plain = Command::request(request::SEND_MESSAGE_V2).with_body(vec![b'x'; options.alone.size]);
    SendMessage { queue_id: 0, ..SendMessage::new(GROUP.into(), "bench-halves".into()) }.encode_v2(&mut plain.ext);
    let mut out = Vec::new();
    heartbeat.put(&mut out, 0, 0, 0);
    Template::new(plain).put(&mut out, 1, unix_ms(), 0);
    let (mut acknowledged, mut first_check, mut checks, mut unknown) = (None, None, 0, BytesMut::new());
    while began.elapsed().as_secs_f64() < options.alone.rest || acknowledged.is_none() {
        connection
            .exchange(&mut out, PAUSE, |answer| {
                let elapsed = began.elapsed().as_secs_f64();
                if answer.code == request::CHECK_TRANSACTION_STATE {
                    checks += 1;
                    first_check.get_or_insert(elapsed);
                    does_not_know(&answer)?.encode(&mut unknown);
                } else if answer.slot() == Some(1) {
                    ensure!(answer.code == 0, "the send is refused: {}", answer.refusal());
                    acknowledged.get_or_insert(elapsed);
                }
                Ok(())
            })
            .await?;
        out.extend_from_slice(&unknown.split());
    }
    let checks_within_seconds = began.elapsed().as_secs_f64();
    let anonymous_mib = server.anonymous_mib()?;
    drop(connection);
    server.stop().await?;
    Ok(AfterKill {
        first_acknowledgement_seconds: acknowledged.expect("the loop waits for it"),
        first_check_seconds: first_check,
        checks,
        checks_within_seconds,
        anonymous_mib,
    })
}

/// A producer that does not answer is not asked much more.
fn does_not_know(check: &Answer<'_>) -> Result<Command> {
    let header = EndTransaction {
        topic: None,
        producer_group: GROUP.into(),
        tran_state_table_offset: QueueOffset(check.number("tranStateTableOffset")?),
        commit_log_offset: LogOffset(check.number("commitLogOffset")?),
        commit_or_rollback: TRANSACTION_NONE,
        from_transaction_check: Some(true),
        msg_id: None,
        transaction_id: None,
        bname: None,
    };
    Ok(Command::request_with(request::END_TRANSACTION, &header).oneway())
}

impl HalvesReport {
    pub(super) fn finish(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if output == Output::Json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        let Self { halves, send_seconds, anonymous_mib_before, anonymous_mib, cpu_percent, after_kill } = self;
        let AfterKill { first_acknowledgement_seconds, first_check_seconds, checks, checks_within_seconds, .. } =
            after_kill;
        let first_check = first_check_seconds.map_or("none was due".into(), |seconds| format!("{seconds:.2} s"));
        writeln!(
            out,
            "{halves} pending halves: sent in {send_seconds:.1} s; {anonymous_mib:.1} MiB anonymous \
             ({anonymous_mib_before:.1} without), {cpu_percent:.1} % of a core; after kill -9 the first send is acknowledged \
             {first_acknowledgement_seconds:.2} s after the start, the first check comes after {first_check}, {checks} checks \
             within {checks_within_seconds:.1} s, with {:.1} MiB",
            after_kill.anonymous_mib
        )?;
        Ok(())
    }
}
