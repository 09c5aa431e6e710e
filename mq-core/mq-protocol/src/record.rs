//! The stored message: the bytes that lie in the commit log and that a pull answers with.
//!
//! ```text
//!  0 total size u32      28 physical offset u64          n topic: u8 length (V1) or u16 (V2), bytes
//!  4 magic u32           36 sys flag i32                 . properties: i16 length, bytes
//!  8 body crc u32        40 born timestamp i64
//! 12 queue id u32        48 born host 8 or 20 (sys flag 0x10)
//! 16 flag i32             . store timestamp i64, store host 8 or 20 (sys flag 0x20)
//! 20 queue offset u64     . reconsume times i32, prepared transaction offset u64, body: u32 length, bytes
//! ```
//! Big-endian. Hosts are the address and a 4-byte port. (Apache RocketMQ: `store`, CommitLog and MessageExtEncoder.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes};
use bytestring::ByteString;

use crate::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use crate::properties::{self, Properties, name};
use crate::{java, sys_flag};

pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// The topic's length takes two bytes; written when the topic is longer than 127 bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Fills the rest of a segment that the next record does not fit in.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

pub const QUEUE_OFFSET_AT: usize = 20;
pub const PHYSICAL_OFFSET_AT: usize = 28;
const MAGIC_AT: usize = 4;
const SYS_FLAG_AT: usize = 36;
const BORN_HOST_AT: usize = 48;
/// The shortest record: IPv4 hosts, no body, no topic, no properties.
pub const MIN_RECORD_BYTES: usize = 91;
/// Longer topics make a V2 record.
pub const V1_TOPIC_LIMIT: usize = 127;

/// A message on its way into the log. The log assigns both offsets and the store timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: ByteString,
    pub queue_id: QueueId,
    pub flag: i32,
    pub sys_flag: i32,
    pub born_timestamp: UnixMillis,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: LogOffset,
    pub properties: ByteString,
    pub body: Bytes,
}

/// A message read back, with what the log assigned. Its texts and body share the buffer that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub message: Message,
    pub queue_offset: QueueOffset,
    pub log_offset: LogOffset,
    pub store_timestamp: UnixMillis,
    /// The whole record, in bytes.
    pub size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record ends after {have} of {need} bytes")]
    Short { have: usize, need: usize },
    #[error("unknown magic {0:#010x}")]
    Magic(u32),
    #[error("the record says {stated} bytes and holds {computed}")]
    Size { stated: usize, computed: usize },
    #[error("the body's checksum is {stored:#x}, its bytes give {computed:#x}")]
    BodyCrc { stored: u32, computed: u32 },
    #[error("topic or properties are not UTF-8")]
    NotText,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the properties take {0} bytes, the limit is {max}", max = properties::MAX_PROPERTIES_BYTES)]
    Properties(usize),
    #[error("the topic takes {0} bytes, the limit is 255")]
    Topic(usize),
    #[error("the body takes {0} bytes, more than a record can hold")]
    Body(usize),
}

impl Message {
    /// Bytes of the record that [`Message::encode`] appends.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        MIN_RECORD_BYTES
            + extra_host_bytes(&self.born_host)
            + extra_host_bytes(&self.store_host)
            + usize::from(self.topic.len() > V1_TOPIC_LIMIT)
            + self.topic.len()
            + self.properties.len()
            + self.body.len()
    }

    /// Appends the record with offsets and store timestamp zero; [`stamp`] fills them in.
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), EncodeError> {
        if self.properties.len() > properties::MAX_PROPERTIES_BYTES {
            return Err(EncodeError::Properties(self.properties.len()));
        }
        if self.topic.len() > 255 {
            return Err(EncodeError::Topic(self.topic.len()));
        }
        let total = u32::try_from(self.record_bytes()).map_err(|_| EncodeError::Body(self.body.len()))?;
        let wide_topic = self.topic.len() > V1_TOPIC_LIMIT;
        out.put_u32(total);
        out.put_u32(if wide_topic { MAGIC_V2 } else { MAGIC_V1 });
        out.put_u32(body_crc(&self.body));
        out.put_u32(self.queue_id.0);
        out.put_i32(self.flag);
        out.put_u64(0);
        out.put_u64(0);
        out.put_i32(self.stored_sys_flag());
        out.put_i64(self.born_timestamp.0);
        put_host(&self.born_host, out);
        out.put_i64(0);
        put_host(&self.store_host, out);
        out.put_i32(self.reconsume_times);
        out.put_u64(self.prepared_transaction_offset.0);
        out.put_u32(self.body.len() as u32);
        out.put_slice(&self.body);
        if wide_topic {
            out.put_u16(self.topic.len() as u16);
        } else {
            out.put_u8(self.topic.len() as u8);
        }
        out.put_slice(self.topic.as_bytes());
        out.put_u16(self.properties.len() as u16);
        out.put_slice(self.properties.as_bytes());
        Ok(())
    }

    /// The sys flag with the host bits that its addresses ask for.
    fn stored_sys_flag(&self) -> i32 {
        let v6 = |host: &SocketAddr, bit| if host.is_ipv6() { bit } else { 0 };
        (self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6))
            | v6(&self.born_host, sys_flag::BORN_HOST_V6)
            | v6(&self.store_host, sys_flag::STORE_HOST_V6)
    }

    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::find(&self.properties, name)
    }

    #[must_use]
    pub fn parsed_properties(&self) -> Properties {
        Properties::parse(&self.properties)
    }

    /// The tags code of this message's consume-queue entry.
    #[must_use]
    pub fn tags_code(&self) -> i64 {
        java::tags_code(self.property(name::TAGS))
    }
}

