//! One event in the life of a message, as Apache's tools read it. Owns the text form; knows nothing of how it travels.
//!
//! A record is a line of fields that character 1 separates; character 2 ends it. A text that is not there is `null`.

use std::fmt::Write as _;

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;

use crate::producer::Verdict;

const FIELD_END: char = '\u{1}';
const RECORD_END: char = '\u{2}';
const NOTHING: &str = "null";

/// What a message was when it was sent, by Apache's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedKind {
    Normal = 0,
    Half = 1,
    Committed = 2,
    Delayed = 3,
    Ordered = 4,
}

/// The message that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedMessage {
    pub topic: ByteString,
    pub id: ByteString,
    pub tags: Option<ByteString>,
    pub keys: Option<ByteString>,
    /// The broker that it was sent to.
    pub broker: ByteString,
    pub kind: TracedKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceRecord {
    Sent {
        at: UnixMillis,
        region: ByteString,
        group: ByteString,
        message: TracedMessage,
        body_bytes: usize,
        cost_ms: u64,
        offset_id: ByteString,
        success: bool,
    },
    /// A consumer begins to handle it.
    Begun {
        at: UnixMillis,
        region: ByteString,
        group: ByteString,
        /// The same in [`TraceRecord::Handled`].
        request_id: ByteString,
        message_id: ByteString,
        failed_before: i32,
        keys: Option<ByteString>,
    },
    Handled {
        at: UnixMillis,
        group: ByteString,
        request_id: ByteString,
        message_id: ByteString,
        keys: Option<ByteString>,
        cost_ms: u64,
        success: bool,
        /// How the handler returned, by Apache's numbers.
        outcome: i32,
    },
    /// A transaction ended.
    Ended {
        at: UnixMillis,
        region: ByteString,
        group: ByteString,
        message: TracedMessage,
        transaction_id: ByteString,
        verdict: Verdict,
        by_check: bool,
    },
}

impl TraceRecord {
    #[must_use]
    pub fn message_id(&self) -> &ByteString {
        match self {
            Self::Sent { message, .. } | Self::Ended { message, .. } => &message.id,
            Self::Begun { message_id, .. } | Self::Handled { message_id, .. } => message_id,
        }
    }

    #[must_use]
    pub fn at(&self) -> UnixMillis {
        match self {
            Self::Sent { at, .. } | Self::Begun { at, .. } | Self::Handled { at, .. } | Self::Ended { at, .. } => *at,
        }
    }

    /// By what the trace is found: the message's id and its keys.
    pub(super) fn index_keys(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            Self::Sent { message, .. } | Self::Ended { message, .. } => &message.keys,
            Self::Begun { keys, .. } | Self::Handled { keys, .. } => keys,
        };
        let keys = keys.as_deref().unwrap_or_default().split(' ').filter(|key| !key.is_empty());
        std::iter::once(&**self.message_id()).chain(keys)
    }

    pub(super) fn encode(&self, out: &mut String) {
        match self {
            Self::Sent { at, region, group, message, body_bytes, cost_ms, offset_id, success } => {
                fields(out, &["Pub", &at.to_string(), region, group]);
                message.encode(out);
                fields(out, &[&body_bytes.to_string(), &cost_ms.to_string(), &message.kind_number(), offset_id]);
                last(out, success);
            }
            Self::Begun { at, region, group, request_id, message_id, failed_before, keys } => {
                fields(out, &["SubBefore", &at.to_string(), region, group, request_id, message_id]);
                fields(out, &[&failed_before.to_string()]);
                last(out, text(keys));
            }
            Self::Handled { at, group, request_id, message_id, keys, cost_ms, success, outcome } => {
                fields(out, &["SubAfter", request_id, message_id, &cost_ms.to_string(), &success.to_string()]);
                fields(out, &[text(keys), &outcome.to_string(), &at.to_string()]);
                last(out, group);
            }
            Self::Ended { at, region, group, message, transaction_id, verdict, by_check } => {
                fields(out, &["EndTransaction", &at.to_string(), region, group]);
                message.encode(out);
                fields(out, &[&message.kind_number(), transaction_id, state(*verdict)]);
                last(out, by_check);
            }
        }
    }

    /// All records of a trace message's body. What is of no known form is passed over.
    pub(crate) fn decode_all(body: &str) -> Vec<Self> {
        body.split(RECORD_END).filter_map(Self::decode).collect()
    }

    fn decode(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(FIELD_END).collect();
        match fields[..] {
            ["Pub", at, region, group, topic, id, tags, keys, broker, body, cost, kind, ref rest @ ..] => {
                // Older clients leave the offset id out, others add their own address at the end.
                let (offset_id, success) = match rest {
                    [success] => ("", success),
                    [offset_id, success, ..] => (*offset_id, success),
                    [] => return None,
                };
                Some(Self::Sent {
                    at: millis(at)?,
                    region: region.into(),
                    group: group.into(),
                    message: TracedMessage::decode(topic, id, tags, keys, broker, kind)?,
                    body_bytes: body.parse().ok()?,
                    cost_ms: cost.parse().ok()?,
                    offset_id: offset_id.into(),
                    success: *success == "true",
                })
            }
            ["SubBefore", at, region, group, request_id, message_id, failed_before, keys, ..] => Some(Self::Begun {
                at: millis(at)?,
                region: region.into(),
                group: group.into(),
                request_id: request_id.into(),
                message_id: message_id.into(),
                failed_before: failed_before.parse().ok()?,
                keys: present(keys),
            }),
            ["SubAfter", request_id, message_id, cost, success, keys, outcome, at, group, ..] => Some(Self::Handled {
                at: millis(at)?,
                group: group.into(),
                request_id: request_id.into(),
                message_id: message_id.into(),
                keys: present(keys),
                cost_ms: cost.parse().ok()?,
                success: success == "true",
                outcome: outcome.parse().ok()?,
            }),
            [
                "EndTransaction",
                at,
                region,
                group,
                topic,
                id,
                tags,
                keys,
                broker,
                kind,
                transaction_id,
                verdict,
                by_check,
            ] => Some(Self::Ended {
                at: millis(at)?,
                region: region.into(),
                group: group.into(),
                message: TracedMessage::decode(topic, id, tags, keys, broker, kind)?,
                transaction_id: transaction_id.into(),
                verdict: verdict_of(verdict)?,
                by_check: by_check == "true",
            }),
            _ => None,
        }
    }
}

