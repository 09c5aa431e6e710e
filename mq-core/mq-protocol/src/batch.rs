//! The body of SEND_BATCH_MESSAGE (320): several messages for one topic and queue.
//!
//! Per message: total size u32, magic u32 = 0, crc u32 = 0, flag i32, body u32 + bytes, properties u16 + bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::properties::MAX_PROPERTIES_BYTES;

const FIXED_BYTES: usize = 22;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchItem {
    pub flag: i32,
    pub body: Bytes,
    pub properties: ByteString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("message {index} of the batch is cut short or its lengths disagree")]
    Malformed { index: usize },
    #[error("the properties of message {index} take {bytes} bytes, the limit is {MAX_PROPERTIES_BYTES}")]
    Properties { index: usize, bytes: usize },
    #[error("message {index} of the batch has properties that are not UTF-8")]
    NotText { index: usize },
}

pub fn encode(items: &[BatchItem]) -> Result<Bytes, BatchError> {
    let bytes = items.iter().map(|item| FIXED_BYTES + item.body.len() + item.properties.len()).sum();
    let mut out = BytesMut::with_capacity(bytes);
    for (index, item) in items.iter().enumerate() {
        if item.properties.len() > MAX_PROPERTIES_BYTES {
            return Err(BatchError::Properties { index, bytes: item.properties.len() });
        }
        out.put_u32((FIXED_BYTES + item.body.len() + item.properties.len()) as u32);
        out.put_u64(0);
        out.put_i32(item.flag);
        out.put_u32(item.body.len() as u32);
        out.put_slice(&item.body);
        out.put_u16(item.properties.len() as u16);
        out.put_slice(item.properties.as_bytes());
    }
    Ok(out.freeze())
}

/// Bodies and properties share the buffer of `body`.
pub fn decode(body: &Bytes) -> Result<Vec<BatchItem>, BatchError> {
    let mut rest = body.clone();
    let mut items = Vec::new();
    while !rest.is_empty() {
        items.push(decode_one(&mut rest, items.len())?);
    }
    Ok(items)
}

fn decode_one(rest: &mut Bytes, index: usize) -> Result<BatchItem, BatchError> {
    let malformed = BatchError::Malformed { index };
    if rest.len() < FIXED_BYTES {
        return Err(malformed);
    }
    let total = rest.get_u32() as usize;
    rest.advance(8);
    let flag = rest.get_i32();
    let body_bytes = rest.get_u32() as usize;
    if rest.len() < body_bytes.saturating_add(2) {
        return Err(malformed);
    }
    let body = rest.split_to(body_bytes);
    let properties_bytes = usize::from(rest.get_u16());
    if rest.len() < properties_bytes || total != FIXED_BYTES + body_bytes + properties_bytes {
        return Err(malformed);
    }
    let properties =
        ByteString::try_from(rest.split_to(properties_bytes)).map_err(|_| BatchError::NotText { index })?;
    Ok(BatchItem { flag, body, properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_round_trip_and_a_cut_or_lying_one_is_refused() {
        let items: Vec<_> = (0..3)
            .map(|n| BatchItem {
                flag: n,
                body: vec![n as u8; n as usize * 5].into(),
                properties: "KEYS\u{1}k\u{2}".into(),
            })
            .collect();
        let body = encode(&items).expect("within limits");
        assert_eq!(decode(&body), Ok(items));
        let first = FIXED_BYTES + 7;
        for cut in (1..body.len()).filter(|cut| ![first, first * 2 + 5].contains(cut)) {
            assert!(decode(&body.slice(..cut)).is_err(), "{cut}");
        }
        let mut lying = body.to_vec();
        lying[3] += 1;
        assert_eq!(decode(&lying.into()), Err(BatchError::Malformed { index: 0 }));
    }
}
