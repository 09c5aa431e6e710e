//! The frames of a load generator. Requests are encoded once by the product's own encoder and then only patched; answers
//! are scanned, not parsed: the generator must cost little beside the broker on the same machine.

use std::borrow::Cow;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use mq_protocol::command::Command;
use mq_protocol::frame::{Frame, HeaderFormat, MAX_FRAME_BYTES};

/// The first `opaque` of ours: all have ten digits, so that a patch never changes a frame's length.
pub(super) const FIRST_OPAQUE: i32 = 1_000_000_000;
/// Stands where the time of birth (ms) goes.
pub(super) const BORN: i64 = 1_000_000_000_000;
/// Stands where the last 16 digits of a unique key go.
pub(super) const KEY: &str = "KEYKEYKEYKEYKEY.";

/// An encoded request with holes.
pub(super) struct Template {
    frame: Vec<u8>,
    opaque: usize,
    born: Option<usize>,
    key: Option<usize>,
}

impl Template {
    pub(super) fn new(mut command: Command) -> Self {
        command.opaque = FIRST_OPAQUE;
        let mut frame = BytesMut::new();
        command.encode(&mut frame);
        let find = |text: &str| memmem::find(&frame, text.as_bytes());
        let opaque = format!("\"opaque\":{FIRST_OPAQUE}");
        Self {
            opaque: find(&opaque).expect("every header has one") + opaque.len() - 10,
            born: find(&BORN.to_string()),
            key: find(KEY),
            frame: frame.to_vec(),
        }
    }

    /// Appends the request. `number` makes its key unique.
    pub(super) fn put(&self, out: &mut Vec<u8>, slot: u32, born_ms: i64, number: u64) {
        let at = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[at..];
        decimal(&mut frame[self.opaque..][..10], FIRST_OPAQUE as u64 + u64::from(slot));
        if let Some(born) = self.born {
            decimal(&mut frame[born..][..13], born_ms as u64);
        }
        if let Some(key) = self.key {
            hexadecimal(&mut frame[key..][..16], number);
        }
    }
}

fn decimal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn hexadecimal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(number & 15) as usize];
        number >>= 4;
    }
}

/// One answer (or a request of the server).
pub(super) struct Answer<'f> {
    pub(super) code: i32,
    pub(super) opaque: i32,
    header: Header<'f>,
    pub(super) body: &'f [u8],
}

enum Header<'f> {
    Json(&'f [u8]),
    /// Servers may answer in their own format.
    Binary(Box<Command>),
}

impl<'f> Answer<'f> {
    /// `frame` begins behind the length word.
    pub(super) fn parse(frame: &'f [u8]) -> Result<Self> {
        let (word, rest) = frame.split_first_chunk::<4>().context("a frame of less than four bytes")?;
        let header = u32::from_be_bytes([0, word[1], word[2], word[3]]) as usize;
        ensure!(header <= rest.len(), "a header of {header} bytes in {} bytes", rest.len());
        let (header, body) = rest.split_at(header);
        match word[0] {
            0 => {
                let number = |key| scan(header, key).and_then(|text| text.parse().ok());
                let code = number("code").context("a header without code")?;
                let opaque = number("opaque").context("a header without opaque")?;
                Ok(Self { code, opaque, header: Header::Json(header), body })
            }
            1 => {
                let header = Bytes::copy_from_slice(header);
                let command = Command::decode(Frame { format: HeaderFormat::Binary, header, body: Bytes::new() })?;
                Ok(Self { code: command.code, opaque: command.opaque, header: Header::Binary(command.into()), body })
            }
            other => bail!("a header of the unknown format {other}"),
        }
    }

    /// The request's slot; `None` for what was not asked by us.
    pub(super) fn slot(&self) -> Option<usize> {
        usize::try_from(self.opaque.checked_sub(FIRST_OPAQUE)?).ok()
    }

    pub(super) fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        match &self.header {
            Header::Json(header) => scan(header, key).map(Cow::from),
            Header::Binary(command) => command.ext.get(key).map(|value| Cow::from(&**value)),
        }
    }

    pub(super) fn number<N: std::str::FromStr>(&self, key: &str) -> Result<N> {
        self.field(key).and_then(|text| text.parse().ok()).with_context(|| format!("the answer has no {key}"))
    }

    pub(super) fn refusal(&self) -> String {
        let remark = match &self.header {
            Header::Json(header) => scan(header, "remark").unwrap_or_default(),
            Header::Binary(command) => command.remark.as_deref().unwrap_or_default(),
        };
        let name = mq_protocol::codes::response::name(self.code).unwrap_or("unknown");
        format!("code {} {name}: {remark}", self.code)
    }
}

