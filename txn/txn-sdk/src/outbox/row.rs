//! A message as a row of the outbox, and back.

use mq_client::{Message, Properties, property};

use crate::{
    database::{Cells, Database, DatabaseError, Side, Value},
    id::{TRANSACTION_ID_PROPERTY, TransactionId},
    producer::TxnError,
};

/// On a message that the relay delivered: the transaction that it belongs to.
pub(super) const OUTBOX_ID_PROPERTY: &str = property::SDK_OUTBOX_TRANSACTION;

/// Puts a message beside its marker, to be relayed once both are committed.
pub(crate) async fn store<D: Database>(
    tx: &mut D::Tx,
    id: TransactionId,
    group: &str,
    message: &Message,
) -> Result<(), DatabaseError> {
    let properties = message.properties().encode();
    let values = [
        Value::Bytes(id.as_bytes()),
        Value::Bytes(group.as_bytes()),
        Value::Bytes(message.topic().as_bytes()),
        Value::Bytes(properties.as_bytes()),
        Value::Bytes(message.body()),
        Value::Number(message.user_flag().into()),
        Value::Number(0),
    ];
    D::execute(tx, D::dialect_of(tx).insert_outbox, &values).await.map(drop)
}

/// A message that waits.
pub(super) struct Waiting {
    /// Of the transaction that it belongs to.
    pub(super) id: Vec<u8>,
    pub(super) attempts: u32,
    topic: String,
    /// `None`: they cannot be read, so that nothing of the message is sent.
    properties: Option<Properties>,
    body: Vec<u8>,
    flag: i32,
}

impl Waiting {
    /// The oldest of a topic that are due.
    pub(super) async fn batch<D: Database>(
        side: &Side<D>,
        group: &str,
        topic: &str,
        now_ms: i64,
        rows: i64,
    ) -> Result<Vec<Self>, DatabaseError> {
        let values = [
            Value::Bytes(group.as_bytes()),
            Value::Bytes(topic.as_bytes()),
            Value::Number(now_ms),
            Value::Number(rows),
        ];
        let cells = side.rows(side.dialect().outbox_batch, &values).await?;
        Ok(cells.into_iter().map(|cells| Self::read(topic, cells)).collect())
    }

    fn read(topic: &str, cells: Cells<3, 2>) -> Self {
        let ([id, properties, body], [flag, attempts]) = (cells.bytes, cells.numbers);
        Self {
            id,
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            topic: topic.to_owned(),
            properties: String::from_utf8(properties).ok().map(|text| Properties::parse(&text.into())),
            body,
            flag: i32::try_from(flag).unwrap_or_default(),
        }
    }

    /// The copy that the relay sends.
    pub(super) fn message(&self) -> Result<Message, TxnError> {
        let (Some(properties), Ok(id)) = (&self.properties, TransactionId::try_from(self.id.as_slice())) else {
            return Err(TxnError::UnreadableRow);
        };
        let message = Message::new(self.topic.as_str(), self.body.clone()).flag(self.flag);
        let properties = properties.iter();
        let message = properties.fold(message, |message, (name, value)| message.property(name.clone(), value.clone()));
        Ok(relayed(message, id))
    }
}

/// Its unique key is a new one: the broker takes messages of one group and key for one transaction, and a half that
/// reached it before is to be rolled back.
pub(crate) fn relayed(message: Message, id: TransactionId) -> Message {
    let message = message.property(property::UNIQ_KEY, "").property(TRANSACTION_ID_PROPERTY, "");
    message.property(OUTBOX_ID_PROPERTY, id.to_string())
}