/// Writes what the log assigns into an encoded record.
pub fn stamp(record: &mut [u8], queue_offset: QueueOffset, log_offset: LogOffset, store_timestamp: UnixMillis) {
    record[QUEUE_OFFSET_AT..][..8].copy_from_slice(&queue_offset.0.to_be_bytes());
    record[PHYSICAL_OFFSET_AT..][..8].copy_from_slice(&log_offset.0.to_be_bytes());
    let at = store_timestamp_at(record);
    record[at..][..8].copy_from_slice(&store_timestamp.0.to_be_bytes());
}

fn store_timestamp_at(record: &[u8]) -> usize {
    let flag = i32::from_be_bytes([
        record[SYS_FLAG_AT],
        record[SYS_FLAG_AT + 1],
        record[SYS_FLAG_AT + 2],
        record[SYS_FLAG_AT + 3],
    ]);
    BORN_HOST_AT + if flag & sys_flag::BORN_HOST_V6 == 0 { 8 } else { 20 }
}

/// `CRC-32 & 0x7FFFFFFF` of the stored body; 0 for none.
#[must_use]
pub fn body_crc(body: &[u8]) -> u32 {
    if body.is_empty() { 0 } else { crc32fast::hash(body) & 0x7FFF_FFFF }
}

impl StoredMessage {
    /// Reads the record at the front of `bytes`, which may go on behind it. Checks lengths and the body's checksum.
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut reader = Reader { bytes, at: 0 };
        let stated = reader.u32()? as usize;
        let magic = reader.u32()?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        let crc = reader.u32()?;
        let queue_id = QueueId(reader.u32()?);
        let flag = reader.i32()?;
        let queue_offset = QueueOffset(reader.u64()?);
        let log_offset = LogOffset(reader.u64()?);
        let flags = reader.i32()?;
        let born_timestamp = UnixMillis(reader.i64()?);
        let born_host = reader.host(flags & sys_flag::BORN_HOST_V6 != 0)?;
        let store_timestamp = UnixMillis(reader.i64()?);
        let store_host = reader.host(flags & sys_flag::STORE_HOST_V6 != 0)?;
        let reconsume_times = reader.i32()?;
        let prepared_transaction_offset = LogOffset(reader.u64()?);
        let body_bytes = reader.u32()? as usize;
        let body = reader.slice(body_bytes)?;
        let topic_bytes = if magic == MAGIC_V2 { usize::from(reader.u16()?) } else { usize::from(reader.u8()?) };
        let topic = ByteString::try_from(reader.slice(topic_bytes)?).map_err(|_| RecordError::NotText)?;
        let properties_bytes = usize::from(reader.u16()?);
        let properties = ByteString::try_from(reader.slice(properties_bytes)?).map_err(|_| RecordError::NotText)?;
        if reader.at != stated {
            return Err(RecordError::Size { stated, computed: reader.at });
        }
        let computed = body_crc(&body);
        if crc != computed {
            return Err(RecordError::BodyCrc { stored: crc, computed });
        }
        let message = Message {
            topic,
            queue_id,
            flag,
            sys_flag: flags,
            born_timestamp,
            born_host,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            properties,
            body,
        };
        Ok(Self { message, queue_offset, log_offset, store_timestamp, size: stated as u32 })
    }
}

/// The messages of a pull's body, one after the other. Stops with an error at the first that cannot be read.
pub fn decode_all(body: &Bytes) -> Result<Vec<StoredMessage>, RecordError> {
    let mut rest = body.clone();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let message = StoredMessage::decode(&rest)?;
        rest = rest.slice(message.size as usize..);
        messages.push(message);
    }
    Ok(messages)
}

/// The property text of an encoded record, without looking at the rest; `None` if its lengths or the text are wrong.
#[must_use]
pub fn properties_in(record: &[u8]) -> Option<&str> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let host_bytes = |flag: u32, bit: i32| if flag & bit as u32 == 0 { 8 } else { 20 };
    let magic = u32_at(MAGIC_AT)?;
    let flag = u32_at(SYS_FLAG_AT)?;
    let hosts = host_bytes(flag, sys_flag::BORN_HOST_V6) + host_bytes(flag, sys_flag::STORE_HOST_V6);
    let body_at = BORN_HOST_AT + hosts + 8 + 4 + 8;
    let topic_at = body_at.checked_add(4)?.checked_add(u32_at(body_at)? as usize)?;
    let (width, topic_bytes) = match magic {
        MAGIC_V1 => (1, usize::from(*record.get(topic_at)?)),
        MAGIC_V2 => (2, usize::from(u16::from_be_bytes(record.get(topic_at..topic_at + 2)?.try_into().ok()?))),
        _ => return None,
    };
    let at = topic_at + width + topic_bytes;
    let bytes = u16::from_be_bytes(record.get(at..at + 2)?.try_into().ok()?);
    std::str::from_utf8(record.get(at + 2..at + 2 + usize::from(bytes))?).ok()
}

