//! What went through the broker: totals, rates and windows by topic, group and operator's name.
//!
//! Counting is an addition to an atomic that the caller holds or finds once for a batch. Rates come from samples that
//! one task takes by the broker's clock; whoever asks sees the present beside them.

mod meter;
mod named;
mod reader;
mod totals;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::{Arrival, Clock};
use parking_lot::{Mutex, RwLock};

use crate::histogram::{Distribution, Histogram, Scale};

pub(crate) use meter::{Counted, Meter};
pub(crate) use reader::Reader;
use totals::Totals;
pub(crate) use totals::{Amounts, Today};

/// Topics, and pairs of group and topic, that are counted each for itself. Others are part of the totals only.
const MAX_METERS: usize = 20_000;
/// As fine as the finest window.
const SAMPLE_METERS_EVERY: Duration = Duration::from_secs(10);

/// One per broker.
pub(crate) struct Stats {
    /// What the totals are called.
    cluster: String,
    totals: Totals,
    /// Messages that became readable, by topic.
    topics: RwLock<HashMap<String, Arc<TopicMeter>, RandomState>>,
    /// Messages that were handed out, by group and topic.
    readers: Pairs<Reader>,
    /// Messages that consumers sent back, by group and topic.
    sent_back: Pairs<Meter>,
    /// When the meters were sampled last.
    sampled: Mutex<UnixMillis>,
}

/// What became readable of a topic.
struct TopicMeter {
    meter: Meter,
    sizes: Histogram<6>,
}

/// Apache's bounds of a message's size.
static SIZES: Scale<6> = Scale { bounds: [1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20], per_unit: 1 };

struct Pairs<M>(RwLock<PairTable<M>>);

struct PairTable<M> {
    groups: HashMap<String, HashMap<String, Arc<M>>>,
    pairs: usize,
}

impl<M> Default for Pairs<M> {
    fn default() -> Self {
        Self(RwLock::new(PairTable { groups: HashMap::new(), pairs: 0 }))
    }
}

impl<M: From<Meter> + AsRef<Meter>> Pairs<M> {
    fn get(&self, group: &str, topic: &str) -> Option<Arc<M>> {
        self.0.read().groups.get(group)?.get(topic).cloned()
    }

    /// `None` when there are too many for one more.
    fn get_or_make(&self, group: &str, topic: &str, clock: &dyn Clock) -> Option<Arc<M>> {
        if let Some(known) = self.get(group, topic) {
            return Some(known);
        }
        let mut table = self.0.write();
        if table.pairs >= MAX_METERS {
            return None;
        }
        let PairTable { groups, pairs } = &mut *table;
        let make = || {
            *pairs += 1;
            Arc::new(Meter::new(clock.now()).into())
        };
        Some(groups.entry(group.to_owned()).or_default().entry(topic.to_owned()).or_insert_with(make).clone())
    }

    fn retain(&self, keep: impl Fn(&str, &str, &Meter) -> bool) {
        let mut table = self.0.write();
        table.groups.retain(|group, topics| {
            topics.retain(|topic, meter| keep(group, topic, (**meter).as_ref()));
            !topics.is_empty()
        });
        table.pairs = table.groups.values().map(HashMap::len).sum();
    }

    /// Takes the samples that are due. Readers of the table are kept out only when something is to go.
    fn sample(&self, now: UnixMillis) {
        let forgotten = |meter: &Arc<M>| {
            let meter: &Meter = (**meter).as_ref();
            meter.sample(now);
            meter.is_forgotten(now)
        };
        if self.0.read().groups.values().flat_map(HashMap::values).filter(|meter| forgotten(meter)).count() > 0 {
            self.retain(|_, _, meter| !meter.is_forgotten(now));
        }
    }
}

impl Stats {
    pub(crate) fn new(cluster: &str, now: UnixMillis) -> Self {
        Self {
            cluster: cluster.to_owned(),
            totals: Totals::new(now),
            topics: RwLock::default(),
            readers: Pairs::default(),
            sent_back: Pairs::default(),
            sampled: Mutex::new(now),
        }
    }

    /// Messages that became readable. Neighbours of one topic are counted together.
    pub(crate) fn arrived(&self, arrivals: &[Arrival]) {
        for run in arrivals.chunk_by(|one, next| one.topic == next.topic) {
            let (messages, bytes) = (run.len() as u64, run.iter().map(|arrival| u64::from(arrival.size)).sum());
            if let Some(topic) = self.topic(&run[0].topic, run[0].store_timestamp) {
                topic.meter.add(messages, messages, bytes);
                topic.sizes.add_all(run.iter().map(|arrival| arrival.size.into()));
            }
            if run[0].topic.starts_with(topic::DLQ_PREFIX) {
                self.totals.dead(messages);
            }
            if !is_internal(&run[0].topic) {
                self.totals.put.add(messages, messages, bytes);
            }
        }
    }

