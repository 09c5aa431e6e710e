//! Between the store and the rest of the broker: what the store asks about records, and what it tells.
//!
//! The store calls from its own threads and from those that append: everything here is quick and never appends.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::{Arrival, Listener, Poisoned, RecordRules};
use tokio::sync::watch;
use tracing::error;

use crate::bell::Bell;
use crate::broker::Broker;
use crate::delay_levels::DelayLevels;
use crate::failure::Failure;
use crate::held::HeldPulls;
use crate::metrics::Instruments;
use crate::pop::Polls;
use crate::schedule;
use crate::stats::Stats;

/// What records mean to the broker.
pub(crate) struct Rules {
    levels: DelayLevels,
}

impl Rules {
    pub(crate) fn new(levels: DelayLevels) -> Self {
        Self { levels }
    }
}

impl RecordRules for Rules {
    fn tags_code(&self, message: &Message, store_timestamp: UnixMillis) -> i64 {
        schedule::tags_code(&self.levels, message, store_timestamp)
    }

    fn followers(&self, record: &StoredMessage) -> usize {
        txn_coordinator::followers(record)
    }
}

/// Carries the store's news to whoever waits for them. Holds nothing that holds the store, which would never end then.
pub(crate) struct Link {
    durable: watch::Sender<LogOffset>,
    failed: Arc<Failure>,
    held: Arc<HeldPulls>,
    polls: Arc<Polls>,
    revive_topic: ByteString,
    reviving: Arc<Bell>,
    schedule: Arc<Bell>,
    timers: Arc<Bell>,
    stats: Arc<Stats>,
    instruments: Arc<Instruments>,
}

impl Link {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self {
            durable: broker.durable.clone(),
            failed: broker.failed.clone(),
            held: broker.held.clone(),
            polls: broker.pops.polls.clone(),
            revive_topic: broker.pops.revive_topic().clone(),
            reviving: broker.pops.bell.clone(),
            schedule: broker.schedule_bell().clone(),
            timers: broker.timer_bell().clone(),
            stats: broker.stats.clone(),
            instruments: broker.instruments.clone(),
        }
    }
}

impl Listener for Link {
    fn durable(&self, up_to: LogOffset) {
        self.durable.send_replace(up_to);
    }

    fn synced(&self, took: Duration) {
        self.instruments.log_synced(took);
    }

    fn visible(&self, arrivals: &[Arrival]) {
        self.stats.arrived(arrivals);
        let (mut delayed, mut timed, mut popped) = (false, false, false);
        for arrival in arrivals {
            delayed |= arrival.topic == topic::SCHEDULE;
            timed |= arrival.topic == topic::TIMER;
            popped |= arrival.topic == self.revive_topic;
            self.polls.arrived(&arrival.topic, arrival.queue_id, arrival.tags_code);
        }
        self.held.arrived(arrivals);
        if delayed {
            self.schedule.ring();
        }
        if timed {
            self.timers.ring();
        }
        if popped {
            self.reviving.ring();
        }
    }

    fn failed(&self, error: &Poisoned) {
        error!(%error, "the broker stops");
        self.failed.set(error.clone());
    }
}
