//! `latency`: sends leave by the clock, not by the answers, and each is stamped with the moment at which it was *due*. A
//! stall of the broker or of this generator therefore counts for every message that it delayed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::SendMessage;
use mq_protocol::ids::UnixMillis;
use mq_protocol::record;

use super::connection::Connection;
use super::frames::{Answer, BORN, KEY, Template};
use super::pacing::{Pace, STAMP_BYTES, Stamped};
use super::pulling::pull_header;
use super::tally::Tally;
use super::target::{Destination, request_of};
use super::unix_ms;

const HOLD_MS: i64 = 15_000;
const BATCH: i32 = 32;

/// What sender and readers share.
pub(super) struct Clock {
    run: u64,
    pace: Arc<Pace>,
    received: Cell<u64>,
    refused: Cell<u64>,
    /// When measuring began, in microseconds since the start.
    measured_from: Cell<u64>,
    acknowledged: RefCell<hdrhistogram::Histogram<u64>>,
}

impl Clock {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            run: unix_ms() as u64 ^ u64::from(std::process::id()) << 44,
            pace: Arc::new(Pace::new(rate)),
            received: Cell::new(0),
            refused: Cell::new(0),
            measured_from: Cell::new(u64::MAX),
            acknowledged: RefCell::new(super::tally::histogram()),
        }
    }

    pub(super) fn measure_from_now(&self) {
        self.measured_from.set(self.pace.now_us());
    }

    pub(super) fn stop_sending(&self) {
        self.pace.stop();
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.pace.sent().saturating_sub(self.received.get() + self.refused.get())
    }

    /// From due to acknowledged.
    pub(super) fn acknowledged(&self) -> hdrhistogram::Histogram<u64> {
        self.acknowledged.borrow().clone()
    }

    fn is_measured(&self, due_us: u64) -> bool {
        due_us >= self.measured_from.get()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop_sending();
    }
}

/// Lets a thread of its own send at the rate, and notes how late the answers come.
pub(super) async fn send_by_the_clock(to: Destination, size: usize, clock: Rc<Clock>, tally: Rc<Tally>) -> Result<()> {
    let mut connection = Connection::open(&to.address).await?;
    let templates = (0..to.queues).map(|queue| template(&to, queue, size, clock.run)).collect();
    let (socket, pace) = (connection.second_handle()?, clock.pace.clone());
    let mut sending = tokio::task::spawn_blocking(move || pace.send(&socket, &Stamped { templates, size }));
    let answered = Cell::new(0);
    let mut each = |answer: Answer<'_>| {
        // Answers may overtake each other by a few; which one it is does not matter to their distribution.
        let due_us = clock.pace.due_us(answered.replace(answered.get() + 1));
        if answer.code != response::SUCCESS {
            clock.refused.set(clock.refused.get() + 1);
            tally.failed(|| answer.refusal());
        } else if clock.is_measured(due_us) {
            clock.acknowledged.borrow_mut().saturating_record(clock.pace.now_us().saturating_sub(due_us));
        }
        Ok(())
    };
    loop {
        tokio::select! {
            sent = &mut sending => break sent.context("the sender panicked")??,
            answers = connection.answers(&mut each) => answers?,
        }
    }
    while answered.get() < clock.pace.sent() {
        connection.answers(&mut each).await?;
    }
    Ok(())
}

fn template(to: &Destination, queue: u32, size: usize, run: u64) -> Template {
    let mut header = SendMessage::new("mq-bench".into(), to.topic.as_str().into());
    header.default_topic_queue_nums = Some(to.queues as i32);
    header.queue_id = queue as i32;
    header.born_timestamp = UnixMillis(BORN);
    header.properties = Some(format!("UNIQ_KEY\u{1}{run:016X}{KEY}\u{2}WAIT\u{1}true\u{2}").into());
    let mut body = run.to_be_bytes().to_vec();
    body.resize(size.max(STAMP_BYTES), b'x');
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(body);
    header.encode_v2(&mut command.ext);
    Template::new(command)
}

/// Long-polls a queue from its end and notes how late each message of this run is.
pub(super) async fn listen(to: Destination, queue: u32, from: u64, clock: Rc<Clock>, tally: Rc<Tally>) -> Result<()> {
    let mut connection = Connection::open(&to.address).await?;
    let mut from = from;
    let mut out = Vec::new();
    loop {
        out.clear();
        let header = pull_header(&to, queue, from, BATCH, HOLD_MS);
        request_of(request::PULL_MESSAGE, &header).put(&mut out, 0, 0, 0);
        connection.write(&out).await?;
        let mut answered = false;
        while !answered {
            connection
                .answers(|answer| {
                    if answer.slot() != Some(0) {
                        return Ok(());
                    }
                    answered = true;
                    let Ok(next) = answer.number("nextBeginOffset") else {
                        bail!("queue {queue} cannot be read: {}", answer.refusal());
                    };
                    from = next;
                    if answer.code == response::SUCCESS {
                        arrived(answer.body, &clock, &tally)?;
                    }
                    Ok(())
                })
                .await?;
        }
    }
}

fn arrived(body: &[u8], clock: &Clock, tally: &Tally) -> Result<()> {
    let now_us = clock.pace.now_us();
    for stored in record::decode_all(&Bytes::copy_from_slice(body))? {
        let body = &stored.message.body;
        let Some(([run, due], _)) = body.as_chunks::<8>().0.split_first_chunk::<2>() else { continue };
        if u64::from_be_bytes(*run) != clock.run {
            continue;
        }
        clock.received.set(clock.received.get() + 1);
        let due_us = u64::from_be_bytes(*due);
        if clock.is_measured(due_us) {
            tally.succeeded_in(Duration::from_micros(now_us.saturating_sub(due_us)), 1, body.len() as u64);
        }
    }
    Ok(())
}
