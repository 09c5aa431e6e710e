//! The statistics under the names that tools ask for (315), as far as this broker counts them.

use mq_protocol::body::{BrokerStatsData, BrokerStatsItem};
use mq_protocol::ids::UnixMillis;

use super::Stats;
use super::meter::{Counted, Spans};

impl Stats {
    /// `None`: no such name, or nothing was counted under the key.
    pub(crate) fn named(&self, name: &str, key: &str, now: UnixMillis) -> Option<BrokerStatsData> {
        let (messages, bytes) = (|counted: &Counted| counted.messages, |counted: &Counted| counted.bytes);
        let topic = |amount| Some(self.topics.read().get(key)?.meter.spans(now, amount));
        let reader = |amount| {
            let (topic, group) = key.split_once('@')?;
            Some(self.readers.get(group, topic)?.meter.spans(now, amount))
        };
        let spans = match name {
            "TOPIC_PUT_NUMS" => topic(messages),
            "TOPIC_PUT_SIZE" => topic(bytes),
            "GROUP_GET_NUMS" => reader(messages),
            "GROUP_GET_SIZE" => reader(bytes),
            "SNDBCK_PUT_NUMS" => {
                let (topic, group) = key.split_once('@')?;
                Some(self.sent_back.get(group, topic)?.spans(now, messages))
            }
            "BROKER_PUT_NUMS" if key == self.cluster => Some(self.totals.put.spans(now, messages)),
            "BROKER_GET_NUMS" if key == self.cluster => Some(self.totals.got.spans(now, messages)),
            _ => None,
        };
        spans.map(as_body)
    }
}

fn as_body(spans: Spans) -> BrokerStatsData {
    let [stats_minute, stats_hour, stats_day] =
        spans.map(|span| BrokerStatsItem { avgpt: span.each, sum: span.sum, tps: span.tps });
    BrokerStatsData { stats_day, stats_hour, stats_minute }
}