impl TracedMessage {
    fn encode(&self, out: &mut String) {
        fields(out, &[&self.topic, &self.id, text(&self.tags), text(&self.keys), &self.broker]);
    }

    fn kind_number(&self) -> String {
        (self.kind as u8).to_string()
    }

    fn decode(topic: &str, id: &str, tags: &str, keys: &str, broker: &str, kind: &str) -> Option<Self> {
        let kind = match kind {
            "0" => TracedKind::Normal,
            "1" => TracedKind::Half,
            "2" => TracedKind::Committed,
            "3" => TracedKind::Delayed,
            "4" => TracedKind::Ordered,
            _ => return None,
        };
        let (topic, id, broker) = (topic.into(), id.into(), broker.into());
        Some(Self { topic, id, tags: present(tags), keys: present(keys), broker, kind })
    }
}

fn fields(out: &mut String, fields: &[&str]) {
    for field in fields {
        out.push_str(field);
        out.push(FIELD_END);
    }
}

fn last(out: &mut String, field: impl std::fmt::Display) {
    let _ = write!(out, "{field}{RECORD_END}");
}

/// Never empty: Java's reader drops what is empty at the end of a line.
fn text(text: &Option<ByteString>) -> &str {
    text.as_deref().filter(|text| !text.is_empty()).unwrap_or(NOTHING)
}

fn present(text: &str) -> Option<ByteString> {
    (!text.is_empty() && text != NOTHING).then(|| text.into())
}

fn millis(text: &str) -> Option<UnixMillis> {
    text.parse().ok().map(UnixMillis)
}

fn state(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Commit => "COMMIT_MESSAGE",
        Verdict::Rollback => "ROLLBACK_MESSAGE",
        Verdict::Unknown => "UNKNOW",
    }
}

fn verdict_of(state: &str) -> Option<Verdict> {
    [Verdict::Commit, Verdict::Rollback, Verdict::Unknown].into_iter().find(|verdict| self::state(*verdict) == state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(keys: Option<&str>, kind: TracedKind) -> TracedMessage {
        let (tags, keys) = (Some("paid".into()), keys.map(Into::into));
        TracedMessage { topic: "T".into(), id: "ID".into(), tags, keys, broker: "1.2.3.4:10911".into(), kind }
    }

    #[test]
    fn records_are_written_as_apaches_reader_takes_them_apart_and_read_back() {
        let (at, region, group) = (UnixMillis(7), ByteString::from("R"), ByteString::from("g"));
        let sent = TraceRecord::Sent {
            at,
            region: region.clone(),
            group: group.clone(),
            message: message(Some("k1 k2"), TracedKind::Delayed),
            body_bytes: 3,
            cost_ms: 5,
            offset_id: "OFF".into(),
            success: true,
        };
        let begun = TraceRecord::Begun {
            at,
            region: region.clone(),
            group: group.clone(),
            request_id: "REQ".into(),
            message_id: "ID".into(),
            failed_before: 2,
            keys: None,
        };
        let handled = TraceRecord::Handled {
            at,
            group: group.clone(),
            request_id: "REQ".into(),
            message_id: "ID".into(),
            keys: None,
            cost_ms: 9,
            success: false,
            outcome: 4,
        };
        let ended = TraceRecord::Ended {
            at,
            region,
            group,
            message: message(None, TracedKind::Committed),
            transaction_id: "TX".into(),
            verdict: Verdict::Rollback,
            by_check: true,
        };
        let mut all = String::new();
        for (record, written, keys) in [
            (&sent, "Pub|7|R|g|T|ID|paid|k1 k2|1.2.3.4:10911|3|5|3|OFF|true;", &["ID", "k1", "k2"][..]),
            (&begun, "SubBefore|7|R|g|REQ|ID|2|null;", &["ID"]),
            (&handled, "SubAfter|REQ|ID|9|false|null|4|7|g;", &["ID"]),
            (&ended, "EndTransaction|7|R|g|T|ID|paid|null|1.2.3.4:10911|2|TX|ROLLBACK_MESSAGE|true;", &["ID"]),
        ] {
            let mut text = String::new();
            record.encode(&mut text);
            assert_eq!(text.replace(FIELD_END, "|").replace(RECORD_END, ";"), written);
            assert_eq!(record.index_keys().collect::<Vec<_>>(), keys, "{written}");
            all.push_str(&text);
        }
        all.push_str("Recall\u{1}7\u{2}");
        assert_eq!(TraceRecord::decode_all(&all), [sent, begun, handled, ended]);
    }

    #[test]
    fn what_is_no_trace_is_passed_over() {
        for text in ["", "\u{2}\u{2}", "Pub", "Pub\u{1}x\u{1}R\u{1}g", "SubAfter\u{1}\u{1}\u{1}", "{}"] {
            assert_eq!(TraceRecord::decode_all(text), [], "{text:?}");
        }
    }
}
