//! Cutting a byte stream into remoting frames, and how much of it to read at once.
//!
//! ```text
//! 0        4            8                 8+headerLen        4+length
//! | length | type,hlen  | header          | body             |
//!   u32      u8, u24      JSON or binary
//! ```
//! `length` counts everything behind itself.

use std::ops::RangeInclusive;

use bytes::{Buf, Bytes, BytesMut};

/// The largest frame that Apache's peers accept, its length word included.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
const PREFIX_BYTES: usize = 8;
/// What the length of a frame alone may make a buffer grow by.
const RESERVED_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFormat {
    Json,
    Binary,
}

/// One whole frame, header not yet parsed.
#[derive(Clone, Debug)]
pub struct Frame {
    pub format: HeaderFormat,
    pub header: Bytes,
    pub body: Bytes,
}

/// The stream cannot be trusted any more: close it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {bytes} bytes is over the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("a frame of {bytes} bytes cannot hold a header of {header} bytes")]
    HeaderOverrun { bytes: usize, header: usize },
    #[error("unknown header format {0}")]
    UnknownFormat(u8),
    #[error("the header is not readable: {0}")]
    Header(String),
}

/// Takes one whole frame from the front of `input`; `None` when more bytes are needed.
pub fn split(input: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some((total, header_bytes, format)) = prefix(input, limit)? else { return Ok(None) };
    if input.len() < total {
        // Not all at once: a length costs its sender nothing.
        input.reserve((total - input.len()).min(RESERVED_BYTES));
        return Ok(None);
    }
    let mut frame = input.split_to(total).freeze();
    frame.advance(PREFIX_BYTES);
    let header = frame.split_to(header_bytes);
    Ok(Some(Frame { format, header, body: frame }))
}

/// Checks the prefix as soon as it is there, so that a bad length is refused before its bytes arrive.
fn prefix(input: &[u8], limit: usize) -> Result<Option<(usize, usize, HeaderFormat)>, FrameError> {
    let Some(prefix) = input.first_chunk::<PREFIX_BYTES>() else {
        if let Some(length) = input.first_chunk::<4>() {
            check_total(4 + u32::from_be_bytes(*length) as usize, limit)?;
        }
        return Ok(None);
    };
    let [l0, l1, l2, l3, kind, h0, h1, h2] = *prefix;
    let total = 4 + u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let header = u32::from_be_bytes([0, h0, h1, h2]) as usize;
    check_total(total, limit)?;
    if PREFIX_BYTES + header > total {
        return Err(FrameError::HeaderOverrun { bytes: total, header });
    }
    let format = match kind {
        0 => HeaderFormat::Json,
        1 => HeaderFormat::Binary,
        other => return Err(FrameError::UnknownFormat(other)),
    };
    Ok(Some((total, header, format)))
}

fn check_total(total: usize, limit: usize) -> Result<(), FrameError> {
    if total > limit { Err(FrameError::TooLarge { bytes: total, limit }) } else { Ok(()) }
}

/// How many bytes to ask of a socket next, when so many came of those asked for: more while reads are filled, less when
/// little comes.
pub fn next_read(asked: usize, came: usize, within: RangeInclusive<usize>) -> usize {
    match came {
        _ if came >= asked => (asked * 2).min(*within.end()),
        _ if came < asked / 4 => (asked / 2).max(*within.start()),
        _ => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: u32, word: u32, rest: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&word.to_be_bytes());
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn a_read_grows_while_it_is_filled_and_shrinks_when_little_comes() {
        const MIN_READ_BYTES: usize = 8 * 1024;
        const MAX_READ_BYTES: usize = 256 * 1024;
        for (asked, came, next) in [
            (MIN_READ_BYTES, 100, MIN_READ_BYTES),
            (MIN_READ_BYTES, MIN_READ_BYTES, 2 * MIN_READ_BYTES),
            (MIN_READ_BYTES, 10 * MIN_READ_BYTES, 2 * MIN_READ_BYTES),
            (4 * MIN_READ_BYTES, MIN_READ_BYTES, 4 * MIN_READ_BYTES),
            (4 * MIN_READ_BYTES, MIN_READ_BYTES - 1, 2 * MIN_READ_BYTES),
            (MAX_READ_BYTES, MAX_READ_BYTES, MAX_READ_BYTES),
        ] {
            assert_eq!(next_read(asked, came, MIN_READ_BYTES..=MAX_READ_BYTES), next, "{came} bytes of {asked}");
        }
    }

    #[test]
    fn a_frame_is_cut_only_when_all_of_it_is_there() {
        let whole = bytes(4 + 2 + 3, 2, b"hhbbb");
        for cut in 0..whole.len() {
            assert!(split(&mut BytesMut::from(&whole[..cut]), 1024).expect("prefix is fine").is_none(), "{cut}");
        }
        let mut two = whole.clone();
        two.extend_from_slice(&whole);
        for left in [whole.len(), 0] {
            let frame = split(&mut two, 1024).expect("valid").expect("whole");
            assert_eq!((&frame.header[..], &frame.body[..]), (&b"hh"[..], &b"bbb"[..]));
            assert_eq!(two.len(), left);
        }
    }

    #[test]
    fn untrustworthy_prefixes_are_refused_at_once() {
        for (input, error) in [
            (bytes(2000, 0, b""), FrameError::TooLarge { bytes: 2004, limit: 1024 }),
            (bytes(8, 5, b"xxxx"), FrameError::HeaderOverrun { bytes: 12, header: 5 }),
            (bytes(2, 0, b""), FrameError::HeaderOverrun { bytes: 6, header: 0 }),
            (bytes(4, 7 << 24, b""), FrameError::UnknownFormat(7)),
        ] {
            assert_eq!(split(&mut input.clone(), 1024).expect_err("bad"), error);
        }
        let mut only_length = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(split(&mut only_length, 1024), Err(FrameError::TooLarge { .. })));
    }
}
