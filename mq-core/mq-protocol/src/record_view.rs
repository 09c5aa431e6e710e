//! A stored message as it lies in the log, looked at without a copy and without its checksum: what an index needs.

use crate::ids::{LogOffset, UnixMillis};
use crate::properties::{self, name};
use crate::record::{MAGIC_V1, MAGIC_V2, MIN_RECORD_BYTES, RecordError};
use crate::{java, sys_flag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'b> {
    /// The whole record, in bytes.
    pub size: u32,
    pub sys_flag: i32,
    pub log_offset: LogOffset,
    pub store_timestamp: UnixMillis,
    pub topic: &'b str,
    pub properties: &'b str,
}

impl<'b> RecordView<'b> {
    /// The record at the front of `bytes`, which may go on behind it.
    pub fn read(bytes: &'b [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader { bytes, at: 0 };
        let size = reader.u32()?;
        let magic = reader.u32()?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if (size as usize) < MIN_RECORD_BYTES || bytes.len() < size as usize {
            return Err(RecordError::Short { have: bytes.len(), need: (size as usize).max(MIN_RECORD_BYTES) });
        }
        reader.at = 28;
        let log_offset = LogOffset(reader.u64()?);
        let sys_flag = reader.u32()?.cast_signed();
        let host = |bit| if sys_flag & bit == 0 { 8 } else { 20 };
        reader.at += 8 + host(sys_flag::BORN_HOST_V6);
        let store_timestamp = UnixMillis(reader.u64()?.cast_signed());
        reader.at += host(sys_flag::STORE_HOST_V6) + 4 + 8;
        let body_bytes = reader.u32()? as usize;
        reader.slice(body_bytes)?;
        let topic_bytes = if magic == MAGIC_V2 { usize::from(reader.u16()?) } else { usize::from(reader.u8()?) };
        let topic = str::from_utf8(reader.slice(topic_bytes)?).map_err(|_| RecordError::NotText)?;
        let properties_bytes = usize::from(reader.u16()?);
        let properties = str::from_utf8(reader.slice(properties_bytes)?).map_err(|_| RecordError::NotText)?;
        if reader.at != size as usize {
            return Err(RecordError::Size { stated: size as usize, computed: reader.at });
        }
        Ok(Self { size, sys_flag, log_offset, store_timestamp, topic, properties })
    }

    /// What the message can be found by: its unique key, then each word of its keys. None for rolled-back records.
    pub fn each_key(&self, mut each: impl FnMut(&'b str)) {
        if sys_flag::transaction_bits(self.sys_flag) == sys_flag::TRANSACTION_ROLLBACK {
            return;
        }
        let (mut unique, mut keys) = (None, None);
        for field in properties::fields(self.properties) {
            unique = properties::value_of(field, name::UNIQ_KEY).or(unique);
            keys = properties::value_of(field, name::KEYS).or(keys);
        }
        unique.into_iter().for_each(&mut each);
        keys.into_iter().flat_map(|keys| keys.split(' ')).filter(|key| !key.is_empty()).for_each(each);
    }
}

/// The hash by which index files know a key: `abs(hashCode(topic + "#" + key))`. In two steps, because a topic's part
/// is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicHash(i32);

impl TopicHash {
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self(java::continue_hash(java::string_hash(topic), "#"))
    }

    #[must_use]
    pub fn with_key(self, key: &str) -> u32 {
        java::continue_hash(self.0, key).checked_abs().map_or(0, i32::cast_unsigned)
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn slice(&mut self, bytes: usize) -> Result<&'b [u8], RecordError> {
        let end = self.at.saturating_add(bytes);
        let short = RecordError::Short { have: self.bytes.len(), need: end };
        let slice = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        Ok(self.slice(N)?.try_into().expect("the slice has this length"))
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{QueueId, QueueOffset};
    use crate::record::{self, Message};

    fn message(topic: &str, properties: &str, flags: i32, hosts: &str) -> Message {
        Message {
            topic: topic.into(),
            queue_id: QueueId(3),
            flag: 0,
            sys_flag: flags,
            born_timestamp: UnixMillis(1),
            born_host: hosts.parse().unwrap(),
            store_host: hosts.parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: LogOffset(0),
            properties: properties.into(),
            body: bytes::Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn a_record_is_seen_as_it_was_encoded_whatever_its_shape() {
        let long = "t".repeat(200);
        for hosts in ["127.0.0.1:1", "[::1]:2"] {
            for topic in ["T", &long] {
                let message = message(topic, "UNIQ_KEY\u{1}u\u{2}KEYS\u{1} a  b\u{2}", 0, hosts);
                let mut bytes = Vec::new();
                message.encode(&mut bytes).unwrap();
                record::stamp(&mut bytes, QueueOffset(7), LogOffset(99), UnixMillis(123));
                bytes.extend_from_slice(b"what follows");
                let view = RecordView::read(&bytes).unwrap();
                assert_eq!(
                    (view.topic, view.log_offset, view.store_timestamp),
                    (topic, LogOffset(99), UnixMillis(123))
                );
                assert_eq!(view.size as usize, message.record_bytes());
                let mut keys = Vec::new();
                view.each_key(|key| keys.push(key));
                assert_eq!(keys, ["u", "a", "b"]);
                for cut in 0..message.record_bytes() {
                    assert!(RecordView::read(&bytes[..cut]).is_err(), "{cut} bytes");
                }
            }
        }
    }

    #[test]
    fn rolled_back_records_have_no_keys_and_prepared_ones_have() {
        for (flags, keys) in [(0, 1), (0x4, 1), (0x8, 1), (0xC, 0)] {
            let mut bytes = Vec::new();
            message("T", "KEYS\u{1}k\u{2}", flags, "127.0.0.1:1").encode(&mut bytes).unwrap();
            let mut found = 0;
            RecordView::read(&bytes).unwrap().each_key(|_| found += 1);
            assert_eq!(found, keys, "{flags:#x}");
        }
    }

    #[test]
    fn key_hashes_are_javas() {
        for (topic, key, hash) in
            [("a", "b", 94_400), ("T", "订单", 3_665_538), ("orders", "k1", 390_723_708), ("T", "#=&6-;'", 0)]
        {
            assert_eq!(TopicHash::new(topic).with_key(key), hash, "{topic}#{key}");
        }
    }
}
