//! Finding messages by key: the index says where they may be, the log says whether they are.

use bytes::Bytes;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;

use crate::append::has_entry;
use crate::core::Core;
use crate::error::{DiskError, ReadError};
use crate::index::TimeWindow;

/// Which of a message's keys is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The unique key that its producer gave it.
    Unique,
    /// Any: the unique one, or a word of its keys.
    Any,
}

/// The newest messages of a key, in log order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queried {
    /// One record each.
    pub records: Vec<Bytes>,
    /// Store time and place of the last message that was indexed.
    pub indexed_until: UnixMillis,
    pub indexed_to: LogOffset,
}

impl Core {
    /// Some more of the visible log becomes findable. True if there is more to do at once.
    pub(crate) fn advance_index(&self) -> Result<bool, DiskError> {
        self.index.as_ref().map_or(Ok(false), |index| index.advance(self.marks.visible()))
    }

    /// Makes durable what is indexed.
    pub(crate) fn flush_index(&self) -> Result<(), DiskError> {
        let Some(index) = &self.index else { return Ok(()) };
        let whole_until = index.flush()?;
        self.checkpoints.lock().indexed(whole_until);
        Ok(())
    }

    /// Indexes the rest and makes the files whole, for any reader. False if the disk takes no more; the next start
    /// derives them.
    pub(crate) fn finish_index(&self) -> bool {
        let Some(index) = &self.index else { return true };
        let finish = || {
            while index.advance(self.marks.visible())? {}
            index.finish()
        };
        match finish() {
            Ok(whole_until) => self.checkpoints.lock().indexed(whole_until),
            Err(error) => {
                tracing::warn!(%error, "the index could not be finished");
                return false;
            }
        }
        true
    }

    pub(crate) fn query(
        &self,
        topic: &str,
        key: &str,
        kind: KeyKind,
        window: TimeWindow,
        max: usize,
    ) -> Result<Queried, ReadError> {
        let Some(index) = &self.index else { return Ok(Queried::default()) };
        // What was visible when the question came is part of the answer.
        let visible = self.marks.visible();
        while index.advance(visible)? {}
        let mut found: Vec<LogOffset> = Vec::new();
        let mut records = Vec::new();
        let indexed = index.find(topic, key, window, |at| {
            // A message whose keys are equal stands there twice.
            if found.last() != Some(&at)
                && let Some(record) = self.read(at)?
                && has_key(&record, topic, key, kind)
                && (window.from..=window.to).contains(&record.store_timestamp)
                && !self.is_forgotten(&record)
            {
                found.push(at);
                records.extend(self.segments.bytes(at.0, record.size as usize)?);
            }
            Ok::<_, ReadError>(records.len() >= max)
        })?;
        records.reverse();
        Ok(Queried { records, indexed_until: indexed.time, indexed_to: indexed.offset })
    }

    /// Its topic was deleted since.
    fn is_forgotten(&self, record: &StoredMessage) -> bool {
        let message = &record.message;
        has_entry(message.sys_flag) && self.bounds(&message.topic, message.queue_id).min > record.queue_offset
    }
}

fn has_key(record: &StoredMessage, topic: &str, key: &str, kind: KeyKind) -> bool {
    let message = &record.message;
    let is_unique = || message.property(name::UNIQ_KEY) == Some(key);
    let is_word = || message.property(name::KEYS).is_some_and(|keys| keys.split(' ').any(|word| word == key));
    message.topic == topic && (is_unique() || kind == KeyKind::Any && is_word())
}
