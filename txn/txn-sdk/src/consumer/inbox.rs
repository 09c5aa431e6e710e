//! The inbox: one row per message whose effect is in this database, written in the transaction of the effect. Knows no
//! broker and no handler.

use std::{fmt, sync::Arc, time::Duration};

use mq_client::{InboxAnswer, ReceivedMessage};
use mq_protocol::ids::UnixMillis;

use crate::{
    clock,
    database::{self, Database, DatabaseError, PoolSize, Side, Value},
    housekeeping::{Housekeeper, Rows},
    planted::{Bug, planted},
    producer::{Link, TxnProducer},
    schema,
};

/// Longest key, and longest tag, of a message; longer ones are refused rather than cut, which would make two of them one.
const MAX_KEY_BYTES: usize = 1024;
/// Of a group and of a topic. All four together are a key that each of the databases can index.
const MAX_NAME_BYTES: usize = 255;
/// How long the clean-up waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a look for one row waits for a lock.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

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
            1.. => Ok(key),
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
    /// Its row did not go in, and no other is there: the database's durability was changed meanwhile, or a trigger keeps
    /// the row out.
    #[error("the message's row was not written, and no earlier one is there")]
    NotWritten,
    #[error("the message's {part} takes {bytes} bytes, the limit is {limit}")]
    TooLong { part: &'static str, bytes: usize, limit: usize },
}

/// Remembers in `D` which messages have had their effect there.
#[derive(Clone, Debug)]
pub struct Inbox<D> {
    database: D,
    key: Key,
    keep: Duration,
    /// The producer of what handlers emit, alive as long as the consumer.
    emits_by: Option<Arc<Link>>,
}

impl<D: Database> Inbox<D> {
    pub fn new(database: D) -> Self {
        Self {
            database: database.with_own_pool(PoolSize::Same),
            key: Key::default(),
            keep: Duration::from_secs(7 * 24 * 3600),
            emits_by: None,
        }
    }

    /// In the database of `producer`, so that handlers can [emit](super::Effect::emit) by it: their markers are where its
    /// checkbacks look. Shut the producer down after the consumer.
    pub fn of(producer: &TxnProducer<D>) -> Self {
        Self { emits_by: Some(producer.link()), ..Self::new(producer.database().clone()) }
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

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.emits_by.clone()
    }

    /// Says of messages whether their effect is there, on a connection of its own. `mq explain` asks a running consumer
    /// for it; a service may ask itself.
    pub fn witness(&self, group: impl Into<String>) -> Result<Witness<D>, DatabaseError> {
        let side = Side::of(&self.database, 1, LOOK_TIMEOUT)?;
        Ok(Witness { side, key: self.key.clone(), group: group.into() })
    }

    pub(crate) fn housekeeper(&self, group: &str) -> Result<Housekeeper<D>, DatabaseError> {
        let side = Side::of(&self.database, 1, LOCK_TIMEOUT)?;
        Ok(Housekeeper::new(side, Rows::Inbox(group.to_owned()), self.keep))
    }

    /// Writes the message's row into `tx`. False: its effect is already in this database.
    pub(crate) async fn admit(
        &self,
        tx: &mut D::Tx,
        group: &str,
        message: &ReceivedMessage,
    ) -> Result<bool, InboxError> {
        let row = InboxRow::new(group, message, self.key.of(message)?)?;
        let [group, topic, tag, key] = row.columns();
        let values = [group, topic, tag, key, Value::Number(clock::now().0)];
        let dialect = D::dialect_of(tx);
        if database::insert::<D>(tx, dialect.insert_inbox, &values).await? || planted(Bug::DuplicateIsNew) {
            return Ok(true);
        }
        schema::require_durable::<D>(tx).await?;
        // A row may have been kept out for another reason than one that is there, and only that one is an effect.
        match D::row::<1>(tx, dialect.look_inbox, &row.columns()).await? {
            Some(_) => Ok(false),
            None => Err(InboxError::NotWritten),
        }
    }

    /// Ends the transaction of a duplicate. After that its first delivery's commit is on disk, and it may be acknowledged.
    pub(crate) async fn leave(mut tx: D::Tx) -> Result<(), DatabaseError> {
        match D::dialect_of(&tx).barrier {
            Some(barrier) => {
                D::execute(&mut tx, barrier, &[]).await?;
                database::commit::<D>(tx).await
            }
            None => D::rollback(tx).await,
        }
    }
}

/// Made by [`Inbox::witness`].
#[derive(Clone, Debug)]
pub struct Witness<D> {
    side: Side<D>,
    key: Key,
    group: String,
}

impl<D: Database> Witness<D> {
    /// Whether the effect of `message` is committed in the inbox's database.
    pub async fn look(&self, message: &ReceivedMessage) -> InboxAnswer {
        let unknown = |error: InboxError| InboxAnswer::Unknown { reason: error.to_string() };
        self.row(message).await.unwrap_or_else(unknown)
    }

    async fn row(&self, message: &ReceivedMessage) -> Result<InboxAnswer, InboxError> {
        let row = InboxRow::new(&self.group, message, self.key.of(message)?)?;
        let found = self.side.rows::<0, 1>(self.side.dialect().look_inbox, &row.columns()).await?;
        Ok(match found.first() {
            Some(cells) => InboxAnswer::Done { key: row.key, at: UnixMillis(cells.numbers[0]) },
            None => InboxAnswer::NotThere { key: row.key },
        })
    }
}

/// The key of a message's row.
struct InboxRow {
    group: String,
    topic: String,
    tag: String,
    key: String,
}

impl InboxRow {
    fn new(group: &str, message: &ReceivedMessage, key: String) -> Result<Self, InboxError> {
        let tag = message.tags().unwrap_or_default().to_owned();
        let row = Self { group: group.to_owned(), topic: message.topic.to_string(), tag, key };
        for (part, text, limit) in [
            ("group", &row.group, MAX_NAME_BYTES),
            ("topic", &row.topic, MAX_NAME_BYTES),
            ("tag", &row.tag, MAX_KEY_BYTES),
            ("key", &row.key, MAX_KEY_BYTES),
        ] {
            if text.len() > limit {
                return Err(InboxError::TooLong { part, bytes: text.len(), limit });
            }
        }
        Ok(row)
    }

    fn columns(&self) -> [Value<'_>; 4] {
        [&self.group, &self.topic, &self.tag, &self.key].map(|text| Value::Bytes(text.as_bytes()))
    }
}
