//! The service of a run: the real SDK, tied to orders in its database; and callers who place them.

use std::sync::Arc;
use std::time::Duration;

use mq_client::{CheckedHalf, HalfReceipt, Message, MessageQueue, ReceivedMessage, Verdict};
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::StoredMessage;
use txn_coordinator::Check;
use txn_sdk::{MarkerOptions, OutboxOptions, Outcome, Sent, TxnError, TxnProducer};

use super::beyond::{DELAY, PACKETS_GROUP};
use super::broker::{GROUP, TOPIC};
use super::database::{Database, Tx, begin_anew, insert};
use super::points::{Actor, Day, Point};
use super::process::{Process, Unanswered};
use super::world::{Dead, Pass, Producer, Service, World};

/// From when on a checkback gives a transaction up: between its first check and its second.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long markers are kept: not as long as a process may be away. Nobody knows then, and nothing may go wrong.
const KEEP: Duration = Duration::from_secs(100);

/// What a caller's work does in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Pays,
    /// By several messages under one verdict.
    PaysInParts,
    /// Changes its mind after its row.
    Declines,
    /// The database gives the transaction up, and the work does not say so.
    BeginsAnew,
    /// By a message that is delivered a while after the commit.
    PaysLater,
    /// By a message that keeps the order of commits.
    PaysInOrder,
}

impl Work {
    /// The keys of its rows, each of which is that of a message.
    fn keys(self, order: &str) -> Vec<String> {
        match self {
            Self::PaysInParts => (1..=3).map(|part| format!("{order}#{part}")).collect(),
            _ => vec![order.to_owned()],
        }
    }
}

impl World {
    pub(crate) async fn start_service(&mut self) {
        let process = self.new_process(Actor::Service);
        let database = self.orders.used_by(&process);
        let service = self.sender(process, database, GROUP, TOPIC).await;
        self.service = Some(service);
        self.note("the service starts");
        self.clean().await;
    }

    /// A process that sends transactions, with what runs beside.
    pub(crate) async fn sender(&mut self, process: Process, database: Database, group: &str, topic: &str) -> Service {
        let options =
            MarkerOptions { deadline: DEADLINE, lock_timeout: Duration::ZERO, keep: KEEP, ..Default::default() };
        let outbox = (self.plan.day == Day::Beyond).then(OutboxOptions::default);
        let topics = [topic];
        let starts = TxnProducer::played(Arc::new(process.clone()), group, &topics, database.clone(), options, outbox);
        let producer = self.start(starts).await;
        let beside = (self.plan.day != Day::Ordinary).then(|| producer.beside().expect("a pool is made at once"));
        Service { process, database, producer, beside }
    }

    pub(crate) async fn clean(&mut self) {
        let Some(Service { producer, beside, .. }) = &self.service else { return };
        let (producer, by_the_clock) = (producer.clone(), beside.clone().filter(|_| self.plan.day == Day::Clocks));
        let cleans = async move {
            match by_the_clock {
                Some(beside) => beside.cleans().await.ok(),
                None => producer.cleans().await.ok(),
            }
        };
        let cleaned = self.drive(Actor::Service, cleans).await;
        self.note(format!("cleaned: {cleaned:?}"));
        self.audit();
    }

    /// One call of one caller.
    pub(crate) async fn place_order(&mut self, order: &str, work: Work) {
        let Some(Service { producer, .. }) = &self.service else { return };
        let sends = order_in(producer.clone(), order.to_owned(), work);
        self.note(format!("{order} {work:?}"));
        let said = match self.drive(Actor::Service, sends).await {
            None => "nothing",
            Some(Ok(Sent { outcome: Outcome::Committed, .. })) => "committed",
            Some(Ok(Sent { outcome: Outcome::RolledBack(_), .. })) => "rolled back",
            Some(Ok(Sent { outcome: Outcome::InDoubt, .. })) => "in doubt",
            Some(Err(error)) => {
                self.note(format!("{order}: {error}"));
                "refused"
            }
        };
        self.note(format!("{order}: {said}"));
        for key in work.keys(order) {
            if said == "committed" && !self.orders.committed().rows.contains(&key) {
                self.violation("T4", &format!("{key} was committed, says the SDK, and has no row"));
            }
            let before = self.facts.said.insert(key.clone(), said);
            if before.is_some() {
                self.facts.said.insert(key, "several things");
            }
        }
        self.let_tasks_run().await;
        self.audit();
    }

