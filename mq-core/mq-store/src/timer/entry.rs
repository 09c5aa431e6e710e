//! One entry of the timer log.

use mq_protocol::ids::{LogOffset, UnixMillis};

pub(super) const BYTES: usize = 52;
const IS_ENTRY: u32 = 1;
const ROLLS: u32 = 2;
const DELETES: u32 = 4;

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerEntry {
    /// Its slot's time, a multiple of the precision.
    pub slot: UnixMillis,
    pub written_at: UnixMillis,
    /// The message's record, as it waits.
    pub log_offset: LogOffset,
    pub size: u32,
    /// The slot is not the message's time yet: then it is stored anew.
    pub rolls: bool,
    /// The message takes back another one of the same slot.
    pub deletes: bool,
    /// `String.hashCode` of the topic that it is for.
    pub topic_hash: i32,
}

/// An entry as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) entry: TimerEntry,
    /// The entry before it in the same slot.
    pub(super) previous: Option<u64>,
}

impl Linked {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let entry = &self.entry;
        let flags = IS_ENTRY | if entry.rolls { ROLLS } else { 0 } | if entry.deletes { DELETES } else { 0 };
        // A slot too far from the time of writing for the field (a broker that was down for weeks) is its own base.
        let (base, delay) = match i32::try_from(entry.slot.0 - entry.written_at.0) {
            Ok(delay) => (entry.written_at.0, delay),
            Err(_) => (entry.slot.0, 0),
        };
        into.extend_from_slice(&(BYTES as u32).to_be_bytes());
        into.extend_from_slice(&position(self.previous).to_be_bytes());
        into.extend_from_slice(&flags.to_be_bytes());
        into.extend_from_slice(&base.to_be_bytes());
        into.extend_from_slice(&delay.to_be_bytes());
        into.extend_from_slice(&entry.log_offset.0.to_be_bytes());
        into.extend_from_slice(&entry.size.to_be_bytes());
        into.extend_from_slice(&entry.topic_hash.to_be_bytes());
        into.extend_from_slice(&[0; 8]);
    }

    /// `None`: no entry. `at` is where the bytes stand: a chain only leads back.
    pub(super) fn decode(bytes: &[u8; BYTES], at: u64) -> Option<Self> {
        let flags = int(bytes, 12);
        let previous = long(bytes, 4);
        let written_at = long(bytes, 16);
        let slot = written_at.checked_add(i64::from(int(bytes, 24).cast_signed()))?;
        let leads_back = previous == -1 || u64::try_from(previous).is_ok_and(|previous| previous < at);
        let sound = int(bytes, 0) == BYTES as u32 && flags <= 0xF && leads_back && slot >= 0;
        sound.then(|| Self {
            entry: TimerEntry {
                slot: UnixMillis(slot),
                written_at: UnixMillis(written_at),
                log_offset: LogOffset(long(bytes, 28).cast_unsigned()),
                size: int(bytes, 36),
                rolls: flags & ROLLS != 0,
                deletes: flags & DELETES != 0,
                topic_hash: int(bytes, 40).cast_signed(),
            },
            previous: u64::try_from(previous).ok(),
        })
    }
}

fn position(position: Option<u64>) -> i64 {
    position.map_or(-1, |position| i64::try_from(position).expect("files end below 2^63"))
}

fn int(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8; BYTES], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: TimerEntry = TimerEntry {
        slot: UnixMillis(1_700_000_060_000),
        written_at: UnixMillis(1_700_000_000_000),
        log_offset: LogOffset(4096),
        size: 300,
        rolls: true,
        deletes: false,
        topic_hash: -7,
    };

    fn bytes(linked: Linked) -> [u8; BYTES] {
        let mut bytes = Vec::new();
        linked.encode(&mut bytes);
        bytes.try_into().expect("an entry has one length")
    }

    #[test]
    fn an_entry_is_read_back_and_its_bytes_are_apaches() {
        for (previous, deletes) in [(None, false), (Some(52), true)] {
            let linked = Linked { entry: TimerEntry { deletes, ..ENTRY }, previous };
            assert_eq!(Linked::decode(&bytes(linked), 104), Some(linked));
        }
        let written = bytes(Linked { entry: ENTRY, previous: None });
        assert_eq!(written[..12], [0, 0, 0, 52, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(written[12..16], [0, 0, 0, 3]);
        assert_eq!(written[24..28], 60_000_i32.to_be_bytes());
    }

    #[test]
    fn a_slot_weeks_behind_the_time_of_writing_keeps_its_time() {
        let entry = TimerEntry { slot: UnixMillis(1_000_000_000_000), ..ENTRY };
        let read = Linked::decode(&bytes(Linked { entry, previous: None }), 0).expect("an entry");
        assert_eq!(read.entry, TimerEntry { written_at: entry.slot, ..entry });
    }

    #[test]
    fn bytes_that_are_no_entry_are_told() {
        let good = bytes(Linked { entry: ENTRY, previous: Some(52) });
        assert_eq!(Linked::decode(&good, 52), None, "a chain that leads forward");
        assert_eq!(Linked::decode(&[0; BYTES], 104), None);
        for (at, value) in [(3, 51), (13, 1), (4, 128), (16, 255)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Linked::decode(&bad, 104), None, "byte {at}");
        }
    }
}
