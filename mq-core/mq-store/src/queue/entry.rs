//! One entry of a consume queue, 20 bytes:
//!
//! ```text
//! 0 log offset u64    8 record size u32    12 tags code i64
//! ```

use mq_protocol::ids::LogOffset;

use crate::options::QUEUE_ENTRY_BYTES;

pub(crate) const BYTES: usize = QUEUE_ENTRY_BYTES as usize;
/// The size in Apache's filler entries, which stand before the first entry of a queue that does not begin at 0.
const FILLER_SIZE: u32 = 0x7FFF_FFFF;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    pub log_offset: LogOffset,
    pub size: u32,
    /// The hash of the tags; for a delayed message the time of delivery.
    pub tags_code: i64,
}

impl QueueEntry {
    pub(crate) const FILLER: Self = Self { log_offset: LogOffset::ZERO, size: FILLER_SIZE, tags_code: 0 };

    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.log_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// `None` for space that was never written.
    pub(crate) fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let (head, tags_code) = bytes.split_last_chunk::<8>().expect("20 bytes hold 8");
        let (log_offset, size) = head.split_first_chunk::<8>().expect("12 bytes hold 8");
        let entry = Self {
            log_offset: LogOffset(u64::from_be_bytes(*log_offset)),
            size: u32::from_be_bytes(size.try_into().expect("4 bytes are left")),
            tags_code: i64::from_be_bytes(*tags_code),
        };
        (entry.size > 0 && entry.size <= FILLER_SIZE).then_some(entry)
    }

    pub(crate) fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE
    }

    pub(crate) fn end(&self) -> LogOffset {
        self.log_offset.plus(u64::from(self.size))
    }
}
