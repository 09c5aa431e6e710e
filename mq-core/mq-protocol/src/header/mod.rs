//! Typed headers: the `extFields` of each request and response, under Apache's field names.
//!
//! Reading is lenient (unknown fields are ignored, only what a handler cannot do without is required), writing strict.

mod admin;
mod client;
mod control;
mod inspect;
mod namesrv;
mod offset;
mod pop;
mod pull;
mod recall;
mod send;
mod transaction;

use bytestring::ByteString;

use crate::ext::ExtFields;
use crate::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};

pub use admin::*;
pub use client::*;
pub use control::*;
pub use inspect::*;
pub use namesrv::*;
pub use offset::*;
pub use pop::*;
pub use pull::*;
pub use recall::*;
pub use send::*;
pub use transaction::*;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the header lacks {0}")]
    Missing(&'static str),
    #[error("the header's {field} is not {expected}: {value:?}")]
    Malformed { field: &'static str, expected: &'static str, value: ByteString },
}

pub trait Header: Sized {
    fn decode(ext: &ExtFields) -> Result<Self, HeaderError>;
    fn encode(&self, fields: &mut impl FieldSink);
}

/// Where a header is written: a list of fields, or a frame.
pub trait FieldSink {
    fn text(&mut self, name: &'static str, value: &ByteString);
    fn digits(&mut self, name: &'static str, digits: &str);
}

/// Hands over the decimal form without an allocation.
pub(crate) fn with_digits<R>(number: i128, then: impl FnOnce(&str) -> R) -> R {
    let mut buffer = [0; 21];
    let mut at = buffer.len();
    let mut rest = u64::try_from(number.unsigned_abs()).expect("numbers on the wire have 64 bits");
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    then(std::str::from_utf8(&buffer[at..]).expect("digits are ASCII"))
}

/// A value that travels as text.
trait Value: Sized {
    const EXPECTED: &'static str;
    fn read(text: &ByteString) -> Option<Self>;
    fn write(&self, name: &'static str, fields: &mut impl FieldSink);
}

impl Value for ByteString {
    const EXPECTED: &'static str = "text";
    fn read(text: &ByteString) -> Option<Self> {
        Some(text.clone())
    }
    fn write(&self, name: &'static str, fields: &mut impl FieldSink) {
        fields.text(name, self);
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(text: &ByteString) -> Option<Self> {
        match &**text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
    fn write(&self, name: &'static str, fields: &mut impl FieldSink) {
        fields.text(name, &ByteString::from_static(if *self { "true" } else { "false" }));
    }
}

macro_rules! number_values {
    ($($type:ty: |$number:ident| $primitive:expr),+ $(,)?) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = concat!("a number (", stringify!($type), ")");
            fn read(text: &ByteString) -> Option<Self> {
                text.parse().ok()
            }
            fn write(&self, name: &'static str, fields: &mut impl FieldSink) {
                let $number = self;
                with_digits(i128::from($primitive), |digits| fields.digits(name, digits));
            }
        }
    )+};
}
number_values!(
    i32: |number| *number,
    i64: |number| *number,
    u32: |number| *number,
    u64: |number| *number,
    LogOffset: |number| number.0,
    QueueId: |number| number.0,
    QueueOffset: |number| number.0,
    UnixMillis: |number| number.0,
);

/// A field of a header: a required value, or an optional one.
trait Field: Sized {
    fn get(text: Option<&ByteString>, name: &'static str) -> Result<Self, HeaderError>;
    fn put(&self, fields: &mut impl FieldSink, name: &'static str);
}

impl<V: Value> Field for V {
    fn get(text: Option<&ByteString>, name: &'static str) -> Result<Self, HeaderError> {
        <Option<V> as Field>::get(text, name)?.ok_or(HeaderError::Missing(name))
    }
    fn put(&self, fields: &mut impl FieldSink, name: &'static str) {
        self.write(name, fields);
    }
}

impl<V: Value> Field for Option<V> {
    fn get(text: Option<&ByteString>, name: &'static str) -> Result<Self, HeaderError> {
        let Some(text) = text else { return Ok(None) };
        let malformed = || HeaderError::Malformed { field: name, expected: V::EXPECTED, value: text.clone() };
        V::read(text).map(Some).ok_or_else(malformed)
    }
    fn put(&self, fields: &mut impl FieldSink, name: &'static str) {
        if let Some(value) = self {
            value.put(fields, name);
        }
    }
}

/// Finds the text of each field in one pass; the first of a name counts.
macro_rules! read_fields {
    ($ext:expr, $($field:ident: $wire:literal),* $(,)?) => {
        $(let mut $field: Option<&bytestring::ByteString> = None;)*
        for (key, value) in $ext.iter() {
            match &**key {
                $($wire => $field = $field.or(Some(value)),)*
                _ => {}
            }
        }
    };
}
use read_fields;

/// Declares headers: `field: Type = "wireName"`. `Option` fields may be absent, the others must be there.
macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $wire:literal),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

        impl $crate::header::Header for $name {
            #[allow(unused_variables, reason = "a header may have no fields")]
            fn decode(ext: &$crate::ext::ExtFields) -> Result<Self, $crate::header::HeaderError> {
                $crate::header::read_fields!(ext, $($field: $wire),*);
                Ok(Self { $($field: $crate::header::Field::get($field, $wire)?),* })
            }
            #[allow(unused_variables, reason = "a header may have no fields")]
            fn encode(&self, fields: &mut impl $crate::header::FieldSink) {
                $($crate::header::Field::put(&self.$field, fields, $wire);)*
            }
        }
    )+};
}
use headers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_malformed_fields_are_named() {
        let ext = |pairs: &[(&'static str, &'static str)]| -> ExtFields {
            pairs.iter().map(|(k, v)| (ByteString::from_static(k), ByteString::from_static(v))).collect()
        };
        assert_eq!(GetMinOffset::decode(&ext(&[("topic", "t")])), Err(HeaderError::Missing("queueId")));
        let error = GetMinOffset::decode(&ext(&[("topic", "t"), ("queueId", "-1")])).expect_err("no queue");
        assert_eq!(error.to_string(), "the header's queueId is not a number (QueueId): \"-1\"");
        assert!(GetMinOffset::decode(&ext(&[("x", "y"), ("queueId", "3"), ("topic", "t")])).is_ok());
    }

    #[test]
    fn the_short_names_of_send_v2_carry_the_same_header() {
        let header = SendMessage { bname: Some("b".into()), ..SendMessage::new("g".into(), "t".into()) };
        let (mut long, mut short) = (ExtFields::default(), ExtFields::default());
        header.encode(&mut long);
        header.encode_v2(&mut short);
        assert_eq!(SendMessage::decode(&long), Ok(header.clone()));
        assert_eq!(SendMessage::decode_v2(&short), Ok(header));
        assert!(short.iter().all(|(key, _)| key.len() == 1));
    }
}
