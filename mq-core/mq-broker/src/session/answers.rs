//! What a session owes its peer: answers that wait for the disk, answers that can be written, and how they are counted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::command::Command;
use mq_protocol::ids::LogOffset;
use tokio::net::TcpStream;
use tokio::time::Instant;
use txn_coordinator::StoredHalf;

use crate::limits;
use crate::metrics::{Call, Instruments, Tally};
use crate::output::{Encode, Output};
use crate::waiting::{Released, Waiting};

pub(super) struct Answers {
    waiting: Waiting,
    output: Output,
    instruments: Arc<Instruments>,
    /// Of `waiting`, as the instruments know it.
    told: usize,
    /// What was answered in this turn; `None` where nobody reads metrics.
    tally: Option<Tally>,
}

impl Answers {
    pub(super) fn new(instruments: Arc<Instruments>, metered: bool) -> Self {
        let (waiting, output, tally) = (Waiting::default(), Output::default(), metered.then(Tally::default));
        Self { waiting, output, instruments, told: 0, tally }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.output.is_empty()
    }

    pub(super) fn wait_for_disk(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn wait_for_peer(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes that the peer has yet to take.
    pub(super) fn unsent(&self) -> usize {
        self.output.bytes()
    }

    /// For more bytes.
    pub(super) fn have_room(&self) -> bool {
        self.waiting.bytes() + self.output.bytes() < limits::MAX_UNSENT_BYTES
    }

    /// For the answer to one more request.
    pub(super) fn have_place(&self) -> bool {
        self.waiting.requests() < limits::MAX_WAITING_REQUESTS && self.have_room()
    }

    /// How long the oldest of them waits for the disk.
    pub(super) fn longest_wait(&self, now: Instant) -> Duration {
        self.waiting.longest(now)
    }

    /// Counts a request that came at `since` as answered now; `None`: it is counted already, or nobody asks.
    pub(super) fn count(&mut self, call: Option<Call>, since: Instant) {
        if let (Some(tally), Some(call)) = (&mut self.tally, call) {
            tally.count(call, since, 1);
        }
    }

    pub(super) fn put(&mut self, answer: &impl Encode) {
        self.output.push(answer);
    }

    /// An answer whose body is not copied.
    pub(super) fn put_slices(&mut self, head: &Command, slices: Vec<Bytes>, bytes: usize) {
        self.output.push_slices(head, slices, bytes);
    }

    /// Keeps the answer, if any, until the log is durable up to `at`; it is counted then.
    pub(super) fn put_when_durable(
        &mut self,
        at: LogOffset,
        now: Instant,
        call: Option<Call>,
        answer: Option<&dyn Encode>,
        half: Option<StoredHalf>,
    ) {
        self.waiting.push(at, now, call, answer, half);
    }

    /// Moves the answers that became true to the output.
    pub(super) fn release(&mut self, durable: LogOffset, mut learn: impl FnMut(Vec<StoredHalf>)) {
        while let Some(Released { encoded, halves, calls, since }) = self.waiting.take_one(durable) {
            learn(halves);
            self.output.push_encoded(encoded);
            if let Some(tally) = &mut self.tally {
                calls.into_iter().for_each(|(call, times)| tally.count(call, since, times));
            }
        }
    }

    /// Once a turn, with one look at the clock for all that was answered.
    pub(super) fn tell_instruments(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.settle(&self.instruments.rpc);
        }
        let waiting = self.waiting.requests();
        if waiting != self.told {
            self.instruments.waiting_changed(self.told, waiting);
            self.told = waiting;
        }
    }

    /// Writes until all is out or the socket takes no more.
    pub(super) fn write_to(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.output.write_to(socket)
    }

    /// What is left to learn when nobody waits for the answers any more.
    pub(super) fn take_halves(&mut self) -> Vec<(LogOffset, StoredHalf)> {
        self.waiting.take_halves()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.instruments.waiting_changed(self.told, 0);
    }
}
