//! How the broker is doing: the table of GET_BROKER_RUNTIME_INFO (28) under Apache's names, and single statistics by name
//! (315). All values are texts.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_protocol::body::{KvTable, to_json};
use mq_protocol::codes::response;
use mq_protocol::command::{Command, OUR_VERSION};
use mq_protocol::header::ViewBrokerStats;
use mq_protocol::ids::LogOffset;
use mq_protocol::topic;
use mq_store::ReadError;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::delay_levels::queue_of;
use crate::disk_space::DiskSpace;
use crate::limits::{MAX_BLOCKING_PER_CONNECTION, MAX_HELD_PULLS, MAX_WAITING_REQUESTS};
use crate::schedule_progress;
use crate::stats::Amounts;
use crate::timers::{self, TimersBehind};

/// The version of RocketMQ that [`OUR_VERSION`] stands for, and ours.
const VERSION: &str = concat!("V5_3_3-checkback-", env!("CARGO_PKG_VERSION"));

type Table = BTreeMap<String, String>;

/// Code 28. Looks at the disk, so it runs on the blocking lane.
pub(crate) fn info(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| Reply::body(&request, to_json(&KvTable { table: table(broker)? })))))
}

/// Code 315.
pub(crate) fn named_stats(broker: &Broker, request: &Command) -> Handled {
    let ViewBrokerStats { stats_name, stats_key } = request.header()?;
    let stats = broker.stats.named(&stats_name, &stats_key, broker.clock.now()).ok_or_else(|| {
        Refusal::new(response::SYSTEM_ERROR, format!("The stats <{stats_name}> <{stats_key}> not exist"))
    })?;
    Reply::body(request, to_json(&stats))
}

fn table(broker: &Broker) -> Result<Table, Refusal> {
    let mut table = Table::new();
    identity(broker, &mut table);
    counts(broker, &mut table);
    queues(&mut table);
    log(broker, &mut table)?;
    space(broker, &mut table);
    delays(broker, &mut table);
    timer(broker, &mut table)?;
    own(broker, &mut table);
    Ok(table)
}

fn put(table: &mut Table, key: &str, value: impl ToString) {
    table.insert(key.to_owned(), value.to_string());
}

/// As Java prints a double.
fn double(value: f64) -> String {
    format!("{value:?}")
}

fn identity(broker: &Broker, table: &mut Table) {
    put(table, "brokerActive", true);
    put(table, "brokerVersion", OUR_VERSION);
    put(table, "brokerVersionDesc", VERSION);
    put(table, "bootTimestamp", broker.started_at);
    put(table, "runtime", run_time(broker.clock.now().since(broker.started_at)));
    put(table, "startAcceptSendRequestTimeStamp", 0);
}

fn run_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {} seconds ]", seconds % 60)
}

fn counts(broker: &Broker, table: &mut Table) {
    let now = broker.clock.now();
    let today = broker.stats.today(now);
    for (when, amounts) in
        [("YesterdayMorning", today.yesterday_morning), ("TodayMorning", today.this_morning), ("TodayNow", today.now)]
    {
        put(table, &format!("msgPutTotal{when}"), amounts.put_messages);
        put(table, &format!("msgGetTotal{when}"), amounts.got_messages);
    }
    let rates = |amount: fn(&Amounts) -> u64| broker.stats.rates(now, amount).map(double).join(" ");
    put(table, "putTps", rates(|amounts| amounts.put_messages));
    put(table, "getTransferredTps", rates(|amounts| amounts.got_messages));
    // As 4.9 spells it.
    put(table, "getTransferedTps", rates(|amounts| amounts.got_messages));
    put(table, "getFoundTps", rates(|amounts| amounts.found));
    put(table, "getMissTps", rates(|amounts| amounts.missed));
    put(table, "getTotalTps", rates(|amounts| amounts.found + amounts.missed));
    let Amounts { put_messages, put_bytes, .. } = today.now;
    let average = if put_messages == 0 { 0.0 } else { put_bytes as f64 / put_messages as f64 };
    put(table, "putMessageTimesTotal", put_messages);
    put(table, "putMessageSizeTotal", put_bytes);
    put(table, "putMessageAverageSize", double(average));
    put(table, "putMessageDistributeTime", "not measured");
}

