//! A remoting command: what a frame's header says, in both of its formats, with the body beside it.
//!
//! Binary header: code i16, language i8, version i16, opaque i32, flag i32, remark (i32 length), ext fields (i32 length:
//! key with i16 length, value with i32 length).

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::codes::request;
use crate::ext::ExtFields;
use crate::frame::{Frame, FrameError, HeaderFormat};
use crate::header::{Header, HeaderError};
use crate::json;

/// The version that we name in our headers: RocketMQ 5.3.3. Clients refuse SQL92 below 4.1 and gate features on it.
pub const OUR_VERSION: i32 = 479;
const RESPONSE: i32 = 0x1;
const ONEWAY: i32 = 0x2;

/// The peer's language: its name in JSON, its index in the binary header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(pub u8);

const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST",
    "NODE_JS",
];

impl Language {
    pub const JAVA: Self = Self(0);
    pub const CPP: Self = Self(1);
    pub const OTHER: Self = Self(7);
    pub const RUST: Self = Self(12);

    #[must_use]
    pub fn name(self) -> &'static str {
        LANGUAGES.get(usize::from(self.0)).copied().unwrap_or("OTHER")
    }

    pub(crate) fn from_name(name: &str) -> Self {
        LANGUAGES.iter().zip(0..).find(|(known, _)| **known == name).map_or(Self::OTHER, |(_, index)| Self(index))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub code: i32,
    pub language: Language,
    pub version: i32,
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<ByteString>,
    pub ext: ExtFields,
    pub format: HeaderFormat,
    pub body: Bytes,
}

impl Command {
    /// A request without fields. The connection assigns `opaque`.
    #[must_use]
    pub fn request(code: i32) -> Self {
        Self {
            code,
            language: Language::JAVA,
            version: OUR_VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            ext: ExtFields::default(),
            format: HeaderFormat::Json,
            body: Bytes::new(),
        }
    }

    #[must_use]
    pub fn request_with(code: i32, header: &impl Header) -> Self {
        Self::request(code).with_header(header)
    }

    /// An answer to this request, in its format.
    #[must_use]
    pub fn response(&self, code: i32) -> Self {
        Self { opaque: self.opaque, flag: RESPONSE, format: self.format, ..Self::request(code) }
    }

    #[must_use]
    pub fn error(&self, code: i32, remark: impl Into<ByteString>) -> Self {
        Self { remark: Some(remark.into()), ..self.response(code) }
    }

    #[must_use]
    pub fn with_header(mut self, header: &impl Header) -> Self {
        header.encode(&mut self.ext);
        self
    }

    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn oneway(mut self) -> Self {
        self.flag |= ONEWAY;
        self
    }

    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// The sender wants no answer and must not get one.
    #[must_use]
    pub fn is_oneway(&self) -> bool {
        self.flag & ONEWAY != 0
    }

    pub fn header<H: Header>(&self) -> Result<H, HeaderError> {
        H::decode(&self.ext)
    }

    pub fn decode(frame: Frame) -> Result<Self, FrameError> {
        let header = ByteString::try_from(frame.header.clone());
        match frame.format {
            HeaderFormat::Json => {
                let header = header.map_err(|error| FrameError::Header(error.to_string()))?;
                if let Some(command) = json::read(&header) {
                    return Ok(command.with_body(frame.body));
                }
                decode_json(&header, frame.body).map_err(|error| FrameError::Header(error.to_string()))
            }
            HeaderFormat::Binary => BinaryReader(frame.header)
                .command(frame.body)
                .ok_or_else(|| FrameError::Header("the binary header ends too early or is not UTF-8".into())),
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_without_body(self.body.len(), out);
        out.extend_from_slice(&self.body);
    }

    /// The same with the fields of a header, which need not become fields of the command first.
    pub fn encode_with(&self, header: &impl Header, out: &mut BytesMut) {
        let body_bytes = self.body.len();
        match self.format {
            HeaderFormat::Json => self.encode_head(body_bytes, out, |out| {
                json::write(self, |fields| header.encode(fields), out);
            }),
            HeaderFormat::Binary => self.clone().with_header(header).encode_without_body(body_bytes, out),
        }
        out.extend_from_slice(&self.body);
    }

    /// Appends the frame up to a body of `body_bytes` that the caller writes behind it.
    pub fn encode_without_body(&self, body_bytes: usize, out: &mut BytesMut) {
        self.encode_head(body_bytes, out, |out| match self.format {
            HeaderFormat::Json => json::write(self, |_| (), out),
            HeaderFormat::Binary => self.encode_binary(out),
        });
    }

    fn encode_head(&self, body_bytes: usize, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        let start = out.len();
        out.put_u64(0);
        write(out);
        let kind = match self.format {
            HeaderFormat::Json => 0,
            HeaderFormat::Binary => 1u32,
        };
        let header = out.len() - start - 8;
        let length = u32::try_from(4 + header + body_bytes).expect("frames are limited to 16 MiB");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&(kind << 24 | header as u32).to_be_bytes());
    }

