//! The `extFields` of a header: a short list of text pairs that share the frame's buffer.

use bytestring::ByteString;

use crate::header::FieldSink;

/// Text pairs in the order of the wire. Lookups are linear: a header has at most some twenty fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtFields(Vec<(ByteString, ByteString)>);

impl ExtFields {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&ByteString> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    /// Adds a pair; the caller knows that the key is new.
    pub fn push(&mut self, key: impl Into<ByteString>, value: impl Into<ByteString>) {
        self.0.push((key.into(), value.into()));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ByteString, &ByteString)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FieldSink for ExtFields {
    fn text(&mut self, name: &'static str, value: &ByteString) {
        self.push(ByteString::from_static(name), value.clone());
    }

    fn digits(&mut self, name: &'static str, digits: &str) {
        self.push(ByteString::from_static(name), digits);
    }
}

impl FromIterator<(ByteString, ByteString)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (ByteString, ByteString)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}