/// There are no thread pools: a connection's requests wait on that connection, up to these limits.
fn queues(table: &mut Table) {
    for (pool, capacity) in [
        ("sendThreadPoolQueue", MAX_WAITING_REQUESTS),
        ("pullThreadPoolQueue", MAX_HELD_PULLS),
        ("litePullThreadPoolQueue", MAX_HELD_PULLS),
        ("queryThreadPoolQueue", MAX_BLOCKING_PER_CONNECTION),
        ("ackThreadPoolQueue", MAX_WAITING_REQUESTS),
    ] {
        put(table, &format!("{pool}Size"), 0);
        put(table, &format!("{pool}HeadWaitTimeMills"), 0);
        put(table, &format!("{pool}Capacity"), capacity);
    }
    put(table, "EndTransactionQueueSize", 0);
    put(table, "EndTransactionThreadPoolQueueCapacity", MAX_WAITING_REQUESTS);
}

fn log(broker: &Broker, table: &mut Table) -> Result<(), ReadError> {
    let store = &broker.store;
    let (min, end) = (store.min(), store.end());
    let first = store.scan(min).next().transpose()?;
    put(table, "commitLogMinOffset", min);
    put(table, "commitLogMaxOffset", end);
    put(table, "earliestMessageTimeStamp", first.map_or(-1, |first| first.store_timestamp.0));
    put(table, "dispatchBehindBytes", behind(end, store.visible()));
    put(table, "remainHowManyDataToFlush", human_bytes(behind(end, store.durable())));
    put(table, "pageCacheLockTimeMills", 0);
    Ok(())
}

fn behind(end: LogOffset, mark: LogOffset) -> u64 {
    end.0.saturating_sub(mark.0)
}

fn space(broker: &Broker, table: &mut Table) {
    let root = &broker.config.store_root;
    let space = DiskSpace::of(root);
    // Apache's figure for a directory that cannot be asked.
    let ratio = double(space.as_ref().map_or(-1.0, |space| (space.used_ratio() * 100.0).round() / 100.0));
    put(table, &format!("commitLogDiskRatio_{}", root.join("commitlog").display()), &ratio);
    put(table, "commitLogDiskRatio", &ratio);
    put(table, "consumeQueueDiskRatio", &ratio);
    let Ok(space) = space else { return };
    let (total, free) = (human_bytes(space.total_bytes), human_bytes(space.free_bytes));
    put(table, "commitLogDirCapacity", format!("Total : {total}, Free : {free}."));
}

/// `delivered,stored` of each delay level that was used.
fn delays(broker: &Broker, table: &mut Table) {
    for (level, delivered) in schedule_progress::saved(&broker.config.config_directory()).offset_table {
        let stored = broker.store.queue_bounds(topic::SCHEDULE, queue_of(level)).max;
        if stored.0 > 0 {
            put(table, &format!("scheduleMessageOffset_{level}"), format!("{delivered},{stored}"));
        }
    }
}

fn timer(broker: &Broker, table: &mut Table) -> Result<(), Refusal> {
    let (behind, waiting) = match broker.timers() {
        Ok(timers) => (timers.behind(broker.clock.now()), broker.pending_timers()?.values().sum()),
        Err(_) => (TimersBehind::default(), 0),
    };
    let stored = broker.store.queue_bounds(topic::TIMER, timers::QUEUE).max;
    put(table, "timerReadBehind", behind.late.as_secs());
    put(table, "timerOffsetBehind", stored.0.saturating_sub(behind.linked.0));
    put(table, "timerCongestNum", waiting);
    let now = broker.clock.now();
    let [linked, ..] = broker.stats.rates(now, |amounts| amounts.timers_linked);
    let [fired, ..] = broker.stats.rates(now, |amounts| amounts.timers_fired);
    put(table, "timerEnqueueTps", double(linked));
    put(table, "timerDequeueTps", double(fired));
    Ok(())
}

/// What Apache's broker does not tell.
fn own(broker: &Broker, table: &mut Table) {
    let transactions = broker.transactions.stats();
    put(table, "pendingHalfMessages", transactions.pending_halves);
    put(table, "parkedHalfMessages", transactions.waiting_copies);
    put(table, "popInFlightMessages", broker.pops.in_flight_in_total());
}

/// `227.2 GiB`, in Apache's spelling.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_as_apaches() {
        assert_eq!(run_time(Duration::from_secs(212)), "[ 0 days, 0 hours, 3 minutes, 32 seconds ]");
        assert_eq!(run_time(Duration::from_secs(2 * 86_400 + 5 * 3600)), "[ 2 days, 5 hours, 0 minutes, 0 seconds ]");
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (270_582_939_648, "252.0 GiB")] {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!((double(0.0), double(0.25)), ("0.0".into(), "0.25".into()));
    }
}