    fn encode_binary(&self, out: &mut BytesMut) {
        out.put_i16(self.code as i16);
        out.put_u8(self.language.0);
        out.put_i16(self.version as i16);
        out.put_i32(self.opaque);
        out.put_i32(self.flag);
        let remark = self.remark.as_ref().map_or("", |remark| remark);
        out.put_u32(remark.len() as u32);
        out.extend_from_slice(remark.as_bytes());
        let at = out.len();
        out.put_u32(0);
        for (key, value) in self.ext.iter() {
            out.put_u16(key.len() as u16);
            out.extend_from_slice(key.as_bytes());
            out.put_u32(value.len() as u32);
            out.extend_from_slice(value.as_bytes());
        }
        let bytes = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
    }
}

fn decode_json(header: &ByteString, body: Bytes) -> Result<Command, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(header);
    let command = HeaderSeed { source: header, body }.deserialize(&mut json)?;
    json.end()?;
    Ok(command)
}

/// Text of the header, shared with its buffer unless the JSON had escapes in it.
#[derive(Clone, Copy)]
struct Text<'s>(&'s ByteString);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Option<ByteString>;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = Option<ByteString>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text, a number, a boolean or null")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(self.0.slice_ref(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.into()))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(ByteString::from_static(if value { "true" } else { "false" })))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct ExtSeed<'s>(&'s ByteString);

impl<'de> DeserializeSeed<'de> for ExtSeed<'_> {
    type Value = ExtFields;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ExtSeed<'_> {
    type Value = ExtFields;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of texts")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut ext = ExtFields::default();
        while let Some(key) = map.next_key_seed(Text(self.0))? {
            if let (Some(key), Some(value)) = (key, map.next_value_seed(Text(self.0))?) {
                ext.push(key, value);
            }
        }
        Ok(ext)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(ExtFields::default())
    }
}

struct HeaderSeed<'s> {
    source: &'s ByteString,
    body: Bytes,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Command;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Command;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a remoting header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
        let mut code = None;
        let mut command = Command { language: Language::OTHER, version: 0, body: self.body, ..Command::request(0) };
        while let Some(key) = map.next_key_seed(Text(self.source))? {
            match key.as_deref() {
                Some("code") => code = Some(map.next_value()?),
                Some("language") => {
                    let name = map.next_value_seed(Text(self.source))?;
                    command.language = name.map_or(Language::OTHER, |name| Language::from_name(&name));
                }
                Some("version") => command.version = map.next_value()?,
                Some("opaque") => command.opaque = map.next_value()?,
                Some("flag") => command.flag = map.next_value()?,
                Some("remark") => command.remark = map.next_value_seed(Text(self.source))?,
                Some("extFields") => command.ext = map.next_value_seed(ExtSeed(self.source))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        command.code = code.ok_or_else(|| de::Error::missing_field("code"))?;
        Ok(command)
    }
}

/// Reads a binary header; every step is `None` when the bytes end too early.
struct BinaryReader(Bytes);

impl BinaryReader {
    fn command(mut self, body: Bytes) -> Option<Command> {
        let code = restore_wide_code(i32::from(self.i16()?));
        let language = Language(self.take(1)?[0]);
        let version = i32::from(self.i16()?);
        let (opaque, flag) = (self.i32()?, self.i32()?);
        let remark = self.i32()?;
        let remark = Some(self.text(remark)?).filter(|remark| !remark.is_empty());
        let ext_bytes = usize::try_from(self.i32()?).ok()?;
        let mut pairs = BinaryReader(self.take(ext_bytes)?);
        let mut ext = ExtFields::default();
        while !pairs.0.is_empty() {
            let key = pairs.i16()?;
            let key = pairs.text(i32::from(key))?;
            let value = pairs.i32()?;
            ext.push(key, pairs.text(value)?);
        }
        Some(Command { code, language, version, opaque, flag, remark, ext, format: HeaderFormat::Binary, body })
    }

