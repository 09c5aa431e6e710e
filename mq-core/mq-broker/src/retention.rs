//! When the oldest messages go: by age at certain hours, by age at any hour on a disk that fills, and in the end by
//! need. Decides in [`decide`]; the store removes.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::backend::Usage;
use mq_store::{DiskError, OldestSegment, ReadError, Store};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use txn_coordinator::Subject;

use crate::broker::Broker;
use crate::config::BrokerConfig;

/// Given-up half messages that go with one file and are named.
const MAX_NAMED: usize = 1_000;
/// Files of one round, so that a changed setting is heeded soon.
const MAX_REMOVED: usize = 10;

/// Hours of the day at which what is old enough goes (`deleteWhen`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours(u32);

impl Hours {
    /// `04`, or several with semicolons between.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hour = |text: &str| text.trim().parse::<u32>().ok().filter(|hour| *hour < 24);
        let hours = text.split(';').map(hour).try_fold(0, |hours, hour| Some(hours | 1 << hour?))?;
        Some(Self(hours))
    }

    fn has(self, hour: u32) -> bool {
        self.0 & 1 << hour != 0
    }
}

impl std::fmt::Display for Hours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hours: Vec<_> = (0..24).filter(|hour| self.has(*hour)).map(|hour| format!("{hour:02}")).collect();
        f.write_str(&hours.join(";"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rules {
    reserved: Duration,
    hours: Hours,
    /// Beyond this use of the disk what is old enough goes at any hour.
    max_used_percent: u8,
    /// With less free than this and one more segment, what is not old enough goes too, if it may.
    min_free_bytes: u64,
    segment_bytes: u64,
    forcibly: bool,
}

impl Rules {
    fn of(config: &BrokerConfig) -> Self {
        Self {
            reserved: config.file_reserved_time,
            hours: config.delete_hours,
            max_used_percent: config.max_used_disk_percent,
            min_free_bytes: config.min_free_disk_bytes,
            segment_bytes: config.commit_log_segment_bytes,
            forcibly: config.clean_forcibly,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    now: UnixMillis,
    /// Of the day, local time.
    hour: u32,
    usage: Usage,
    /// An operator asked for it: any hour will do.
    asked: bool,
    /// Messages from here on are still to be delivered, or their transaction has no outcome.
    needed_from: LogOffset,
    /// Given-up half messages from here on wait for an operator: they stay while there is room.
    waiting_from: LogOffset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    /// It should go and may not.
    Needed,
    /// Older than what is kept.
    Expired,
    /// Younger than that, but the disk is nearly full.
    Forced,
}

fn decide(rules: &Rules, seen: &Seen, segment: OldestSegment) -> Decision {
    let expired = segment.closed_at.plus(rules.reserved) <= seen.now;
    let Usage { used_bytes, limit_bytes } = seen.usage;
    let fills = u128::from(used_bytes) * 100 > u128::from(limit_bytes) * u128::from(rules.max_used_percent);
    let free = limit_bytes.saturating_sub(used_bytes);
    let forced = rules.forcibly && free < rules.min_free_bytes.saturating_add(rules.segment_bytes);
    let reason = if expired && (rules.hours.has(seen.hour) || seen.asked || fills) {
        Decision::Expired
    } else if forced {
        Decision::Forced
    } else {
        return Decision::Keep;
    };
    let kept_from = if forced { seen.needed_from } else { seen.needed_from.min(seen.waiting_from) };
    if segment.end > kept_from { Decision::Needed } else { reason }
}

pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut round = interval(broker.config.clean_interval.max(Duration::from_millis(10)));
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = round.tick() => {}
            () = stop.cancelled() => return,
        }
        let broker = broker.clone();
        let cleaned = tokio::task::spawn_blocking(move || clean(&broker, false)).await;
        if let Ok(Err(error)) = cleaned {
            error!(%error, "old messages could not be removed; trying again");
        }
    }
}

/// Removes what should go now, oldest first; says how many files of the log.
pub(crate) fn clean(broker: &Broker, asked: bool) -> Result<usize, ReadError> {
    let mut warned = broker.cleaning.lock();
    let rules = Rules::of(&broker.live());
    let mut removed = 0;
    let stopped = loop {
        if removed == MAX_REMOVED {
            break Ok(());
        }
        let Some(segment) = broker.store.oldest_segment()? else { break Ok(()) };
        let seen = look(broker, asked)?;
        let until = segment.closed_at;
        match decide(&rules, &seen, segment) {
            Decision::Keep => break Ok(()),
            Decision::Needed => {
                if warned.replace(segment.base) != Some(segment.base) {
                    let Seen { needed_from, waiting_from, .. } = seen;
                    warn!(
                        file = %segment.base, %needed_from, %waiting_from,
                        "a file of the log stays although its time is over: it has messages that are still to be \
                         delivered, half messages without an outcome or given up (`mq admin txn list --parked`), or \
                         pops that are under way"
                    );
                }
                break Ok(());
            }
            Decision::Expired => {
                info!(file = %segment.base, %until, "messages older than fileReservedTime are removed")
            }
            Decision::Forced => warn!(
                file = %segment.base, %until, usage = ?seen.usage,
                "the disk is nearly full: messages younger than fileReservedTime are removed (minFreeDiskBytes, \
                 cleanFileForciblyEnable)"
            ),
        }
        if segment.end > seen.waiting_from {
            name_the_lost(broker, segment.end)?;
        }
        if let Err(error) = broker.store.remove_segment(segment) {
            break Err(error);
        }
        removed += 1;
    };
    if removed > 0 {
        broker.store.sweep()?;
    }
    stopped?;
    Ok(removed)
}

fn look(broker: &Broker, asked: bool) -> Result<Seen, ReadError> {
    let (now, usage, needed_from) = (broker.clock.now(), broker.store.disk_usage()?, needed_from(broker)?);
    let waiting_from = match broker.transactions.first_waiting_copy() {
        Some(copy) => first_at(&broker.store, topic::CHECK_MAX_TIME, QueueId(0), copy)?,
        None => None,
    };
    let waiting_from = waiting_from.unwrap_or(LogOffset(u64::MAX));
    Ok(Seen { now, hour: local_hour(now), usage, asked, needed_from, waiting_from })
}

/// Transactions that nobody has decided, and nobody can any more.
fn name_the_lost(broker: &Broker, end: LogOffset) -> Result<(), ReadError> {
    for lost in broker.transactions.waiting_copies(end, MAX_NAMED)? {
        let Subject { group, transaction_id, topic, keys, .. } = lost.subject;
        error!(
            copy = %lost.copy, group, transaction = transaction_id, topic, keys,
            "a given-up half message that nobody resumed or resolved is removed: the disk is nearly full"
        );
    }
    Ok(())
}

/// The first message of the log that something in this broker still has to come back to.
fn needed_from(broker: &Broker) -> Result<LogOffset, ReadError> {
    let half = broker.transactions.first_pending().map(|half| (topic::HALF, QueueId(0), half));
    let delayed = broker.delivered.waiting(&broker.delay_levels);
    let delayed = delayed.into_iter().map(|(queue, offset)| (topic::SCHEDULE, queue, offset));
    let pops = topic::revive_topic(&broker.config.cluster_name);
    let popped = broker.offsets.of(topic::REVIVE_GROUP, &pops);
    let popped = popped.into_iter().map(|(queue, done)| (&*pops, queue, done.plus(1)));
    let timed = match broker.timers() {
        Ok(timers) => timers.needed_from(&broker.store)?,
        Err(_) => broker.first_resting_timer(),
    };
    let mut first = timed.unwrap_or(LogOffset(u64::MAX));
    for (topic, queue, offset) in half.into_iter().chain(delayed).chain(popped) {
        first = first.min(first_at(&broker.store, topic, queue, offset)?.unwrap_or(first));
    }
    Ok(first)
}

/// Where the first message of a queue from `offset` on lies, although those right behind it may be gone already.
pub(crate) fn first_at(
    store: &Store,
    topic: &str,
    queue: QueueId,
    offset: QueueOffset,
) -> Result<Option<LogOffset>, ReadError> {
    let first = offset.max(store.queue_bounds(topic, queue).min);
    Ok(store.entry(topic, queue, first)?.map(|entry| entry.log_offset))
}

/// Forgets the messages of topics that nobody configured any more; says of how many.
pub(crate) fn forget_unused_topics(broker: &Broker) -> Result<usize, DiskError> {
    let is_used = |name: &str| crate::topics::is_system(name) || broker.topics.get(name).is_some();
    let unused: Vec<_> = broker.store.topics().into_iter().filter(|name| !is_used(name)).collect();
    for name in &unused {
        warn!(topic = %name, "the messages of a topic that does not exist any more are removed");
        broker.offsets.forget_topic(name);
        broker.store.delete_topic(name)?;
    }
    Ok(unused.len())
}

fn local_hour(now: UnixMillis) -> u32 {
    let time = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    time.hour().unsigned_abs().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        reserved: Duration::from_secs(3600),
        hours: Hours(1 << 4),
        max_used_percent: 75,
        min_free_bytes: 10,
        segment_bytes: 10,
        forcibly: true,
    };
    const SEEN: Seen = Seen {
        now: UnixMillis(7_200_000),
        hour: 3,
        usage: Usage { used_bytes: 50, limit_bytes: 100 },
        asked: false,
        needed_from: LogOffset(u64::MAX),
        waiting_from: LogOffset(u64::MAX),
    };

    #[test]
    fn what_goes_and_what_stays() {
        let usage = |used_bytes| Usage { used_bytes, limit_bytes: 100 };
        let old = UnixMillis(3_600_000);
        let young = UnixMillis(3_600_001);
        for (what, rules, seen, closed_at, decision) in [
            ("old, another hour", RULES, SEEN, old, Decision::Keep),
            ("old, its hour", RULES, Seen { hour: 4, ..SEEN }, old, Decision::Expired),
            ("young, its hour", RULES, Seen { hour: 4, ..SEEN }, young, Decision::Keep),
            ("old, asked for", RULES, Seen { asked: true, ..SEEN }, old, Decision::Expired),
            ("young, asked for", RULES, Seen { asked: true, ..SEEN }, young, Decision::Keep),
            ("old, just at the ratio", RULES, Seen { usage: usage(75), ..SEEN }, old, Decision::Keep),
            ("old, over the ratio", RULES, Seen { usage: usage(76), ..SEEN }, old, Decision::Expired),
            ("young, over the ratio", RULES, Seen { usage: usage(80), ..SEEN }, young, Decision::Keep),
            ("young, no room", RULES, Seen { usage: usage(81), ..SEEN }, young, Decision::Forced),
            (
                "young, no room, not to be forced",
                Rules { forcibly: false, ..RULES },
                Seen { usage: usage(99), ..SEEN },
                young,
                Decision::Keep,
            ),
            ("old and needed", RULES, Seen { hour: 4, needed_from: LogOffset(99), ..SEEN }, old, Decision::Needed),
            (
                "old, needed from its end on",
                RULES,
                Seen { hour: 4, needed_from: LogOffset(100), ..SEEN },
                old,
                Decision::Expired,
            ),
            (
                "old, and an operator has yet to look",
                RULES,
                Seen { hour: 4, usage: usage(80), waiting_from: LogOffset(99), ..SEEN },
                old,
                Decision::Needed,
            ),
            (
                "no room, and an operator has yet to look",
                RULES,
                Seen { usage: usage(81), waiting_from: LogOffset(99), ..SEEN },
                young,
                Decision::Forced,
            ),
            (
                "old, no room, and an operator has yet to look",
                RULES,
                Seen { usage: usage(81), waiting_from: LogOffset(99), ..SEEN },
                old,
                Decision::Expired,
            ),
            (
                "no room and needed",
                RULES,
                Seen { usage: usage(99), needed_from: LogOffset(0), ..SEEN },
                young,
                Decision::Needed,
            ),
        ] {
            let segment = OldestSegment { base: LogOffset(0), end: LogOffset(100), closed_at };
            assert_eq!(decide(&rules, &seen, segment), decision, "{what}");
        }
    }

    #[test]
    fn hours_are_read_as_apache_writes_them() {
        for (text, shown) in [("04", Some("04")), ("4", Some("04")), ("04;16", Some("04;16")), ("24", None), ("", None)]
        {
            assert_eq!(Hours::parse(text).map(|hours| hours.to_string()).as_deref(), shown, "{text}");
        }
    }
}
