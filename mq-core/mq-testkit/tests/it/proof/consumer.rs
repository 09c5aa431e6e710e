//! The consumer of a run: the real inbox, whose effect is one red packet for each order that was paid.

use mq_client::{Message, ReceivedMessage};
use mq_protocol::record::StoredMessage;
use txn_sdk::{Consumer, Delivered, Effect, Inbox, Msg};

use super::beyond::{PACKETS, PACKETS_GROUP};
use super::broker::{QUEUE, TOPIC};
use super::database::{Database, Tx, insert};
use super::points::{Actor, Day, Point};
use super::process::Process;
use super::service::received;
use super::world::{Dead, Pass, Service, World};

pub(crate) struct Consuming {
    pub(crate) process: Process,
    pub(crate) database: Database,
    inbox: Inbox<Database>,
    /// By which its handler emits.
    pub(crate) sender: Option<Service>,
}

impl World {
    pub(crate) async fn start_consumer(&mut self) {
        let process = self.new_process(Actor::Consumer);
        let database = self.packets.used_by(&process);
        let sender = match self.plan.day {
            Day::Beyond => Some(self.sender(process.clone(), database.clone(), PACKETS_GROUP, PACKETS).await),
            _ => None,
        };
        let inbox = sender.as_ref().map_or_else(|| Inbox::new(database.clone()), |it| Inbox::of(&it.producer));
        self.start(inbox.prepare()).await;
        self.consumer = Some(Consuming { process, database, inbox, sender });
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
        let Some(Consuming { inbox, sender, .. }) = &self.consumer else { return Err(Dead) };
        let (inbox, emits) = (inbox.clone(), sender.is_some());
        self.facts.effects += 1;
        self.facts.delivering = Some(message.clone());
        let delivers = delivered_to(inbox, received(message), self.facts.effects, emits);
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

async fn delivered_to(inbox: Inbox<Database>, message: ReceivedMessage, effect: u64, emits: bool) -> Delivered {
    let consumer = Consumer::builder("nowhere").group("red-packet").inbox(inbox);
    if emits {
        return consumer
            .on_emitting(TOPIC, async |tx: &mut _, order| packs_and_emits(tx, order, effect).await)
            .deliver(message)
            .await;
    }
    let packs = async move |tx: &mut Tx, order: Msg<String>| insert(tx, &format!("{}/{effect}", order.body)).await;
    consumer.on(TOPIC, packs).deliver(message).await
}

/// One packet, and a message that says so.
async fn packs_and_emits(tx: &mut Effect<Database>, order: Msg<String>, effect: u64) -> Result<(), String> {
    let order = order.body;
    insert(tx.handle(), &format!("{order}/{effect}")).await?;
    let message = Message::new(PACKETS, format!("{order:?}")).key(order);
    tx.emit(message).await.map(drop).map_err(|error| error.to_string())
}
