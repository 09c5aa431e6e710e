//! Typed headers: the `extFields` of each request and response.

use bytestring::ByteString;

use crate::ext::ExtFields;

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
