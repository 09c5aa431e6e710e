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
    fn encode(&self, ext: &mut ExtFields);
}

/// A value that travels as text.
trait Value: Sized {
    const EXPECTED: &'static str;
    fn read(text: &ByteString) -> Option<Self>;
    fn write(&self) -> ByteString;
}

impl Value for ByteString {
    const EXPECTED: &'static str = "text";
    fn read(text: &ByteString) -> Option<Self> {
        Some(text.clone())
    }
    fn write(&self) -> ByteString {
        self.clone()
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
    fn write(&self) -> ByteString {
        ByteString::from_static(if *self { "true" } else { "false" })
    }
}

macro_rules! number_values {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = concat!("a number (", stringify!($type), ")");
            fn read(text: &ByteString) -> Option<Self> {
                text.parse().ok()
            }
            fn write(&self) -> ByteString {
                self.to_string().into()
            }
        }
    )+};
}
number_values!(i32, i64, u32, u64, LogOffset, QueueId, QueueOffset, UnixMillis);

/// A field of a header: a required value, or an optional one.
trait Field: Sized {
    fn get(ext: &ExtFields, name: &'static str) -> Result<Self, HeaderError>;
    fn put(&self, ext: &mut ExtFields, name: &'static str);
}

impl<V: Value> Field for V {
    fn get(ext: &ExtFields, name: &'static str) -> Result<Self, HeaderError> {
        <Option<V> as Field>::get(ext, name)?.ok_or(HeaderError::Missing(name))
    }
    fn put(&self, ext: &mut ExtFields, name: &'static str) {
        ext.push(ByteString::from_static(name), self.write());
    }
}

impl<V: Value> Field for Option<V> {
    fn get(ext: &ExtFields, name: &'static str) -> Result<Self, HeaderError> {
        let Some(text) = ext.get(name) else { return Ok(None) };
        let malformed = || HeaderError::Malformed { field: name, expected: V::EXPECTED, value: text.clone() };
        V::read(text).map(Some).ok_or_else(malformed)
    }
    fn put(&self, ext: &mut ExtFields, name: &'static str) {
        if let Some(value) = self {
            value.put(ext, name);
        }
    }
}

/// Declares headers: `field: Type = "wireName"`. `Option` fields may be absent, the others must be there.
macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $wire:literal),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

        impl $crate::header::Header for $name {
            #[allow(unused_variables, reason = "a header may have no fields")]
            fn decode(ext: &$crate::ext::ExtFields) -> Result<Self, $crate::header::HeaderError> {
                Ok(Self { $($field: $crate::header::Field::get(ext, $wire)?),* })
            }
            #[allow(unused_variables, reason = "a header may have no fields")]
            fn encode(&self, ext: &mut $crate::ext::ExtFields) {
                $($crate::header::Field::put(&self.$field, ext, $wire);)*
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
