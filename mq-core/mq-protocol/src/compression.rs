//! Compressed bodies. Brokers store what the client sent; only clients and edges inflate, and never beyond a limit.

use std::io::Read;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};

use crate::sys_flag;

/// Java's default level.
const ZLIB_LEVEL: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    #[error("the body inflates beyond the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the compressed body is damaged: {0}")]
    Damaged(#[from] std::io::Error),
    #[error("unknown compression in sys flag {0:#x}")]
    UnknownCodec(i32),
}

#[must_use]
pub fn deflate_zlib(body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() / 2);
    ZlibEncoder::new(body, Compression::new(ZLIB_LEVEL)).read_to_end(&mut out).expect("memory takes what it reads");
    out.into()
}

/// The body as its sender wrote it: inflated when the sys flag says that it is compressed.
pub fn inflate(flags: i32, body: &Bytes, limit: usize) -> Result<Bytes, InflateError> {
    if flags & sys_flag::COMPRESSED == 0 {
        return Ok(body.clone());
    }
    match flags & sys_flag::CODEC_MASK {
        0x000 | 0x300 => read_limited(ZlibDecoder::new(&body[..]), limit),
        0x100 => read_limited(lz4_flex::frame::FrameDecoder::new(&body[..]), limit),
        0x200 => read_limited(zstd::Decoder::new(&body[..])?, limit),
        _ => Err(InflateError::UnknownCodec(flags)),
    }
}

/// A zlib stream inside a protocol body, such as a compressed registration.
pub fn inflate_zlib(bytes: &[u8], limit: usize) -> Result<Bytes, InflateError> {
    read_limited(ZlibDecoder::new(bytes), limit)
}

fn read_limited(reader: impl Read, limit: usize) -> Result<Bytes, InflateError> {
    let mut out = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(InflateError::TooLarge { limit }) } else { Ok(out.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_inflate_up_to_the_limit_and_not_beyond() {
        let body = vec![7u8; 10_000];
        let lz4 = {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::Write::write_all(&mut encoder, &body).expect("memory");
            encoder.finish().expect("memory")
        };
        for (codec, packed) in [
            (0x000, deflate_zlib(&body)),
            (0x300, deflate_zlib(&body)),
            (0x100, lz4.into()),
            (0x200, zstd::encode_all(&body[..], 3).expect("memory").into()),
        ] {
            let flags = sys_flag::COMPRESSED | codec;
            assert_eq!(inflate(flags, &packed, 10_000).expect("fits"), body);
            assert!(matches!(inflate(flags, &packed, 9_999), Err(InflateError::TooLarge { limit: 9_999 })));
            assert!(inflate(flags, &packed.slice(..packed.len() / 2), 10_000).is_err());
        }
        assert!(matches!(inflate(0x701, &Bytes::new(), 1), Err(InflateError::UnknownCodec(_))));
    }
}
