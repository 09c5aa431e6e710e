//! The JSON header as peers print it, read and written byte by byte, without a parser's detours.
//!
//! What is printed in another way (blanks, nested values, rare escapes) is `None` here and left to the lenient reader of
//! `command`; what both can read they read alike.

use bytes::BytesMut;
use bytestring::ByteString;

use crate::command::{Command, Language};
use crate::ext::ExtFields;
use crate::header::{FieldSink, with_digits};
use crate::topic;

/// A send has 14 fields.
const USUAL_FIELDS: usize = 16;

/// A command without its body.
pub(crate) fn read(header: &ByteString) -> Option<Command> {
    let mut reader = Reader { source: header, at: 0 };
    let mut command = Command { language: Language::OTHER, version: 0, ..Command::request(0) };
    let mut code = None;
    reader.eat(b'{')?;
    loop {
        match reader.key()? {
            "code" => code = Some(reader.number()?),
            "flag" => command.flag = reader.number()?,
            "opaque" => command.opaque = reader.number()?,
            "version" => command.version = reader.number()?,
            "language" => command.language = Language::from_name(&reader.text()?),
            "remark" => command.remark = Some(reader.text()?),
            "serializeTypeCurrentRPC" => drop(reader.text()?),
            "extFields" => command.ext = reader.fields()?,
            _ => return None,
        }
        if !reader.goes_on()? {
            break;
        }
    }
    command.code = code?;
    (reader.at == header.len()).then_some(command)
}

struct Reader<'s> {
    source: &'s ByteString,
    at: usize,
}

impl<'s> Reader<'s> {
    fn byte(&self) -> Option<u8> {
        self.source.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.byte()? == byte).then(|| self.at += 1)
    }

    /// Behind a value: another one follows, or the object ends.
    fn goes_on(&mut self) -> Option<bool> {
        let byte = self.byte()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            b'}' => Some(false),
            _ => None,
        }
    }

    fn key(&mut self) -> Option<&'s str> {
        let key = self.plain()?;
        self.eat(b':')?;
        Some(key)
    }

    fn fields(&mut self) -> Option<ExtFields> {
        let mut fields = ExtFields::with_capacity(USUAL_FIELDS);
        self.eat(b'{')?;
        if self.byte()? == b'}' {
            self.at += 1;
            return Some(fields);
        }
        loop {
            let key = self.key()?;
            let value = if self.byte()? == b'"' { self.text()? } else { shared(self.source, self.integer()?) };
            fields.push(shared(self.source, key), value);
            if !self.goes_on()? {
                return Some(fields);
            }
        }
    }

    fn number(&mut self) -> Option<i32> {
        self.integer()?.parse().ok()
    }

    /// As any writer prints it: no leading zero, no fraction.
    fn integer(&mut self) -> Option<&'s str> {
        let start = self.at;
        let negative = usize::from(self.byte()? == b'-');
        self.at += negative;
        while self.byte()?.is_ascii_digit() {
            self.at += 1;
        }
        let digits = &self.source.as_bytes()[start + negative..self.at];
        let canonical = match digits {
            [] => false,
            [b'0', rest @ ..] => rest.is_empty() && negative == 0,
            digits => digits.len() <= 18,
        };
        (canonical && matches!(self.byte()?, b',' | b'}')).then(|| &self.source[start..self.at])
    }

    /// A text without escapes.
    fn plain(&mut self) -> Option<&'s str> {
        self.eat(b'"')?;
        let rest = &self.source[self.at..];
        let end = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
        if rest.as_bytes()[end] != b'"' {
            return None;
        }
        self.at += end + 1;
        Some(&rest[..end])
    }

    fn text(&mut self) -> Option<ByteString> {
        let start = self.at;
        if let Some(text) = self.plain() {
            return Some(shared(self.source, text));
        }
        self.at = start;
        self.eat(b'"')?;
        self.escaped()
    }

    /// The rest of a text, with the escapes that stand for ASCII.
    fn escaped(&mut self) -> Option<ByteString> {
        let mut text = String::with_capacity(128);
        loop {
            let rest = &self.source[self.at..];
            let end = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
            text.push_str(&rest[..end]);
            self.at += end + 1;
            match rest.as_bytes()[end] {
                b'"' => return Some(text.into()),
                b'\\' => text.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let kind = self.byte()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.source.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                let value =
                    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?));
                char::from_u32(value?).filter(char::is_ascii)?
            }
            _ => return None,
        })
    }
}

/// Most keys and many values are the same in every header: these need no share in its buffer.
fn shared(source: &ByteString, text: &str) -> ByteString {
    match well_known(text) {
        Some(known) => ByteString::from_static(known),
        None => source.slice_ref(text),
    }
}

fn well_known(text: &str) -> Option<&'static str> {
    const DIGITS: &str = "0123456789";
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
    let one = |all: &'static str, index: u8| &all[usize::from(index)..][..1];
    Some(match text.as_bytes() {
        [digit @ b'0'..=b'9'] => one(DIGITS, digit - b'0'),
        [letter @ b'a'..=b'z'] => one(LETTERS, letter - b'a'),
        b"true" => "true",
        b"false" => "false",
        _ if text == topic::AUTO_CREATE => topic::AUTO_CREATE,
        _ => return None,
    })
}

/// Writes a header, keys in fastjson's order. `fields` adds to the command's own.
pub(crate) fn write(command: &Command, fields: impl FnOnce(&mut Fields<'_>), out: &mut BytesMut) {
    let number = |out: &mut BytesMut, key: &[u8], number: i32| {
        out.extend_from_slice(key);
        with_digits(number.into(), |digits| out.extend_from_slice(digits.as_bytes()));
    };
    number(out, b"{\"code\":", command.code);
    let mut object = Fields { out, any: false };
    for (key, value) in command.ext.iter() {
        object.pair(key, value);
    }
    fields(&mut object);
    object.end();
    number(out, b",\"flag\":", command.flag);
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(command.language.name().as_bytes());
    number(out, b"\",\"opaque\":", command.opaque);
    if let Some(remark) = &command.remark {
        out.extend_from_slice(b",\"remark\":");
        write_text(remark, out);
    }
    number(out, b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", command.version);
    out.extend_from_slice(b"}");
}

/// The object `extFields`, which is left out when it has no field.
pub(crate) struct Fields<'o> {
    out: &'o mut BytesMut,
    any: bool,
}

impl Fields<'_> {
    fn pair(&mut self, key: &str, value: &str) {
        self.out.extend_from_slice(if self.any { b"," } else { b",\"extFields\":{" });
        self.any = true;
        write_text(key, self.out);
        self.out.extend_from_slice(b":");
        write_text(value, self.out);
    }

    fn end(self) {
        if self.any {
            self.out.extend_from_slice(b"}");
        }
    }
}

impl FieldSink for Fields<'_> {
    fn text(&mut self, name: &'static str, value: &ByteString) {
        self.pair(name, value);
    }

    fn digits(&mut self, name: &'static str, digits: &str) {
        self.pair(name, digits);
    }
}

fn write_text(text: &str, out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\"");
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x8 => out.extend_from_slice(b"\\b"),
            0xc => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\"");
}
