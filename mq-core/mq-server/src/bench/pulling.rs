//! `pull`: one reader for each queue, one pull at a time, from the queue's first message to its last.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use mq_protocol::codes::{request, response};
use mq_protocol::header::PullMessage;
use mq_protocol::ids::QueueId;
use mq_protocol::sys_flag::pull;

use super::connection::Connection;
use super::frames::count_records;
use super::tally::Tally;
use super::target::{Destination, request_of};
use super::unix_ms;

const GROUP: &str = "mq-bench-reader";

#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) batch: i32,
    /// Begin again when the end is reached.
    pub(super) repeat: bool,
}

/// How a pull is asked for.
pub(super) fn pull_header(to: &Destination, queue: u32, from: u64, batch: i32, hold_ms: i64) -> PullMessage {
    PullMessage {
        max_msg_nums: batch,
        sys_flag: pull::SUBSCRIPTION | if hold_ms > 0 { pull::SUSPEND } else { 0 },
        suspend_timeout_millis: hold_ms,
        sub_version: unix_ms(),
        expression_type: Some("TAG".into()),
        ..PullMessage::new(GROUP.into(), to.topic.as_str().into(), QueueId(queue), from as i64)
    }
}

pub(super) async fn read_queue(to: Destination, queue: u32, reading: Reading, tally: Rc<Tally>) -> Result<()> {
    let mut connection = Connection::open(&to.address).await?;
    let (first, end) = to.bounds(&mut connection, queue).await?;
    let mut from = first;
    let mut out = Vec::new();
    while first < end && !tally.is_over() {
        out.clear();
        let header = pull_header(&to, queue, from, reading.batch, 0);
        request_of(request::PULL_MESSAGE, &header).put(&mut out, 0, 0, 0);
        let began = Instant::now();
        connection.write(&out).await?;
        connection
            .answers(|answer| {
                if answer.slot() != Some(0) {
                    return Ok(());
                }
                match answer.code {
                    response::SUCCESS => {
                        tally.succeeded(began, count_records(answer.body), answer.body.len() as u64);
                    }
                    response::PULL_NOT_FOUND => return Ok(()),
                    response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED => {}
                    _ => bail!("queue {queue} cannot be read: {}", answer.refusal()),
                }
                from = answer.number("nextBeginOffset")?;
                Ok(())
            })
            .await?;
        if from >= end && !reading.repeat {
            break;
        }
        if from >= end {
            from = first;
        }
    }
    Ok(())
}
