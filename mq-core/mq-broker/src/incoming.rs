//! The properties of a message on its way in: what they ask the broker for, and the text that is stored.
//!
//! Works on the text form: a message costs one scan and one allocation.

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;
use mq_protocol::properties::{self, name};

use crate::timers::TimerWish;

/// Names that a client must not store: they would be taken for the broker's or a peer's own.
const TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";
const PROPERTY_CRC: &str = "__CRC32#";
/// What a later time and a real place take, about.
const PLACE_BYTES: usize = 256;
const TIMERS: [&str; 3] = [name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS, name::TIMER_DELAY_SEC];

/// What a message's properties ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes<'t> {
    pub(crate) unique_key: Option<&'t str>,
    /// 0: none.
    pub(crate) delay_level: u32,
    pub(crate) half: bool,
    pub(crate) timer: Option<TimerWish<'t>>,
    /// It takes back a message that waits (`TIMER_DEL_UNIQKEY`).
    pub(crate) takes_back: bool,
    /// What it waited by, if it came from the timers: it does not wait again.
    pub(crate) waited: bool,
    pub(crate) priority: Option<u32>,
    /// Of ours, on halves: the key of a FIFO order, and a delay that begins at the commit.
    pub(crate) order_key: Option<&'t str>,
    pub(crate) delay_from_commit: Option<&'t str>,
    /// A delay level, of whatever value, or an order key: a priority does not count beside them.
    pub(crate) has_level: bool,
    pub(crate) has_order_key: bool,
    /// `WAIT=false`: the answer need not wait for the disk.
    pub(crate) no_wait: bool,
    /// The text is stored as it came, but for what the broker adds: nothing in it could have to go.
    pub(crate) stays: bool,
}

impl<'t> Wishes<'t> {
    pub(crate) fn of(text: &'t str) -> Self {
        let mut wishes = Self { stays: true, ..Self::default() };
        let mut bytes = 0;
        for (key, value) in properties::pairs(text) {
            bytes += key.len() + value.len() + 2;
            wishes.stays &= !may_be_dropped(key);
            match key {
                name::UNIQ_KEY => wishes.unique_key = Some(value),
                name::DELAY => (wishes.delay_level, wishes.has_level) = (value.parse().unwrap_or(0), true),
                name::SHARDING_KEY => wishes.has_order_key = true,
                name::PRIORITY => wishes.priority = value.parse().ok(),
                name::TIMER_OUT_MS => wishes.waited = true,
                name::TIMER_DELETE_KEY => wishes.takes_back = true,
                name::TRANSACTION_PREPARED => wishes.half = value.eq_ignore_ascii_case("true"),
                name::ORDER_KEY => wishes.order_key = Some(value),
                name::DELAY_FROM_COMMIT_MS => wishes.delay_from_commit = Some(value),
                name::WAIT => wishes.no_wait = value.eq_ignore_ascii_case("false"),
                key => {
                    if let Some(wish) = TimerWish::of(key, value) {
                        wishes.timer = Some(wishes.timer.map_or(wish, |known| known.min(wish)));
                    }
                }
            }
        }
        // Otherwise something is empty, or the last terminator is missing.
        wishes.stays &= bytes == text.len();
        wishes
    }

    /// The priority, if no other kind of message is asked for.
    pub(crate) fn plain_priority(&self) -> Option<u32> {
        let plain = !self.half && !self.has_level && self.timer.is_none() && !self.has_order_key;
        self.priority.filter(|_| plain)
    }
}

/// Where a message is to be delivered instead of where it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealPlace<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue_id: u32,
}

/// What the broker adds to every message: made once, from its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    text: String,
}

/// Changes of one message's properties.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes<'a> {
    /// The key that the broker made because the client sent none.
    pub(crate) unique_key: Option<&'a str>,
    pub(crate) real_place: Option<RealPlace<'a>>,
    /// Delayed messages lose the timer's names: the level wins.
    pub(crate) drop_timers: bool,
    /// Dead letters are not delayed.
    pub(crate) drop_delay: bool,
    /// Another kind of message has no priority.
    pub(crate) drop_priority: bool,
    /// The slot that the message waits for.
    pub(crate) slot: Option<UnixMillis>,
}

impl Stamp {
    pub(crate) fn new(region: &str, trace_on: bool, cluster: &str) -> Self {
        let mut text = String::new();
        push(&mut text, name::MSG_REGION, region);
        push(&mut text, name::TRACE_ON, if trace_on { "true" } else { "false" });
        push(&mut text, name::CLUSTER, cluster);
        Self { text }
    }

    /// The text to store for what the client sent; `stays` is what its wishes say.
    pub(crate) fn apply(&self, sent: &str, stays: bool, changes: Changes<'_>) -> ByteString {
        let key_bytes = changes.unique_key.map_or(0, |key| name::UNIQ_KEY.len() + key.len() + 2);
        let place_bytes = if changes.slot.is_some() || changes.real_place.is_some() { PLACE_BYTES } else { 0 };
        let mut text = String::with_capacity(sent.len() + self.text.len() + key_bytes + place_bytes);
        if stays {
            text.push_str(sent);
        } else {
            for (key, value) in properties::pairs(sent).filter(|(key, _)| !is_dropped(key, changes)) {
                push(&mut text, key, value);
            }
        }
        text.push_str(&self.text);
        if let Some(key) = changes.unique_key {
            push(&mut text, name::UNIQ_KEY, key);
        }
        if let Some(slot) = changes.slot {
            push(&mut text, name::TIMER_OUT_MS, &slot.0.to_string());
        }
        if let Some(place) = changes.real_place {
            push(&mut text, name::REAL_TOPIC, place.topic);
            push(&mut text, name::REAL_QUEUE_ID, &place.queue_id.to_string());
        }
        text.into()
    }
}

