//! What was done while it was being measured. One thread, so plain cells.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;

/// Longest time that is told apart.
const MAX_MICROS: u64 = 60_000_000;

pub(super) struct Tally {
    measuring: Cell<bool>,
    over: Cell<bool>,
    limit: u64,
    done: Cell<u64>,
    bytes: Cell<u64>,
    failed: Cell<u64>,
    first_error: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
    reached: Notify,
    /// Connections that have had no answer yet.
    unheard: Cell<usize>,
    all_heard: Notify,
}

impl Tally {
    pub(super) fn new(count: Option<u64>) -> Self {
        Self {
            measuring: Cell::new(false),
            over: Cell::new(false),
            limit: count.unwrap_or(u64::MAX),
            done: Cell::new(0),
            bytes: Cell::new(0),
            failed: Cell::new(0),
            first_error: RefCell::new(None),
            latency: RefCell::new(histogram()),
            reached: Notify::new(),
            unheard: Cell::new(0),
            all_heard: Notify::new(),
        }
    }

    /// So many connections are about to be opened.
    pub(super) fn expect(&self, connections: usize) {
        self.unheard.set(connections);
    }

    /// A connection had its first answer.
    pub(super) fn heard(&self) {
        self.unheard.set(self.unheard.get().saturating_sub(1));
        if self.unheard.get() == 0 {
            self.all_heard.notify_one();
        }
    }

    pub(super) fn unheard(&self) -> usize {
        self.unheard.get()
    }

    pub(super) async fn all_heard(&self) {
        while self.unheard() > 0 {
            self.all_heard.notified().await;
        }
    }

    pub(super) fn begin(&self) {
        self.measuring.set(true);
    }

    pub(super) fn end(&self) {
        self.measuring.set(false);
        self.over.set(true);
    }

    /// No new requests.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(super) async fn count_reached(&self) {
        self.reached.notified().await;
    }

    /// A request with so many messages and body bytes went well.
    pub(super) fn succeeded(&self, began: Instant, messages: u64, bytes: u64) {
        self.succeeded_in(began.elapsed(), messages, bytes);
    }

    pub(super) fn succeeded_in(&self, took: Duration, messages: u64, bytes: u64) {
        if !self.measuring.get() {
            return;
        }
        self.latency.borrow_mut().saturating_record(took.as_micros() as u64);
        self.done.set(self.done.get() + messages);
        self.bytes.set(self.bytes.get() + bytes);
        if self.done.get() >= self.limit {
            self.over.set(true);
            self.reached.notify_one();
        }
    }

    pub(super) fn failed(&self, why: impl FnOnce() -> String) {
        self.failed.set(self.failed.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(why);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.get()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// How many failed, and why the first did.
    pub(super) fn failures(&self) -> (u64, Option<String>) {
        (self.failed.get(), self.first_error.borrow().clone())
    }

    pub(super) fn latency(&self) -> Histogram<u64> {
        self.latency.borrow().clone()
    }
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("the bounds are valid")
}
