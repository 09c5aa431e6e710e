//! The changes of consumer offsets as their journal (`checkback/offset-journal`) has them. Knows names and numbers, not
//! what they mean.
//!
//! ```text
//! 2 offset    offset u64, queue u32, lengths u16 u16, group, topic
//! 3 topic     length u16, topic                                all its offsets are gone
//! 4 group     length u16, group
//! ```

use bytes::{Buf, BufMut};
use mq_protocol::ids::{QueueId, QueueOffset};

use crate::journal::Place;

pub(crate) const JOURNAL: Place = Place { path: "checkback/offset-journal", magic: b"CBOFFS01" };
/// Changes that wait in memory. Of more, only the table knows, which is to be saved then.
const MAX_WAITING_BYTES: usize = 4 << 20;

const OFFSET: u8 = 2;
const TOPIC: u8 = 3;
const GROUP: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'c> {
    Offset { group: &'c str, topic: &'c str, queue: QueueId, offset: QueueOffset },
    TopicGone(&'c str),
    GroupGone(&'c str),
}

/// Changes on their way to the journal.
#[derive(Default)]
pub(crate) struct Waiting {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.overflowed
    }

    /// There were more than may wait: the journal has a gap here, until the table is saved.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Nothing more is kept for the journal.
    pub(crate) fn overflow(&mut self) {
        *self = Self { bytes: Vec::new(), overflowed: true };
    }

    pub(crate) fn add(&mut self, change: Change<'_>) {
        if self.bytes.len() >= MAX_WAITING_BYTES {
            self.overflow();
        }
        if self.overflowed {
            return;
        }
        let buffer = &mut self.bytes;
        match change {
            Change::Offset { group, topic, queue, offset } => {
                let (Some(group_bytes), Some(topic_bytes)) = (length(group), length(topic)) else { return };
                buffer.put_u8(OFFSET);
                buffer.put_u64(offset.0);
                buffer.put_u32(queue.0);
                buffer.put_u16(group_bytes);
                buffer.put_u16(topic_bytes);
                buffer.put_slice(group.as_bytes());
                buffer.put_slice(topic.as_bytes());
            }
            Change::TopicGone(name) => put_name(buffer, TOPIC, name),
            Change::GroupGone(name) => put_name(buffer, GROUP, name),
        }
    }

    /// Gives what waits in exchange for room that is used again. The table is being saved, or nothing overflowed.
    pub(crate) fn swap(&mut self, room: &mut Vec<u8>) {
        room.clear();
        std::mem::swap(&mut self.bytes, room);
        self.overflowed = false;
    }
}

fn length(name: &str) -> Option<u16> {
    u16::try_from(name.len()).ok()
}

fn put_name(buffer: &mut Vec<u8>, kind: u8, name: &str) {
    if let Some(bytes) = length(name) {
        buffer.put_u8(kind);
        buffer.put_u16(bytes);
        buffer.put_slice(name.as_bytes());
    }
}

/// The changes of one frame.
pub(crate) fn read(mut frame: &[u8]) -> impl Iterator<Item = Change<'_>> {
    std::iter::from_fn(move || next(&mut frame))
}

fn next<'r>(rest: &mut &'r [u8]) -> Option<Change<'r>> {
    match rest.try_get_u8().ok()? {
        OFFSET => {
            let (offset, queue) = (rest.try_get_u64().ok()?, rest.try_get_u32().ok()?);
            let (group_bytes, topic_bytes) = (rest.try_get_u16().ok()?, rest.try_get_u16().ok()?);
            let (group, topic) = (name(rest, group_bytes)?, name(rest, topic_bytes)?);
            Some(Change::Offset { group, topic, queue: QueueId(queue), offset: QueueOffset(offset) })
        }
        TOPIC => {
            let bytes = rest.try_get_u16().ok()?;
            Some(Change::TopicGone(name(rest, bytes)?))
        }
        GROUP => {
            let bytes = rest.try_get_u16().ok()?;
            Some(Change::GroupGone(name(rest, bytes)?))
        }
        _ => None,
    }
}

fn name<'r>(rest: &mut &'r [u8], bytes: u16) -> Option<&'r str> {
    let (name, behind) = rest.split_at_checked(bytes.into())?;
    *rest = behind;
    str::from_utf8(name).ok()
}
