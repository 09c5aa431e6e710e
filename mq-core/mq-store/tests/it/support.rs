//! Short ways to make messages and stores.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage, decode_all};
use mq_store::{Appended, Backend, FlushMode, ManualClock, Options, PullLimits, PullStatus, RecoveryReport, Store};

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
pub(crate) const ALL: PullLimits = PullLimits { messages: usize::MAX, bytes: usize::MAX };

pub(crate) fn message(topic: &str, queue: u32, body: impl Into<Bytes>) -> Message {
    Message {
        topic: topic.into(),
        queue_id: QueueId(queue),
        flag: 0,
        sys_flag: 0,
        born_timestamp: NOW,
        born_host: "127.0.0.1:4000".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: LogOffset(0),
        properties: Default::default(),
        body: body.into(),
    }
}

pub(crate) fn tagged(topic: &str, queue: u32, tag: &str, body: impl Into<Bytes>) -> Message {
    Message { properties: format!("TAGS\u{1}{tag}\u{2}").into(), ..message(topic, queue, body) }
}

/// Small files, so that tests cross their ends.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 4096, queue_file_entries: 10, ..Options::default() }
}

pub(crate) fn manual() -> Options {
    Options { flush: FlushMode::Manual, ..small() }
}

pub(crate) fn open(backend: &(impl Backend + Clone + 'static), options: Options) -> (Store, RecoveryReport) {
    Store::open(Arc::new(backend.clone()), options, Arc::new(ManualClock::at(NOW))).unwrap()
}

pub(crate) fn append(store: &Store, messages: Vec<Message>) -> Appended {
    store.append(&[messages]).unwrap().remove(0)
}

/// Appends and waits until it is durable.
pub(crate) fn send(store: &Store, messages: Vec<Message>) -> Appended {
    let appended = append(store, messages);
    store.wait_durable(appended.end, Duration::from_secs(120)).unwrap();
    appended
}

/// Everything in a queue, pulled in pieces.
pub(crate) fn drain(store: &Store, topic: &str, queue: u32) -> Vec<StoredMessage> {
    let mut messages = Vec::new();
    let mut next = store.queue_bounds(topic, QueueId(queue)).min;
    loop {
        let limits = PullLimits { messages: 7, ..ALL };
        let pulled = store.pull(topic, QueueId(queue), next, limits, &|_| true).unwrap();
        if pulled.status != PullStatus::Found {
            return messages;
        }
        assert_eq!(pulled.next, next.plus(pulled.messages as u64));
        let before = messages.len();
        for slice in &pulled.slices {
            messages.extend(decode_all(slice).unwrap());
        }
        assert_eq!(messages.len() - before, pulled.messages);
        for (index, message) in messages[before..].iter().enumerate() {
            assert_eq!(message.queue_offset, QueueOffset(next.0 + index as u64));
        }
        next = pulled.next;
    }
}

pub(crate) fn bodies(store: &Store, topic: &str, queue: u32) -> Vec<String> {
    let text = |message: StoredMessage| String::from_utf8(message.message.body.to_vec()).unwrap();
    drain(store, topic, queue).into_iter().map(text).collect()
}
