//! The identity of one transaction: a time-ordered UUID that travels as a property of the message.

use std::{fmt, str::FromStr};

use mq_protocol::ids::UnixMillis;
use uuid::{Builder, Uuid};

/// The property that carries the id. UNIQ_KEY stays as Java lays it out, because tools decode a time from it.
pub const TRANSACTION_ID_PROPERTY: &str = mq_client::property::SDK_TRANSACTION;

/// The property that carries the [`DatabaseId`].
pub(crate) const DATABASE_PROPERTY: &str = mq_client::property::SDK_DATABASE;

/// The name of a database with our tables in it, given by the first that opened it. Only this one knows of a transaction of
/// its own; that another one knows nothing says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseId(Uuid);

impl DatabaseId {
    pub(crate) fn fresh() -> Self {
        Self(TransactionId::fresh().0)
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.simple(), f)
    }
}

/// The key of a transaction in the marker table. Its first 48 bits are its time of birth, so that the row, the check
/// and the clean-up all read one and the same time whatever their clocks say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(Uuid);

impl TransactionId {
    /// A fresh id, born now.
    #[must_use]
    pub fn fresh() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(id) = crate::simulation::next_id() {
            return id;
        }
        Self(Uuid::now_v7())
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn numbered(born: UnixMillis, number: u64) -> Self {
        let mut tail = [0; 10];
        tail[2..].copy_from_slice(&number.to_be_bytes());
        Self(Builder::from_unix_timestamp_millis(u64::try_from(born.0).unwrap_or(0), &tail).into_uuid())
    }

    /// A fresh id with a given time of birth (an import, a test).
    #[must_use]
    pub fn born_at(born: UnixMillis) -> Self {
        let random = *Uuid::new_v4().as_bytes();
        let tail = random.last_chunk().expect("a UUID has sixteen bytes");
        Self(Builder::from_unix_timestamp_millis(u64::try_from(born.0).unwrap_or(0), tail).into_uuid())
    }

    #[must_use]
    pub fn born(&self) -> UnixMillis {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0.as_bytes()[..6]);
        UnixMillis(i64::from_be_bytes(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The smallest id that can be born at `born`: every older one sorts below it.
    pub(crate) fn lower_bound(born: UnixMillis) -> [u8; 16] {
        let millis = u64::try_from(born.0).unwrap_or(0).to_be_bytes();
        let mut bound = [0; 16];
        bound[..6].copy_from_slice(&millis[2..]);
        bound
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not the id of a transaction of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a version 7 UUID")]
pub struct InvalidTransactionId;

impl TryFrom<&[u8]> for TransactionId {
    type Error = InvalidTransactionId;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        match Uuid::from_slice(bytes) {
            Ok(id) if id.get_version_num() == 7 => Ok(Self(id)),
            _ => Err(InvalidTransactionId),
        }
    }
}

impl FromStr for TransactionId {
    type Err = InvalidTransactionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Uuid::try_parse(text) {
            Ok(id) if id.get_version_num() == 7 => Ok(Self(id)),
            _ => Err(InvalidTransactionId),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn birth_survives_text_and_orders_ids() {
        for millis in [0, 1, 1_700_000_000_000, (1 << 48) - 1] {
            let id = TransactionId::born_at(UnixMillis(millis));
            let read: TransactionId = id.to_string().parse().unwrap();
            assert_eq!((read, read.born()), (id, UnixMillis(millis)));
            assert!(TransactionId::lower_bound(UnixMillis(millis)) <= *id.as_bytes());
            assert!(*id.as_bytes() < TransactionId::lower_bound(UnixMillis(millis + 1)) || millis == (1 << 48) - 1);
        }
    }

    #[test]
    fn foreign_ids_are_refused() {
        for text in ["", "7F0000010A1B18B4AAC2", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", &Uuid::new_v4().to_string()] {
            assert_eq!(text.parse::<TransactionId>(), Err(InvalidTransactionId), "{text:?}");
        }
    }
}