    /// The caller gets impatient, and calls again while the first call is still running.
    pub(crate) async fn caller_tries_again(&mut self) {
        let order = self.facts.order.clone();
        self.place_order(&order, Work::Pays).await;
    }

    /// A half of this group that no transaction of the SDK's sent: nobody knows what became of it.
    pub(crate) async fn send_orphan(&mut self) {
        let unique_key = self.next_unique_key();
        self.note(format!("orphan {unique_key}"));
        let sent = Message::new(TOPIC, "orphan");
        if let Ok(Ok(_)) = self.receive_half(GROUP, &sent, &unique_key).await {
            self.facts.orphans.insert(unique_key);
        }
        self.audit();
    }

    fn next_unique_key(&mut self) -> String {
        self.facts.messages += 1;
        format!("m{:04}", self.facts.messages)
    }

    /// A half on its way from the service to the broker, and the answer on its way back.
    pub(crate) async fn half_from(
        &mut self,
        actor: Actor,
        message: &Message,
    ) -> Result<Result<HalfReceipt, Unanswered>, Dead> {
        if self.facts.beyond.broker_is_away {
            return Ok(Err(Unanswered::No));
        }
        let (group, unique_key) = (group_of(actor), self.next_unique_key());
        let pass = self.arrive_as(actor, Point::HalfSent).await?;
        if pass == Pass::Fails {
            return Ok(Err(Unanswered::No));
        }
        if pass == Pass::Twice {
            let _ = self.receive_half(group, message, &unique_key).await;
        }
        let answered = self.receive_half(group, message, &unique_key).await.unwrap_or(Err(Unanswered::Lost));
        self.leave_as(actor, Point::HalfSent)?;
        match self.arrive_as(actor, Point::HalfAcked).await? {
            Pass::Fails => return Ok(Err(Unanswered::Lost)),
            Pass::Twice => self.once_more(actor).await,
            Pass::Go => {}
        }
        self.leave_as(actor, Point::HalfAcked)?;
        Ok(answered)
    }

    pub(crate) async fn end_from(
        &mut self,
        actor: Actor,
        half: &HalfReceipt,
        verdict: Verdict,
    ) -> Result<Result<(), Unanswered>, Dead> {
        if std::mem::take(&mut self.facts.loses_end) {
            self.note(format!("the END of {} is lost", half.message_id));
            return Ok(Err(Unanswered::Lost));
        }
        self.nothing_is_overtaken(actor, half, verdict);
        let pass = self.arrive_as(actor, Point::EndSent).await?;
        if pass == Pass::Fails {
            return Ok(Err(Unanswered::No));
        }
        if pass == Pass::Twice {
            let _ = self.receive_end(half, verdict).await;
        }
        let answered = self.receive_end(half, verdict).await.unwrap_or(Err(Unanswered::Lost));
        self.leave_as(actor, Point::EndSent)?;
        match self.arrive_as(actor, Point::EndAcked).await? {
            Pass::Fails => return Ok(Err(Unanswered::Lost)),
            Pass::Twice => self.once_more(actor).await,
            Pass::Go => {}
        }
        self.leave_as(actor, Point::EndAcked)?;
        Ok(answered)
    }

    /// A check arrives at the service, is answered from its database, and the answer goes back.
    pub(crate) async fn sender_is_asked(&mut self, check: &Check) {
        // Whoever died on the way, somebody else is asked later.
        let _ = self.answer_check(check).await;
    }

    /// Who can answer for a group, if it is there.
    pub(crate) fn asked(&self, group: &str) -> Option<(Actor, Producer)> {
        match group {
            GROUP => self.service.as_ref().map(|service| (Actor::Service, service.producer.clone())),
            _ => self.consumer.as_ref().and_then(|it| Some((Actor::Consumer, it.sender.as_ref()?.producer.clone()))),
        }
    }

