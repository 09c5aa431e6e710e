//! Counting and its windows, with the time in the test's hand.

use std::time::Duration;

use mq_protocol::body::BrokerStatsItem;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_store::ManualClock;

use super::*;

const START: UnixMillis = UnixMillis(1_700_000_000_000);

fn after(seconds: u64) -> UnixMillis {
    START.plus(Duration::from_secs(seconds))
}

fn arrivals(topic: &str, count: usize) -> Vec<Arrival> {
    let arrival = Arrival {
        topic: topic.into(),
        queue_id: QueueId(0),
        next: QueueOffset(1),
        tags_code: 0,
        log_offset: LogOffset(0),
        size: 100,
        store_timestamp: START,
    };
    vec![arrival; count]
}

#[test]
fn a_window_shows_what_happened_in_it_and_no_more() {
    let stats = Stats::new("c", START);
    stats.arrived(&arrivals("t", 20));
    // Seconds since the start, then the sums of minute, hour and day.
    for (seconds, sums) in
        [(0, [20, 20, 20]), (30, [20, 20, 20]), (75, [0, 20, 20]), (4300, [0, 0, 20]), (90_000, [0; 3])]
    {
        (0..seconds).step_by(10).for_each(|earlier| stats.sample(after(earlier)));
        let data = stats.named("TOPIC_PUT_NUMS", "t", after(seconds)).expect("counted");
        assert_eq!([data.stats_minute.sum, data.stats_hour.sum, data.stats_day.sum], sums, "after {seconds} s");
    }
    stats.sample(after(10 * 86_400));
    assert!(stats.named("TOPIC_PUT_NUMS", "t", after(10 * 86_400)).is_none(), "long unused, and dropped");
}

#[test]
fn every_name_counts_what_it_says_under_its_key() {
    let (stats, clock) = (Stats::new("c", START), ManualClock::at(START));
    for (topic, count) in
        [("t", 3), ("u", 1), ("SCHEDULE_TOPIC_XXXX", 5), ("RMQ_SYS_TRANS_HALF_TOPIC", 1), ("%DLQ%g", 2)]
    {
        stats.arrived(&arrivals(topic, count));
    }
    let reader = stats.reader("g", "t", &clock);
    stats.gave(reader.as_deref(), 4, 1000);
    stats.gave(reader.as_deref(), 0, 0);
    stats.sent_back("g", "t", &clock);
    let minute = |name, key| stats.named(name, key, after(20)).map(|data| data.stats_minute);
    let item = |sum: u64, avgpt| Some(BrokerStatsItem { avgpt, sum, tps: sum as f64 / 20.0 });
    for (name, key, expected) in [
        ("TOPIC_PUT_NUMS", "t", item(3, 1.0)),
        ("TOPIC_PUT_SIZE", "t", item(300, 100.0)),
        ("TOPIC_PUT_NUMS", "SCHEDULE_TOPIC_XXXX", item(5, 1.0)),
        ("BROKER_PUT_NUMS", "c", item(6, 1.0)),
        ("GROUP_GET_NUMS", "t@g", item(4, 4.0)),
        ("GROUP_GET_SIZE", "t@g", item(1000, 1000.0)),
        ("BROKER_GET_NUMS", "c", item(4, 4.0)),
        ("SNDBCK_PUT_NUMS", "t@g", item(1, 1.0)),
        ("TOPIC_PUT_NUMS", "unknown", None),
        ("GROUP_GET_NUMS", "t", None),
        ("BROKER_PUT_NUMS", "other", None),
        ("NO_SUCH_NAME", "t", None),
    ] {
        assert_eq!(minute(name, key), expected, "{name} {key}");
    }
    let amounts = stats.today(after(20)).now;
    assert_eq!((amounts.put_messages, amounts.found, amounts.missed, amounts.dead), (6, 1, 1, 2));
}

#[test]
fn counts_of_the_day_start_again_at_midnight() {
    const DAY: u64 = 86_400;
    let stats = Stats::new("c", START);
    let put = |seconds| {
        let today = stats.today(after(seconds));
        [today.yesterday_morning, today.this_morning, today.now].map(|amounts| amounts.put_messages)
    };
    stats.arrived(&arrivals("t", 3));
    assert_eq!(put(0), [0, 0, 3]);
    assert_eq!(put(DAY), [0, 3, 3]);
    stats.arrived(&arrivals("t", 4));
    assert_eq!(put(DAY), [0, 3, 7]);
    assert_eq!(put(2 * DAY), [3, 7, 7]);
}

#[test]
fn rates_look_back_ten_seconds_a_minute_and_ten_minutes() {
    let stats = Stats::new("c", START);
    let rates = |seconds| stats.rates(after(seconds), |amounts| amounts.put_messages);
    assert_eq!(rates(0), [0.0; 3]);
    for second in 0..700 {
        stats.sample(after(second));
        stats.arrived(&arrivals("t", if second < 690 { 1 } else { 61 }));
    }
    assert_eq!(rates(700), [61.0, 11.0, 2.0]);
}

#[test]
fn what_is_counted_for_itself_is_bounded() {
    let (stats, clock) = (Stats::new("c", START), ManualClock::at(START));
    for number in 0..MAX_METERS {
        assert!(stats.reader(&format!("g{number}"), "t", &clock).is_some());
    }
    assert!(stats.reader("one more", "t", &clock).is_none());
    stats.gave(None, 1, 1);
    assert_eq!(stats.today(START).now.found, 1, "it counts in the total");
    stats.forget_group("g7");
    assert!(stats.reader("one more", "t", &clock).is_some());
}