/// The value of `"key":"…"` or `"key":7` in the text of a header.
fn scan<'h>(header: &'h [u8], key: &str) -> Option<&'h str> {
    let mut from = 0;
    loop {
        let at = from + memmem::find(&header[from..], key.as_bytes())?;
        from = at + key.len();
        if at == 0 || header[at - 1] != b'"' || !header[from..].starts_with(b"\":") {
            continue;
        }
        let value = &header[from + 2..];
        let (value, end) = match value.split_first() {
            Some((b'"', rest)) => (rest, memchr::memchr(b'"', rest)),
            _ => (value, memchr::memchr2(b',', b'}', value)),
        };
        return std::str::from_utf8(&value[..end?]).ok();
    }
}

/// The records of a pull's body, by their length words.
pub(super) fn count_records(mut body: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((length, _)) = body.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > body.len() {
            break;
        }
        body = &body[length..];
        count += 1;
    }
    count
}

/// The body of a batch send: `count` messages with the same body and properties.
pub(super) fn batch_body(count: u32, size: usize, properties: &str) -> Bytes {
    let unit = 4 * 5 + size + 2 + properties.len();
    let mut out = BytesMut::with_capacity(unit * count as usize);
    for _ in 0..count {
        out.put_u32(unit as u32);
        out.put_bytes(0, 12);
        out.put_u32(size as u32);
        out.put_bytes(b'x', size);
        out.put_u16(properties.len() as u16);
        out.put_slice(properties.as_bytes());
    }
    out.freeze()
}

pub(super) const MAX_FRAME: usize = MAX_FRAME_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use mq_protocol::frame;
    use mq_protocol::header::{Header as _, SendMessage};
    use mq_protocol::ids::UnixMillis;

    #[test]
    fn a_patched_template_is_a_readable_request() {
        let mut header = SendMessage::new("g".into(), "t".into());
        header.born_timestamp = UnixMillis(BORN);
        header.properties = Some(format!("UNIQ_KEY\u{1}0000000000000000{KEY}\u{2}").into());
        let mut command = Command::request(310).with_body(&b"body"[..]);
        header.encode_v2(&mut command.ext);
        let mut out = Vec::new();
        Template::new(command).put(&mut out, 17, 1_795_257_704_597, 0xABC);
        let mut bytes = BytesMut::from(&out[..]);
        let frame = frame::split(&mut bytes, 1 << 20).expect("valid").expect("whole");
        let command = Command::decode(frame).expect("readable");
        assert_eq!((command.opaque, &command.body[..]), (FIRST_OPAQUE + 17, &b"body"[..]));
        let header = SendMessage::decode_v2(&command.ext).expect("complete");
        assert_eq!(header.born_timestamp, UnixMillis(1_795_257_704_597));
        let key = "UNIQ_KEY\u{1}00000000000000000000000000000ABC\u{2}";
        assert_eq!(header.properties.as_deref(), Some(key));
    }

    #[test]
    fn answers_are_scanned_in_both_formats_and_garbage_is_an_error() {
        for format in [HeaderFormat::Json, HeaderFormat::Binary] {
            let mut request = Command::request(310);
            request.opaque = FIRST_OPAQUE + 3;
            request.format = format;
            let mut answer = request.error(2, "busy, \"code\":9");
            mq_protocol::header::OffsetResponse { offset: mq_protocol::ids::QueueOffset(42) }.encode(&mut answer.ext);
            let mut bytes = BytesMut::new();
            answer.with_body(&b"xyz"[..]).encode(&mut bytes);
            let answer = Answer::parse(&bytes[4..]).expect("readable");
            assert_eq!((answer.code, answer.slot(), answer.body), (2, Some(3), &b"xyz"[..]));
            assert_eq!(answer.number::<u64>("offset").expect("there"), 42);
            assert!(answer.field("off").is_none() && answer.refusal().starts_with("code 2 SYSTEM_BUSY: busy"));
        }
        for bad in [&b""[..], b"\0\0", b"\0\0\0\x09{}", b"\0\0\0\x02{}", b"\x07\0\0\0"] {
            assert!(Answer::parse(bad).is_err(), "{bad:?}");
        }
    }
}