    fn take(&mut self, bytes: usize) -> Option<Bytes> {
        (bytes <= self.0.len()).then(|| self.0.split_to(bytes))
    }
    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?[..].try_into().ok()?))
    }
    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?[..].try_into().ok()?))
    }
    fn text(&mut self, bytes: i32) -> Option<ByteString> {
        ByteString::try_from(self.take(usize::try_from(bytes).ok()?)?).ok()
    }
}

/// The binary header keeps 16 bits of a code; the pop family is wider and is recognised by what is left of it.
fn restore_wide_code(code: i32) -> i32 {
    let wide = [request::POP_MESSAGE..=request::POP_ROLLBACK, request::BATCH_ACK_MESSAGE..=request::BATCH_ACK_MESSAGE];
    wide.into_iter().flatten().find(|wide| i32::from(*wide as i16) == code).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    fn round_trip(command: &Command) -> Command {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        let frame = frame::split(&mut bytes, frame::MAX_FRAME_BYTES).expect("valid").expect("whole");
        assert!(bytes.is_empty());
        Command::decode(frame).expect("readable")
    }

    #[test]
    fn both_formats_round_trip() {
        for format in [HeaderFormat::Json, HeaderFormat::Binary] {
            let mut command = Command::request(310).oneway().with_body(&b"body"[..]);
            command.format = format;
            command.opaque = -7;
            command.remark = Some("naïve \"quoted\"\n".into());
            command.ext.push("i", "TAGS\u{1}a\u{2}");
            command.ext.push("b", "话题");
            assert_eq!(round_trip(&command), command);
            command.code = request::BATCH_ACK_MESSAGE;
            assert_eq!(round_trip(&command).code, request::BATCH_ACK_MESSAGE);
        }
    }

    /// Every byte of a header replaced by each of the bytes that mean something.
    #[test]
    fn what_the_short_reader_takes_the_lenient_one_reads_alike() {
        let usual = r#"{"code":310,"extFields":{"a":"g\u0001\n","b":"-7","n":5,"m":-3},"flag":0,"language":"GO","opaque":10,"remark":"x","serializeTypeCurrentRPC":"JSON","version":479}"#;
        let (mut both, mut neither) = (0, 0);
        for at in 0..usual.len() {
            for byte in *b"\"\\{}[],:0-u1 tx\x01" {
                let mut bytes = usual.as_bytes().to_vec();
                bytes[at] = byte;
                let text = ByteString::from(String::from_utf8(bytes).expect("ASCII"));
                let lenient = decode_json(&text, Bytes::new());
                match json::read(&text) {
                    Some(short) => assert_eq!(short, lenient.expect(&text), "{text}"),
                    None => neither += usize::from(lenient.is_err()),
                }
                both += usize::from(json::read(&text).is_some());
            }
        }
        assert!(both > 300 && neither > 1000, "{both} read, {neither} refused");
        let plain = ByteString::from_static(r#"{"code":10,"extFields":{"a":"g","i":"A\u0001b\u0002"},"opaque":3}"#);
        assert!(json::read(&plain).is_some());
    }

    #[test]
    fn json_is_read_leniently() {
        let text =
            r#"{"code":34,"extFields":{"a":1,"b":true,"c":null,"d":"x"},"language":"MARS","new":[{}],"remark":null}"#;
        let command = decode_json(&ByteString::from_static(text), Bytes::new()).expect("readable");
        assert_eq!((command.code, command.language, command.remark), (34, Language::OTHER, None));
        let fields: Vec<_> = command.ext.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(fields, ["a=1", "b=true", "d=x"]);
    }

    #[test]
    fn malformed_headers_are_errors_not_panics() {
        for (format, header) in [
            (HeaderFormat::Json, &b"{}"[..]),
            (HeaderFormat::Json, b"[1]"),
            (HeaderFormat::Json, b"{\"code\":\"x\"}"),
            (HeaderFormat::Json, b"{\"code\":1}{"),
            (HeaderFormat::Json, b"\xff"),
            (HeaderFormat::Binary, b""),
            (HeaderFormat::Binary, &[0, 10, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
            (HeaderFormat::Binary, &[0, 10, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        ] {
            let frame = Frame { format, header: Bytes::from_static(header), body: Bytes::new() };
            assert!(matches!(Command::decode(frame), Err(FrameError::Header(_))), "{header:?}");
        }
    }
}
