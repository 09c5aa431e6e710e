//! Which queues there were when the store last stood still, `checkback/queues`: a queue whose files somebody removed looks
//! like one that never was, and would number its messages from 0 again.
//!
//! ```text
//! 0 magic "CBQUEUE1"    queues, sorted: min u64, next u64, number u32, length u16, topic    CRC-32 of all above u32
//! ```
//!
//! Written at the end of each start and at a clean end, when all of it is durable; between them, numbers only grow. It is
//! believed together with the durable mark.

use bytes::{Buf, BufMut};
use bytestring::ByteString;
use mq_protocol::ids::{QueueId, QueueOffset};

use super::{ConsumeQueue, Queues};
use crate::backend::{self, Backend};
use crate::error::{AtPath, DiskError};

pub(crate) const ROLL: &str = "checkback/queues";
const MAGIC: &[u8; 8] = b"CBQUEUE1";
/// Of 100,000 topics with eight queues each. A start reads no more.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    topic: ByteString,
    id: QueueId,
    min: QueueOffset,
    next: QueueOffset,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Roll {
    Missing,
    Unreadable,
    Whole(Vec<Entry>),
}

impl Roll {
    /// What a start goes by.
    pub(crate) fn found(backend: &dyn Backend) -> Self {
        Self::load(backend).unwrap_or_else(|error| {
            tracing::warn!(%error, "the list of queues cannot be read; queues that somebody removed are not noticed");
            Self::Unreadable
        })
    }

    pub(crate) fn load(backend: &dyn Backend) -> Result<Self, DiskError> {
        let Some(file) = backend::open_if_there(backend, ROLL).at_path(backend, ROLL)? else {
            return Ok(Self::Missing);
        };
        let mut bytes = vec![0; file.bytes().at_path(backend, ROLL)?.min(MAX_BYTES) as usize];
        file.read_at(0, &mut bytes).at_path(backend, ROLL)?;
        Ok(decode(&bytes).map_or(Self::Unreadable, Self::Whole))
    }

    /// Notes the queues as they are now; all of it must be durable. An older list, or none, protects less.
    pub(crate) fn save(queues: &Queues) {
        let mut entries: Vec<Entry> = queues.all().iter().map(|queue| Entry::of(queue)).collect();
        entries.retain(|entry| entry.next > QueueOffset::ZERO);
        entries.sort_unstable();
        let backend = queues.backend();
        if let Err(error) = backend::replace_file(backend, ROLL, &encode(&entries)).at_path(backend, ROLL) {
            tracing::warn!(%error, "the next start will not notice if somebody removes the files of a new queue");
        }
    }

    /// The queues that were there and have no files any more.
    pub(crate) fn missing(&self, queues: &Queues) -> Vec<&Entry> {
        let Self::Whole(entries) = self else { return Vec::new() };
        let is_there = |entry: &&Entry| queues.get(&entry.topic, entry.id).is_some_and(|queue| queue.has_files());
        entries.iter().filter(|entry| !is_there(entry)).collect()
    }
}

impl Entry {
    fn of(queue: &ConsumeQueue) -> Self {
        Self { topic: queue.topic.clone(), id: queue.id, min: queue.bounds().0, next: queue.next() }
    }

    /// Before the log is read: what a deletion or the age of the log took stays away.
    pub(crate) fn begin(&self, queues: &Queues) -> Result<(), DiskError> {
        let queue = queues.get_or_create(&self.topic, self.id);
        if self.min > QueueOffset::ZERO { queues.number_from(queue, self.min) } else { Ok(()) }
    }

    /// The log has been read: where it has none of the messages any more, the numbering goes on all the same.
    pub(crate) fn finish(&self, queues: &Queues) -> Result<(), DiskError> {
        let queue = queues.get_or_create(&self.topic, self.id);
        if queue.next() <= self.min { queues.number_from(queue, self.next) } else { Ok(()) }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "topic {} queue {}", self.topic, self.id)
    }
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for Entry { topic, id, min, next } in entries {
        bytes.put_u64(min.0);
        bytes.put_u64(next.0);
        bytes.put_u32(id.0);
        bytes.put_u16(topic.len() as u16);
        bytes.put_slice(topic.as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32(crc);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (min, next) = (QueueOffset(rest.try_get_u64().ok()?), QueueOffset(rest.try_get_u64().ok()?));
        let (id, length) = (QueueId(rest.try_get_u32().ok()?), rest.try_get_u16().ok()?);
        let (topic, behind) = rest.split_at_checked(length.into())?;
        entries.push(Entry { topic: std::str::from_utf8(topic).ok()?.into(), id, min, next });
        rest = behind;
    }
    Some(entries)
}
