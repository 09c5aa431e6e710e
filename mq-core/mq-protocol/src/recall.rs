//! The handle by which a producer takes a delayed message back: text that names the message and where it waits.

use bytestring::ByteString;

const VERSION: &str = "v1";
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PAD: u8 = b'=';

/// Travels as base64url of `v1 topic broker time key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: ByteString,
    pub broker_name: ByteString,
    /// The slot that the message waits for, and one millisecond.
    pub deliver_ms: i64,
    pub unique_key: ByteString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no recall handle; send back what the answer to the send had in recallHandle")]
pub struct NotAHandle;

impl RecallHandle {
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { topic, broker_name, deliver_ms, unique_key } = self;
        encode(format!("{VERSION} {topic} {broker_name} {deliver_ms} {unique_key}").as_bytes())
    }

    pub fn decode(text: &str) -> Result<Self, NotAHandle> {
        let plain = decode(text.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(NotAHandle)?;
        let mut parts = plain.split(' ');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(NotAHandle);
        if part()? != VERSION {
            return Err(NotAHandle);
        }
        Ok(Self {
            topic: part()?.into(),
            broker_name: part()?.into(),
            deliver_ms: part()?.parse().map_err(|_| NotAHandle)?,
            unique_key: part()?.into(),
        })
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (index, byte)| bits | u32::from(*byte) << (16 - 8 * index));
        for index in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { letter } else { PAD }.into());
        }
    }
    text
}

/// With or without the padding, as Java reads it.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|letter| *letter != PAD).map_or(0, |last| last + 1);
    let mut bytes = Vec::with_capacity(end * 3 / 4);
    for chunk in text[..end].chunks(4) {
        let mut bits = 0;
        for (index, letter) in chunk.iter().enumerate() {
            let value = LETTERS.iter().position(|known| known == letter)? as u32;
            bits |= value << (18 - 6 * index);
        }
        if chunk.len() == 1 {
            return None;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Apache RocketMQ 5.4.0 answered it.
    const APACHES: &str = "djEgdGltZXIzX213cThpMm83XzQxIGJyb2tlci1hIDE3OTUyNTUwNjMwMDEgQzAwMDAyMDIzN0I0MURCRDE2QTY2\
                           OTIyNjA1OTAwQkQ=";

    #[test]
    fn apaches_handle_is_read_and_written_back() {
        let handle = RecallHandle::decode(APACHES).expect("a handle");
        assert_eq!(handle.topic, "timer3_mwq8i2o7_41");
        assert_eq!(handle.broker_name, "broker-a");
        assert_eq!(handle.deliver_ms, 1_795_255_063_001);
        assert_eq!(handle.unique_key, "C000020237B41DBD16A66922605900BD");
        assert_eq!(handle.encode(), APACHES);
        assert_eq!(RecallHandle::decode(APACHES.trim_end_matches('=')), Ok(handle));
    }

    #[test]
    fn texts_of_every_length_survive() {
        for length in 0..40 {
            let bytes: Vec<u8> = (0..length).map(|n: u8| n.wrapping_mul(37).wrapping_add(200)).collect();
            assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        }
    }

    #[test]
    fn what_is_no_handle_is_told() {
        for text in
            ["", "=", "A", "djEg!", "djEgdA==", &encode(b"v2 t b 1 k"), &encode(b"v1 t b x k"), &encode(b"\xFF")]
        {
            assert_eq!(RecallHandle::decode(text), Err(NotAHandle), "{text}");
        }
    }
}