fn extra_host_bytes(host: &SocketAddr) -> usize {
    if host.is_ipv6() { 12 } else { 0 }
}

fn put_host(host: &SocketAddr, out: &mut impl BufMut) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(host.port()));
}

struct Reader<'b> {
    bytes: &'b Bytes,
    at: usize,
}

impl Reader<'_> {
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let need = self.at + N;
        let short = RecordError::Short { have: self.bytes.len(), need };
        let chunk = self.bytes.get(self.at..need).ok_or(short)?;
        self.at = need;
        Ok(chunk.try_into().expect("the range has N bytes"))
    }
    fn slice(&mut self, bytes: usize) -> Result<Bytes, RecordError> {
        let need = self.at.saturating_add(bytes);
        if need > self.bytes.len() {
            return Err(RecordError::Short { have: self.bytes.len(), need });
        }
        let slice = self.bytes.slice(self.at..need);
        self.at = need;
        Ok(slice)
    }
    fn u8(&mut self) -> Result<u8, RecordError> {
        self.fixed::<1>().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Result<u16, RecordError> {
        self.fixed().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Result<u32, RecordError> {
        self.fixed().map(u32::from_be_bytes)
    }
    fn i32(&mut self) -> Result<i32, RecordError> {
        self.fixed().map(i32::from_be_bytes)
    }
    fn u64(&mut self) -> Result<u64, RecordError> {
        self.fixed().map(u64::from_be_bytes)
    }
    fn i64(&mut self) -> Result<i64, RecordError> {
        self.fixed().map(i64::from_be_bytes)
    }
    fn host(&mut self, v6: bool) -> Result<SocketAddr, RecordError> {
        let ip: IpAddr =
            if v6 { Ipv6Addr::from(self.fixed::<16>()?).into() } else { Ipv4Addr::from(self.fixed::<4>()?).into() };
        Ok(SocketAddr::new(ip, self.u32()? as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic_bytes: usize, born: &str) -> Message {
        Message {
            topic: "t".repeat(topic_bytes).into(),
            queue_id: QueueId(3),
            flag: -9,
            sys_flag: sys_flag::TRANSACTION_COMMIT,
            born_timestamp: UnixMillis(1_700_000_000_123),
            born_host: born.parse().expect("an address"),
            store_host: "127.0.0.2:10911".parse().expect("an address"),
            reconsume_times: 2,
            prepared_transaction_offset: LogOffset(77),
            properties: "TAGS\u{1}d\u{2}".into(),
            body: Bytes::from_static(b"hello"),
        }
    }

    fn encoded(message: &Message) -> Bytes {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("within limits");
        assert_eq!(bytes.len(), message.record_bytes());
        stamp(&mut bytes, QueueOffset(5), LogOffset(4096), UnixMillis(42));
        bytes.into()
    }

    #[test]
    fn records_round_trip_with_every_host_and_topic_width() {
        for topic in [1, 127, 128, 255] {
            for born in ["10.0.0.1:65535", "[2001:db8::1]:9"] {
                let message = message(topic, born);
                let read = StoredMessage::decode(&encoded(&message)).expect("readable");
                assert_eq!(properties_in(&encoded(&message)), Some(&*message.properties));
                assert_eq!((read.queue_offset, read.log_offset), (QueueOffset(5), LogOffset(4096)));
                assert_eq!(read.store_timestamp, UnixMillis(42));
                assert_eq!(read.message.stored_sys_flag(), read.message.sys_flag);
                let expected = Message { sys_flag: read.message.sys_flag, ..message };
                assert_eq!(read.message, expected);
                assert_eq!(read.message.tags_code(), 100);
            }
        }
    }

    #[test]
    fn a_record_cut_anywhere_or_with_a_flipped_body_is_refused() {
        let whole = encoded(&message(8, "10.0.0.1:1"));
        for cut in 0..whole.len() {
            assert!(StoredMessage::decode(&whole.slice(..cut)).is_err(), "{cut}");
            assert_eq!(properties_in(&whole[..cut]), None, "{cut}");
        }
        let mut flipped = whole.to_vec();
        let body = whole.windows(5).position(|window| window == b"hello").expect("the body is there");
        flipped[body] ^= 1;
        assert!(matches!(StoredMessage::decode(&flipped.into()), Err(RecordError::BodyCrc { .. })));
    }

    #[test]
    fn a_pull_body_is_read_whole() {
        let one = encoded(&message(3, "10.0.0.1:1"));
        let body: Bytes = [&one[..], &one[..]].concat().into();
        assert_eq!(decode_all(&body).expect("readable").len(), 2);
        assert!(decode_all(&body.slice(..body.len() - 1)).is_err());
    }
}
