//! The inbox: one row per message whose effect is in this database, written in the transaction of the effect. Knows no
//! broker and no handler.

use std::{fmt, sync::Arc, time::Duration};

use mq_client::ReceivedMessage;
use sqlx::sqlite::SqlitePoolOptions;

use crate::{
    clock,
    database::{Database, DatabaseError, Value},
    housekeeping::{Housekeeper, Rows},
    schema,
};

/// Inserts nothing when the message was here before, or when the commit would not be durable.
const INSERT: &str = "
    INSERT INTO checkback_inbox (consumer_group, topic, tag, message_key, created_ms)
    SELECT ?1, ?2, ?3, ?4, ?5
    WHERE (SELECT synchronous FROM pragma_synchronous) >= 2
    ON CONFLICT (consumer_group, topic, tag, message_key) DO NOTHING";

/// Longest key of a message; longer ones are refused rather than cut, which would make two of them one.
const MAX_KEY_BYTES: usize = 1024;

/// What makes two deliveries the same message.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Key {
    /// The message's one KEYS entry (an order number): two messages about the same order are one. A message without
    /// KEYS falls back to its unique id; one with several is refused, because only a [function](Key::by) can choose.
    #[default]
    Business,
    /// The id that the sending client gave it. Redeliveries and the client's own retries share it; a second message about
    /// the same thing does not.
    Message,
    /// Chosen by a function.
    By(KeyFunction),
}

type KeyFunction = Arc<dyn Fn(&ReceivedMessage) -> Option<String> + Send + Sync>;

impl Key {
    /// `None` refuses the message: it is retried, and in the end goes to the dead-letter topic.
    pub fn by(choose: impl Fn(&ReceivedMessage) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(choose))
    }

    fn of(&self, message: &ReceivedMessage) -> Result<String, InboxError> {
        let key = match self {
            Self::Business => business_key(message)?,
            Self::Message => message.message_id.to_string(),
            Self::By(choose) => choose(message).ok_or(InboxError::NoKey)?,
        };
        match key.len() {
            0 => Err(InboxError::NoKey),
            1..=MAX_KEY_BYTES => Ok(key),
            bytes => Err(InboxError::KeyTooLong { bytes }),
        }
    }
}

fn business_key(message: &ReceivedMessage) -> Result<String, InboxError> {
    let mut keys = message.keys();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(message.message_id.to_string()),
        (Some(key), None) => Ok(key.to_owned()),
        (Some(_), Some(_)) => Err(InboxError::SeveralKeys),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Business => "Business",
            Self::Message => "Message",
            Self::By(_) => "By",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the message has no key to tell it apart by")]
    NoKey,
    #[error("the message has several KEYS: say with Key::by which of them makes it unique")]
    SeveralKeys,
    #[error("the message's key takes {bytes} bytes, the limit is {MAX_KEY_BYTES}")]
    KeyTooLong { bytes: usize },
}

/// Remembers in `D` which messages have had their effect there.
#[derive(Clone, Debug)]
pub struct Inbox<D> {
    database: D,
    key: Key,
    keep: Duration,
}

impl<D: Database> Inbox<D> {
    pub fn new(database: D) -> Self {
        Self { database: database.with_own_pool(), key: Key::default(), keep: Duration::from_secs(7 * 24 * 3600) }
    }

    #[must_use]
    pub fn dedupe_by(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// How long a message is remembered: more than twice the broker's `fileReservedTime`.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Creates or migrates the tables; refuses a database whose commits would not survive a power cut.
    pub async fn prepare(&self) -> Result<(), DatabaseError> {
        schema::prepare(&self.database).await
    }

    pub(crate) fn database(&self) -> &D {
        &self.database
    }

    pub(crate) fn housekeeper(&self, group: &str) -> Result<Housekeeper, DatabaseError> {
        let connect = (*self.database.sqlite_pool()?.connect_options()).clone();
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(connect);
        Ok(Housekeeper { pool, rows: Rows::Inbox(group.to_owned()), keep: self.keep })
    }

    /// Writes the message's row into `tx`. False: its effect is already in this database.
    pub(crate) async fn admit(
        &self,
        tx: &mut D::Tx,
        group: &str,
        message: &ReceivedMessage,
    ) -> Result<bool, InboxError> {
        let key = self.key.of(message)?;
        let row = [
            Value::Bytes(group.as_bytes()),
            Value::Bytes(message.topic.as_bytes()),
            Value::Bytes(message.tags().unwrap_or_default().as_bytes()),
            Value::Bytes(key.as_bytes()),
            Value::Number(clock::now().0),
        ];
        if D::execute(tx, INSERT, &row).await? == 1 {
            return Ok(true);
        }
        match schema::synchronous::<D>(tx).await? {
            durable if durable >= 2 => Ok(false),
            weak => Err(DatabaseError::NotDurable(weak).into()),
        }
    }
}
