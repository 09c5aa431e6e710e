//! `send` and `txn`: a closed loop, so many requests in flight on each connection. The rate is what the broker
//! acknowledged.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{EndTransaction, SendMessage};
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::sys_flag;

use super::connection::Connection;
use super::frames::{Answer, BORN, FIRST_OPAQUE, KEY, Template, batch_body};
use super::tally::Tally;
use super::target::Destination;
use super::unix_ms;

const GROUP: &str = "mq-bench";

#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) size: usize,
    pub(super) batch: u32,
    pub(super) in_flight: u32,
    /// Half messages that are ended; the part of them that is rolled back.
    pub(super) transactions: Option<f64>,
    /// More than one: topics of one queue each.
    pub(super) topics: u32,
}

/// One request place of a connection.
#[derive(Clone, Copy)]
struct Slot {
    began: Instant,
    ending: bool,
}

struct Producer {
    tally: Rc<Tally>,
    work: Work,
    topic: String,
    /// One for each queue.
    sends: Vec<Template>,
    slots: Vec<Slot>,
    number: u64,
    rolled_back: f64,
    flying: usize,
    born_ms: i64,
    out: Vec<u8>,
    /// The verdict that goes there next.
    ending: BytesMut,
}

/// Keeps its slots filled until the tally is over.
pub(super) async fn produce(to: Destination, work: Work, connection: usize, tally: Rc<Tally>) -> Result<()> {
    let mut socket = Connection::open(&to.address).await?;
    let mut producer = Producer::new(&to, work, connection, tally);
    for slot in 0..work.in_flight {
        producer.send(slot as usize);
    }
    let mut heard = false;
    while producer.flying > 0 {
        socket.write(&producer.out).await?;
        producer.out.clear();
        producer.born_ms = unix_ms();
        socket.answers(|answer| producer.answered(&answer)).await?;
        if !std::mem::replace(&mut heard, true) {
            producer.tally.heard();
        }
    }
    Ok(())
}

impl Producer {
    fn new(to: &Destination, work: Work, connection: usize, tally: Rc<Tally>) -> Self {
        let slot = Slot { began: Instant::now(), ending: false };
        Self {
            sends: send_templates(to, work, connection),
            topic: to.topic.clone(),
            slots: vec![slot; work.in_flight as usize],
            number: connection as u64,
            rolled_back: 0.0,
            flying: 0,
            born_ms: unix_ms(),
            out: Vec::with_capacity(1 << 18),
            ending: BytesMut::new(),
            work,
            tally,
        }
    }

    fn send(&mut self, slot: usize) {
        self.number += 1;
        let template = &self.sends[(self.number % self.sends.len() as u64) as usize];
        template.put(&mut self.out, slot as u32, self.born_ms, self.number);
        self.slots[slot] = Slot { began: Instant::now(), ending: false };
        self.flying += 1;
    }

    fn answered(&mut self, answer: &Answer<'_>) -> Result<()> {
        // Others are requests of the server, such as a checkback.
        let Some(slot) = answer.slot().filter(|slot| *slot < self.slots.len()) else { return Ok(()) };
        let Slot { began, ending } = self.slots[slot];
        if answer.code == 0 && !ending && self.work.transactions.is_some() {
            self.end(slot, answer)?;
            self.slots[slot].ending = true;
            return Ok(());
        }
        self.flying -= 1;
        let messages = u64::from(self.work.batch);
        if answer.code == 0 {
            self.tally.succeeded(began, messages, messages * self.work.size as u64);
        } else {
            self.tally.failed(|| answer.refusal());
        }
        if !self.tally.is_over() {
            self.send(slot);
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, half: &Answer<'_>) -> Result<()> {
        self.rolled_back += self.work.transactions.unwrap_or(0.0);
        let verdict = if self.rolled_back >= 1.0 {
            self.rolled_back -= 1.0;
            sys_flag::TRANSACTION_ROLLBACK
        } else {
            sys_flag::TRANSACTION_COMMIT
        };
        let id = half.field("msgId").unwrap_or_default();
        let log_offset = parse_offset_id(&id).map_or(LogOffset(0), |(_, offset)| offset);
        let transaction_id = half.field("transactionId").map(|id| id.as_ref().into());
        let header = EndTransaction {
            topic: Some(self.topic.as_str().into()),
            producer_group: GROUP.into(),
            tran_state_table_offset: QueueOffset(half.number("queueOffset")?),
            commit_log_offset: log_offset,
            commit_or_rollback: verdict,
            from_transaction_check: Some(false),
            msg_id: transaction_id.clone(),
            transaction_id,
            bname: None,
        };
        let request = Command { opaque: FIRST_OPAQUE + slot as i32, ..Command::request(request::END_TRANSACTION) };
        self.ending.clear();
        request.encode_with(&header, &mut self.ending);
        self.out.extend_from_slice(&self.ending);
        Ok(())
    }
}

/// One for each queue. Their keys are of this run and connection, apart from those of any other.
pub(super) fn send_templates(to: &Destination, work: Work, connection: usize) -> Vec<Template> {
    let run = (unix_ms() as u64) << 16 | connection as u64 & 0xFFFF;
    if work.topics == 1 {
        return (0..to.queues).map(|queue| send_template(&to.topic, queue, to.queues, work, run)).collect();
    }
    let topics = (0..work.topics).map(|number| format!("{}-{number}", to.topic));
    topics.map(|topic| send_template(&topic, 0, 1, work, run)).collect()
}

fn send_template(topic: &str, queue: u32, queues: u32, work: Work, run: u64) -> Template {
    let key = format!("UNIQ_KEY\u{1}{run:016X}{KEY}\u{2}");
    let wait = "WAIT\u{1}true\u{2}";
    let mut header = SendMessage::new(GROUP.into(), topic.into());
    header.default_topic_queue_nums = Some(queues as i32);
    header.queue_id = queue as i32;
    header.born_timestamp = UnixMillis(BORN);
    let (code, properties, body) = if work.transactions.is_some() {
        header.sys_flag = sys_flag::TRANSACTION_PREPARED;
        let half = format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}");
        (request::SEND_MESSAGE_V2, half + &key + wait, plain_body(work.size))
    } else if work.batch > 1 {
        header.batch = Some(true);
        let unit = format!("UNIQ_KEY\u{1}{run:032X}\u{2}{wait}");
        (request::SEND_BATCH_MESSAGE, key + wait, batch_body(work.batch, work.size, &unit))
    } else {
        (request::SEND_MESSAGE_V2, key + wait, plain_body(work.size))
    };
    header.properties = Some(properties.into());
    let mut command = Command::request(code).with_body(body);
    header.encode_v2(&mut command.ext);
    Template::new(command)
}

fn plain_body(size: usize) -> Bytes {
    vec![b'x'; size.max(1)].into()
}
