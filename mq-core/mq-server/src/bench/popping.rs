//! `pop`: one reader for each queue that pops messages and acknowledges all of a pop at once, from the queue's first
//! message on. A message counts when its acknowledgement is answered.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mq_protocol::body::{self, BatchAck, BatchAcks, ConsumerData, HeartbeatData, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::PopMessage;
use mq_protocol::pop::{QueueShare, read_shares};

use super::connection::Connection;
use super::frames::{Answer, BORN, Template, count_records};
use super::pulling::Reading;
use super::tally::Tally;
use super::target::{Destination, request_of};
use super::unix_ms;

/// As long as Apache's clients ask for.
const INVISIBLE_MS: i64 = 60_000;

/// What a pop gave out.
struct Popped {
    shares: Vec<QueueShare>,
    revive_qid: u32,
    pop_time: i64,
    messages: u64,
    bytes: u64,
}

/// To begin again, it is another group.
pub(super) async fn pop_queue(to: Destination, queue: u32, reading: Reading, tally: Rc<Tally>) -> Result<()> {
    let mut connection = Connection::open(&to.address).await?;
    let run = unix_ms();
    let mut lap = 0;
    while !tally.is_over() {
        let group = format!("mq-bench-pop-{run:X}-{queue}-{lap}");
        let pop = PopMessage {
            queue_id: i32::try_from(queue)?,
            max_msg_nums: reading.batch,
            born_time: Some(BORN),
            exp_type: Some("TAG".into()),
            exp: Some("*".into()),
            order: Some(false),
            ..PopMessage::new(group.as_str().into(), to.topic.as_str().into(), INVISIBLE_MS)
        };
        let pop = request_of(request::POP_MESSAGE, &pop);
        let joined = |answer: Answer<'_>| {
            ensure!(answer.code == response::SUCCESS, "the heartbeat is refused: {}", answer.refusal());
            Ok(())
        };
        ask(&mut connection, &Template::new(heartbeat(&to.topic, &group)), joined).await?;
        let mut any = false;
        while !tally.is_over() {
            let began = Instant::now();
            let Some(popped) = ask(&mut connection, &pop, read).await? else { break };
            any = true;
            let acks = Template::new(acknowledgement(&to.topic, &group, &popped));
            let done = |answer: Answer<'_>| {
                ensure!(answer.code == response::SUCCESS, "an acknowledgement is refused: {}", answer.refusal());
                Ok(())
            };
            ask(&mut connection, &acks, done).await?;
            tally.succeeded(began, popped.messages, popped.bytes);
        }
        if !reading.repeat || !any {
            break;
        }
        lap += 1;
    }
    Ok(())
}

async fn ask<T>(
    connection: &mut Connection,
    request: &Template,
    mut read: impl FnMut(Answer<'_>) -> Result<T>,
) -> Result<T> {
    let mut out = Vec::new();
    request.put(&mut out, 0, unix_ms(), 0);
    connection.write(&out).await?;
    let mut found = None;
    while found.is_none() {
        connection
            .answers(|answer| {
                if answer.slot() == Some(0) {
                    found = Some(read(answer)?);
                }
                Ok(())
            })
            .await?;
    }
    found.context("the loop ends with an answer")
}

/// `None`: the queue has nothing for the group.
fn read(answer: Answer<'_>) -> Result<Option<Popped>> {
    match answer.code {
        response::SUCCESS => {}
        response::PULL_NOT_FOUND | response::POLLING_TIMEOUT | response::PULL_RETRY_IMMEDIATELY => return Ok(None),
        _ => anyhow::bail!("nothing can be popped: {}", answer.refusal()),
    }
    let (starts, offsets) = (answer.field("startOffsetInfo"), answer.field("msgOffsetInfo"));
    let shares = read_shares(&starts.unwrap_or_default(), &offsets.unwrap_or_default());
    Ok(Some(Popped {
        shares: shares.context("the answer does not say where its messages lie")?,
        revive_qid: answer.number("reviveQid")?,
        pop_time: answer.number("popTime")?,
        messages: count_records(answer.body),
        bytes: answer.body.len() as u64,
    }))
}

/// Makes the group known.
fn heartbeat(topic: &str, group: &str) -> Command {
    let consumer = ConsumerData {
        group_name: group.to_owned(),
        subscription_data_set: vec![Subscription::tags(topic, "*", 1)],
        ..ConsumerData::default()
    };
    let client_id = format!("127.0.0.1@{group}");
    let data = HeartbeatData { client_id, consumer_data_set: vec![consumer], ..HeartbeatData::default() };
    Command::request(request::HEART_BEAT).with_body(body::to_json(&data))
}

fn acknowledgement(topic: &str, group: &str, popped: &Popped) -> Command {
    let ack = |share: &QueueShare| BatchAck {
        consumer_group: group.to_owned(),
        topic: topic.to_owned(),
        retry: share.mark.to_string(),
        start_offset: share.start_offset,
        queue_id: share.queue_id,
        revive_qid: popped.revive_qid,
        pop_time: mq_protocol::ids::UnixMillis(popped.pop_time),
        invisible_time: INVISIBLE_MS,
        bits: share.offsets.iter().map(|offset| offset.0 - share.start_offset.0).collect(),
    };
    let acks = BatchAcks { broker_name: "broker-a".into(), acks: popped.shares.iter().map(ack).collect() };
    Command::request(request::BATCH_ACK_MESSAGE).with_body(body::to_json(&acks))
}