/// Whether some changes would take it out: all that [`is_dropped`] could say yes to.
fn may_be_dropped(key: &str) -> bool {
    let all = Changes {
        real_place: Some(RealPlace { topic: "", queue_id: 0 }),
        drop_timers: true,
        drop_delay: true,
        drop_priority: true,
        ..Changes::default()
    };
    is_dropped(key, all)
}

fn is_dropped(key: &str, changes: Changes<'_>) -> bool {
    match key {
        name::MSG_REGION | name::TRACE_ON | name::CLUSTER | name::POP_CK | PROPERTY_CRC => true,
        name::REAL_TOPIC | name::REAL_QUEUE_ID => changes.real_place.is_some(),
        name::DELAY => changes.drop_delay,
        name::PRIORITY => changes.drop_priority,
        key => key.starts_with(TRANSIENT_PREFIX) || (changes.drop_timers && TIMERS.contains(&key)),
    }
}

fn push(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push('\u{1}');
    text.push_str(value);
    text.push('\u{2}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(readable: &str) -> String {
        readable.replace('=', "\u{1}").replace(';', "\u{2}")
    }

    #[test]
    fn wishes_are_read_from_the_text() {
        let all = Wishes {
            unique_key: Some("K"),
            delay_level: 3,
            has_level: true,
            half: true,
            timer: Some(TimerWish::InMillis("5")),
            no_wait: true,
            ..Wishes::default()
        };
        let seconds = Wishes { timer: Some(TimerWish::InSeconds("7")), ..Wishes::default() };
        for (sent, expected) in [
            ("", Wishes { stays: true, ..Wishes::default() }),
            ("a=b;UNIQ_KEY=K;", Wishes { unique_key: Some("K"), stays: true, ..Wishes::default() }),
            ("a=b;UNIQ_KEY=K", Wishes { unique_key: Some("K"), ..Wishes::default() }),
            ("UNIQ_KEY=K;DELAY=3;TRAN_MSG=true;TIMER_DELAY_MS=5;WAIT=false", all),
            ("TIMER_DELIVER_MS=9;TIMER_DELAY_SEC=7;TIMER_DELAY_MS=5;", seconds),
            ("DELAY=-1;TRAN_MSG=false;WAIT=true;", Wishes { has_level: true, ..Wishes::default() }),
            ("DELAY=x;UNIQ_KEY=;", Wishes { has_level: true, ..Wishes::default() }),
        ] {
            assert_eq!(Wishes::of(&text(sent)), expected, "{sent}");
        }
    }

    #[test]
    fn a_priority_counts_on_plain_messages_only() {
        for (sent, expected) in [
            ("_SYS_MSG_PRIORITY_=3", Some(3)),
            ("_SYS_MSG_PRIORITY_=-1", None),
            ("_SYS_MSG_PRIORITY_=high", None),
            ("_SYS_MSG_PRIORITY_=3;TRAN_MSG=false", Some(3)),
            ("_SYS_MSG_PRIORITY_=3;TRAN_MSG=true", None),
            ("_SYS_MSG_PRIORITY_=3;DELAY=0", None),
            ("_SYS_MSG_PRIORITY_=3;TIMER_DELAY_SEC=1", None),
            ("_SYS_MSG_PRIORITY_=3;__SHARDINGKEY=k", None),
        ] {
            assert_eq!(Wishes::of(&text(sent)).plain_priority(), expected, "{sent}");
        }
    }

    #[test]
    fn the_broker_adds_its_marks_and_drops_what_is_not_the_clients() {
        let stamp = Stamp::new("R", true, "C");
        let real = RealPlace { topic: "T", queue_id: 2 };
        for (sent, changes, stored) in [
            ("", Changes::default(), ""),
            ("a=b", Changes::default(), "a=b;"),
            ("a=b;c=d;", Changes::default(), "a=b;c=d;"),
            ("a=b;;c=;d=e;", Changes::default(), "a=b;d=e;"),
            ("MSG_REGION=x;POP_CK=1;a=b;CLUSTER=y;__RMQ.TRANSIENT.q=1;__CRC32#=9;", Changes::default(), "a=b;"),
            ("TIMER_DELAY_SEC=1;DELAY=2;", Changes { drop_timers: true, ..Changes::default() }, "DELAY=2;"),
            ("DELAY=2;", Changes { drop_delay: true, ..Changes::default() }, ""),
        ] {
            let (sent, expected) = (text(sent), text(&format!("{stored}MSG_REGION=R;TRACE_ON=true;CLUSTER=C;")));
            assert_eq!(stamp.apply(&sent, Wishes::of(&sent).stays, changes), expected, "{sent}");
        }
        let changes = Changes { unique_key: Some("K"), real_place: Some(real), ..Changes::default() };
        let stored = stamp.apply(&text("REAL_TOPIC=forged;"), false, changes);
        assert_eq!(stored, text("MSG_REGION=R;TRACE_ON=true;CLUSTER=C;UNIQ_KEY=K;REAL_TOPIC=T;REAL_QID=2;"));
    }
}