    fn topic(&self, topic: &str, now: UnixMillis) -> Option<Arc<TopicMeter>> {
        if let Some(known) = self.topics.read().get(topic) {
            return Some(known.clone());
        }
        let mut topics = self.topics.write();
        if topics.len() >= MAX_METERS {
            return None;
        }
        let make = || Arc::new(TopicMeter { meter: Meter::new(now), sizes: Histogram::new(&SIZES) });
        Some(topics.entry(topic.to_owned()).or_insert_with(make).clone())
    }

    /// Where a group's reads of a topic are counted.
    pub(crate) fn reader(&self, group: &str, topic: &str, clock: &dyn Clock) -> Option<Arc<Reader>> {
        self.readers.get_or_make(group, topic, clock)
    }

    /// How far a group's last pull of a queue came, since this start.
    pub(crate) fn pulled_to(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.readers.get(group, topic)?.pulled_to(queue)
    }

    /// One answer to a reader.
    pub(crate) fn gave(&self, reader: Option<&Reader>, messages: usize, bytes: usize) {
        if messages == 0 {
            return self.totals.missed();
        }
        self.totals.got.add(1, messages as u64, bytes as u64);
        if let Some(reader) = reader {
            reader.meter.add(1, messages as u64, bytes as u64);
        }
    }

    /// A message that a consumer could not use.
    pub(crate) fn sent_back(&self, group: &str, topic: &str, clock: &dyn Clock) {
        if let Some(meter) = self.sent_back.get_or_make(group, topic, clock) {
            meter.add(1, 1, 0);
        }
        self.totals.sent_back();
    }

    pub(crate) fn topic_put_tps(&self, topic: &str, now: UnixMillis) -> f64 {
        self.topics.read().get(topic).map_or(0.0, |topic| topic.meter.messages_in_minute(now).tps)
    }

    pub(crate) fn group_get_tps(&self, group: &str, topic: &str, now: UnixMillis) -> f64 {
        self.readers.get(group, topic).map_or(0.0, |reader| reader.meter.messages_in_minute(now).tps)
    }

    /// Messages that became readable, since their topic was first seen.
    pub(crate) fn by_topic(&self) -> Vec<(String, Counted, Distribution)> {
        let topics = self.topics.read();
        topics.iter().map(|(name, topic)| (name.clone(), topic.meter.counted(), topic.sizes.distribution())).collect()
    }

    /// Messages that began to wait for an arbitrary time.
    pub(crate) fn timers_linked(&self, messages: u64) {
        self.totals.timers_linked(messages);
    }

    /// Messages whose time came.
    pub(crate) fn timers_fired(&self, messages: u64) {
        self.totals.timers_fired(messages);
    }

    /// Reads by group and topic.
    pub(crate) fn by_reader(&self) -> Vec<(String, String, Counted)> {
        let table = self.readers.0.read();
        let rows = table.groups.iter().flat_map(|(group, topics)| {
            topics.iter().map(move |(topic, reader)| (group.clone(), topic.clone(), reader.meter.counted()))
        });
        rows.collect()
    }

    pub(crate) fn today(&self, now: UnixMillis) -> Today {
        self.sample(now);
        self.totals.today()
    }

    /// Amounts a second over the last 10 s, 60 s and 600 s, of what `amount` picks.
    pub(crate) fn rates(&self, now: UnixMillis, amount: impl Fn(&Amounts) -> u64) -> [f64; 3] {
        self.totals.rates(now, amount)
    }

    /// Takes the samples that are due.
    pub(crate) fn sample(&self, now: UnixMillis) {
        self.totals.sample(now);
        {
            let mut sampled = self.sampled.lock();
            if now.since(*sampled) < SAMPLE_METERS_EVERY {
                return;
            }
            *sampled = now;
        }
        // Readers of the tables are kept out only when something is to go.
        let forgotten = |topic: &Arc<TopicMeter>| {
            topic.meter.sample(now);
            topic.meter.is_forgotten(now)
        };
        if self.topics.read().values().filter(|topic| forgotten(topic)).count() > 0 {
            self.topics.write().retain(|_, topic| !topic.meter.is_forgotten(now));
        }
        self.readers.sample(now);
        self.sent_back.sample(now);
    }

    pub(crate) fn forget_topic(&self, topic: &str) {
        self.topics.write().remove(topic);
        self.readers.retain(|_, of, _| of != topic);
        self.sent_back.retain(|_, of, _| of != topic);
    }

    pub(crate) fn forget_group(&self, group: &str) {
        self.readers.retain(|of, _, _| of != group);
        self.sent_back.retain(|of, _, _| of != group);
    }
}

/// Topics that hold messages on their way: those are counted where they arrive.
pub(crate) fn is_internal(name: &str) -> bool {
    [topic::HALF, topic::OP_HALF, topic::SCHEDULE, topic::TIMER, topic::CHECK_MAX_TIME].contains(&name)
        || name.starts_with("rmq_sys_")
}

#[cfg(test)]
mod tests;
