//! Maps whose keys are objects, as fastjson prints them: `{{"brokerName":"b","queueId":0,"topic":"t"}:1}`.
//!
//! No JSON library reads or writes that. Between here and them such a key is a text that holds the object.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MessageQueue;
use crate::java::end_of_string;

/// A map's key that is an object. Bodies that have some are printed by [`to_json_with_object_keys`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey<K>(pub K);

/// The key of every table by queue.
pub type QueueKey = ObjectKey<MessageQueue>;

impl QueueKey {
    #[must_use]
    pub fn new(broker_name: &str, topic: &str, queue_id: u32) -> Self {
        Self(MessageQueue { topic: topic.to_owned(), broker_name: broker_name.to_owned(), queue_id })
    }
}

impl<K: Serialize> Serialize for ObjectKey<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // By way of a value: Java prints the fields of an object in the order of their names.
        let object = serde_json::to_value(&self.0).map_err(S::Error::custom)?;
        serializer.collect_str(&object)
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for ObjectKey<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Prints a body with its [`ObjectKey`]s as objects.
#[must_use]
pub fn to_json_with_object_keys(body: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(body).expect("bodies have text keys and printable values");
    let mut out = String::with_capacity(json.len());
    let mut copied = 0;
    for key in object_texts(&json) {
        out.push_str(&json[copied..key.start]);
        out.push_str(&serde_json::from_str::<String>(&json[key.clone()]).expect("a string of our own output"));
        copied = key.end;
    }
    out.push_str(&json[copied..]);
    out.into()
}

/// The keys that are texts of objects, with their quotes. A name never starts with a brace.
fn object_texts(json: &str) -> Vec<Range<usize>> {
    let bytes = json.as_bytes();
    let (mut texts, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] != b'"' {
            at += 1;
            continue;
        }
        let end = end_of_string(bytes, at);
        if bytes.get(at + 1) == Some(&b'{') && bytes.get(end) == Some(&b':') {
            texts.push(at..end);
        }
        at = end;
    }
    texts
}

/// Turns keys that are objects into texts; borrowed when there is none.
pub(super) fn quote_object_keys(json: &str) -> Cow<'_, str> {
    // The first key of a map directly follows its brace: fastjson prints no blanks.
    if !json.contains("{{") {
        return json.into();
    }
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len() * 2);
    let (mut copied, mut at) = (0, 0);
    // Whether each open bracket is a map's.
    let mut open: Vec<bool> = Vec::new();
    let mut key_may_start = false;
    while at < bytes.len() {
        match bytes[at] {
            b'{' if key_may_start => {
                let end = end_of_object(bytes, at);
                out.push_str(&json[copied..at]);
                out.push_str(&serde_json::Value::from(&json[at..end]).to_string());
                (copied, at, key_may_start) = (end, end, false);
                continue;
            }
            b'"' => {
                (at, key_may_start) = (end_of_string(bytes, at), false);
                continue;
            }
            b'{' => {
                open.push(true);
                key_may_start = true;
            }
            b'[' => {
                open.push(false);
                key_may_start = false;
            }
            b'}' | b']' => {
                open.pop();
                key_may_start = false;
            }
            b',' => key_may_start = open.last() == Some(&true),
            byte if byte.is_ascii_whitespace() => {}
            _ => key_may_start = false,
        }
        at += 1;
    }
    out.push_str(&json[copied..]);
    out.into()
}

fn end_of_object(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0usize, start);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::body::from_json;

    #[test]
    fn tables_by_queue_are_printed_and_read_as_java_does() {
        let table: BTreeMap<QueueKey, Vec<i32>> =
            [(QueueKey::new("b", "t", 0), vec![1, 2]), (QueueKey::new("b\"", "t", 1), vec![])].into();
        let body = to_json_with_object_keys(&serde_json::json!({ "tables": [table] }));
        let text = r#"{"tables":[{{"brokerName":"b","queueId":0,"topic":"t"}:[1,2],{"brokerName":"b\"","queueId":1,"topic":"t"}:[]}]}"#;
        assert_eq!(body, text);
        let read: BTreeMap<String, Vec<BTreeMap<QueueKey, Vec<i32>>>> = from_json("tables", &body).expect("readable");
        assert_eq!(read["tables"], [table]);
    }

    #[test]
    fn what_holds_no_object_key_stays_as_it_is() {
        for json in [r#"{"a":"{{","b":[{"c":1},{"d":2}]}"#, r#"["{x",{"k":"v"}]"#, "{}", "[{},{}]", "{{", "{\"a", ""] {
            let quoted = quote_object_keys(json);
            assert!(quoted == json || json == "{{", "{json} {quoted}");
        }
        assert_eq!(to_json_with_object_keys(&[r#"{"x"}"#]), r#"["{\"x\"}"]"#, "a text in a list is no key");
    }
}