    async fn answer_check(&mut self, check: &Check) -> Result<(), Dead> {
        let (actor, _) = self.asked(&check.producer_group).ok_or(Dead)?;
        let half = checked(check);
        let pass = self.arrive_as(actor, Point::CheckReceived).await?;
        if pass == Pass::Fails {
            return Ok(());
        }
        let mut verdict = Verdict::Unknown;
        for _ in 0..if pass == Pass::Twice { 2 } else { 1 } {
            let (_, producer) = self.asked(&check.producer_group).ok_or(Dead)?;
            let half = half.clone();
            let asks = async move { producer.asked(half).await };
            verdict = self.drive(actor, asks).await.ok_or(Dead)?;
        }
        self.note(format!("{} is answered {verdict:?}", half.half.message_id));
        self.leave_as(actor, Point::CheckReceived)?;
        let pass = self.arrive_as(actor, Point::CheckAnswered).await?;
        if pass == Pass::Fails {
            return Ok(());
        }
        if pass == Pass::Twice {
            let _ = self.receive_end(&half.half, verdict).await;
        }
        let _ = self.receive_end(&half.half, verdict).await;
        self.leave_as(actor, Point::CheckAnswered)
    }
}

async fn order_in(producer: Producer, order: String, work: Work) -> Result<Sent<String>, TxnError> {
    let keys = work.keys(&order);
    let message = |key: &String| {
        let message = Message::new(TOPIC, format!("{key:?}")).key(key.as_str());
        match work {
            Work::PaysLater => message.delay_from_commit(DELAY),
            Work::PaysInOrder => message.in_commit_order("orders"),
            _ => message,
        }
    };
    let pays = async |tx: &mut Tx| match work {
        Work::PaysInParts => {
            for key in &keys {
                insert(tx, key).await?;
            }
            Ok(())
        }
        Work::Pays | Work::PaysLater | Work::PaysInOrder => insert(tx, &order).await,
        Work::Declines => insert(tx, &order).await.and(Err("declined".to_owned())),
        Work::BeginsAnew => begin_anew(tx, &order).await,
    };
    match work {
        Work::PaysInParts => producer.send_all(keys.iter().map(message).collect(), pays).await,
        _ => producer.send(message(&order), pays).await,
    }
}

/// Under which group a process sends.
fn group_of(actor: Actor) -> &'static str {
    if actor == Actor::Consumer { PACKETS_GROUP } else { GROUP }
}

/// As a client reads it.
pub(crate) fn checked(check: &Check) -> CheckedHalf {
    let stored = StoredMessage::decode(&check.request.body).expect("a check holds its half");
    let message = received(&stored);
    let half = HalfReceipt {
        group: check.producer_group.clone(),
        topic: message.topic.clone(),
        message_id: message.message_id.clone(),
        transaction_id: message.message_id.clone(),
        broker_name: "broker-a".into(),
        half_offset: stored.queue_offset,
        log_offset: stored.log_offset,
    };
    CheckedHalf { half, message, checked_times: check.attempt }
}

pub(crate) fn received(stored: &StoredMessage) -> ReceivedMessage {
    let message = &stored.message;
    let properties = Properties::parse(&message.properties);
    let queue =
        MessageQueue { topic: message.topic.to_string(), broker_name: "broker-a".into(), queue_id: message.queue_id.0 };
    ReceivedMessage {
        topic: message.topic.clone(),
        body: message.body.clone(),
        message_id: properties.get(name::UNIQ_KEY).cloned().unwrap_or_default(),
        properties,
        queue: Arc::new(queue),
        queue_offset: stored.queue_offset,
        reconsume_times: message.reconsume_times,
        born_timestamp: message.born_timestamp,
        store_timestamp: stored.store_timestamp,
        flag: message.flag,
        sys_flag: message.sys_flag,
        log_offset: stored.log_offset,
        offset_message_id: "".into(),
    }
}
