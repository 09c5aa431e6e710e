//! The consumer of a run: the real inbox, whose effect is one red packet for each order that was paid.

use mq_client::ReceivedMessage;
use mq_protocol::record::StoredMessage;
use txn_sdk::{Consumer, Delivered, Inbox, Msg};

use super::broker::{QUEUE, TOPIC};
use super::database::{Database, Tx, insert};
use super::points::{Actor, Point};
use super::process::Process;
use super::service::received;
use super::world::{Dead, Pass, World};

pub(crate) struct Consuming {
    pub(crate) process: Process,
    pub(crate) database: Database,
    inbox: Inbox<Database>,
}

impl World {
    pub(crate) async fn start_consumer(&mut self) {
        let process = self.new_process(Actor::Consumer);
        let database = self.packets.used_by(&process);
        let inbox = Inbox::new(database.clone());
        self.start(inbox.prepare()).await;
        self.consumer = Some(Consuming { process, database, inbox });
    }

    /// Takes what is there, message by message, until one has to wait.
    pub(crate) async fn consume(&mut self) {
        while let Some(message) = self.next_message() {
            if !matches!(self.deliver_and_acknowledge(&message).await, Ok(true)) {
                break;
            }
        }
        self.audit();
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.next_message().is_none()
    }

    fn next_message(&self) -> Option<StoredMessage> {
        let store = &self.running().store;
        let entry = store.entry(TOPIC, QUEUE, self.facts.consumed).expect("the queue can be read")?;
        let message = store.read(entry.log_offset).expect("the log can be read")?;
        (message.log_offset < store.durable()).then_some(message)
    }

    /// False: it is to be delivered again.
    async fn deliver_and_acknowledge(&mut self, message: &StoredMessage) -> Result<bool, Dead> {
        if self.consumer.is_none() {
            return Ok(false);
        }
        let pass = self.arrive(Point::Received).await?;
        if pass == Pass::Fails {
            return Ok(false);
        }
        for _ in 0..if pass == Pass::Twice { 2 } else { 1 } {
            if !self.deliver(message).await? {
                return Ok(false);
            }
        }
        self.leave(Point::Received)?;
        if self.arrive(Point::BeforeAck).await? == Pass::Fails {
            return Ok(false);
        }
        self.leave(Point::BeforeAck)?;
        let pass = self.arrive(Point::AckLost).await?;
        if pass != Pass::Fails && self.facts.consumed == message.queue_offset {
            self.facts.consumed = message.queue_offset.plus(1);
        }
        if pass == Pass::Twice {
            Box::pin(self.deliver(message)).await?;
        }
        self.leave(Point::AckLost)?;
        Ok(pass != Pass::Fails)
    }

    /// Whether it was taken.
    async fn deliver(&mut self, message: &StoredMessage) -> Result<bool, Dead> {
        let Some(Consuming { inbox, .. }) = &self.consumer else { return Err(Dead) };
        let inbox = inbox.clone();
        self.facts.effects += 1;
        self.facts.delivering = Some(message.clone());
        let delivers = delivered_to(inbox, received(message), self.facts.effects);
        let delivered = self.drive(Actor::Consumer, delivers).await.ok_or(Dead)?;
        self.note(format!("{} is delivered: {delivered:?}", message.queue_offset));
        self.audit();
        Ok(!matches!(delivered, Delivered::Later(_)))
    }

    /// The broker takes the consumer for dead, and gives its message to another one while it is at work.
    pub(crate) async fn delivered_elsewhere(&mut self) {
        if let Some(message) = self.facts.delivering.clone() {
            let _ = self.deliver(&message).await;
        }
    }
}

async fn delivered_to(inbox: Inbox<Database>, message: ReceivedMessage, effect: u64) -> Delivered {
    let packs = async move |tx: &mut Tx, order: Msg<String>| insert(tx, &format!("{}/{effect}", order.body)).await;
    let consumer = Consumer::builder("nowhere").group("red-packet").inbox(inbox).on(TOPIC, packs);
    consumer.deliver(message).await
}
