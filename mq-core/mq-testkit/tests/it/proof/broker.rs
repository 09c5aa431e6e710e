//! The broker of a run: the real store on the crash backend, the real coordinator, and the order of steps in which a
//! broker drives them.

use std::sync::Arc;
use std::time::Duration;

use mq_client::{HalfReceipt, Message as Sent, Verdict as Said};
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::properties::Properties;
use mq_protocol::record::{Message, StoredMessage};
use mq_store::backend::{CrashMode, Fault};
use mq_store::{Clock, FlushMode, Options, RecordRules, Store};
use rand::Rng;
use rand::seq::IndexedRandom;
use txn_coordinator::{
    Answer, Check, CheckResult, Coordinator, EndError, EndRequest, HalfOffset, Outcome, Refusal, Rules, StoredHalf,
    TransactionOptions, Verdict, followers, half_of,
};

use super::audit::{Found, asked_by};
use super::beyond::Waits;
use super::points::{Actor, Point};
use super::process::Unanswered;
use super::world::{Dead, Pass, World};

pub(crate) const GROUP: &str = "order-service";
pub(crate) const TOPIC: &str = "ORDER_PAID";
pub(crate) const QUEUE: QueueId = QueueId(0);
/// One while a transaction is young, two that may be lost with their processes, one that decides.
pub(crate) const CHECK_MAX: u32 = 4;
/// What the log refuses is tried once more, alone.
const TRIES: u64 = 2;

pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) coordinator: Coordinator,
}

/// A half that is in the log.
#[derive(Clone, Copy, Debug)]
struct Place {
    half: HalfOffset,
    log: LogOffset,
}

/// What belongs together in the log, as the broker tells the store.
struct Groups;

impl RecordRules for Groups {
    fn followers(&self, record: &StoredMessage) -> usize {
        followers(record)
    }
}

impl World {
    pub(crate) fn running(&self) -> &Running {
        self.broker.as_ref().expect("it is started again at once")
    }

    pub(crate) fn start_broker(&mut self) {
        let options = Options {
            segment_bytes: 64 << 10,
            queue_file_entries: 100,
            flush: FlushMode::Manual,
            rules: Arc::new(Groups),
            ..Options::default()
        };
        let (store, _) =
            Store::open(Arc::new(self.disk.clone()), options, self.clock.clone()).expect("the store opens");
        let host = "127.0.0.1:10911".parse().expect("an address");
        let rules = Rules { check_max: CHECK_MAX, reserved: Duration::from_secs(24 * 3600), ..Rules::default() };
        let options = TransactionOptions {
            rules,
            checkpoint_patience: Duration::ZERO,
            placing: Arc::new(Waits),
            ..TransactionOptions::new("broker-a", host)
        };
        let coordinator = Coordinator::open(store.clone(), Arc::new(self.disk.clone()), options, self.clock.clone());
        self.broker = Some(Running { store, coordinator: coordinator.expect("the coordinator opens") });
        self.broker_starts += 1;
    }

    /// Ends the broker's process, and with the power what the disk did not have yet, or some of it.
    pub(crate) fn cut_power(&mut self) {
        let mode = *CrashMode::ALL.choose(&mut self.dice).expect("some modes");
        let found = self.disk.crash(mode, self.dice.random());
        let Running { store, .. } = self.broker.take().expect("it runs");
        self.note(format!("{mode:?}: the log ended at {}, durable to {}", store.end(), store.durable()));
        drop(store);
        self.found = Found::default();
        self.disk = found;
        self.facts.delivered.clear();
        self.facts.beyond.unread.clear();
        self.facts.consumed = self.facts.consumed_saved;
        self.start_broker();
        self.audit();
    }

    /// The next writes or syncs fail.
    fn disk_fails(&mut self, times: u64) {
        let next = self.disk.operations();
        (next..next + times).for_each(|at| self.disk.plan(at, Fault::Fails(std::io::ErrorKind::StorageFull)));
    }

    /// A failed sync of the log ends the process.
    pub(crate) fn flush(&mut self) -> Result<(), Dead> {
        if self.running().store.flush().is_ok() {
            return Ok(());
        }
        self.kill(Actor::Broker);
        Err(Dead)
    }

    /// SEND_MESSAGE with a half, once it is parsed.
    pub(crate) async fn receive_half(
        &mut self,
        group: &str,
        sent: &Sent,
        unique_key: &str,
    ) -> Result<Result<HalfReceipt, Unanswered>, Dead> {
        let pass = self.arrive(Point::HalfParsed).await?;
        if pass == Pass::Fails {
            return Ok(Err(Unanswered::No));
        }
        self.leave(Point::HalfParsed)?;
        let Some(place) = self.store_half(group, sent, unique_key).await? else { return Ok(Err(Unanswered::No)) };
        if pass == Pass::Twice {
            self.store_half(group, sent, unique_key).await?;
        }
        if self.arrive(Point::HalfReplied).await? == Pass::Fails {
            return Ok(Err(Unanswered::Lost));
        }
        self.leave(Point::HalfReplied)?;
        Ok(Ok(HalfReceipt {
            group: group.into(),
            topic: sent.topic().into(),
            message_id: unique_key.into(),
            transaction_id: unique_key.into(),
            broker_name: "broker-a".into(),
            half_offset: place.half.into(),
            log_offset: place.log,
        }))
    }

    async fn store_half(&mut self, group: &str, sent: &Sent, unique_key: &str) -> Result<Option<Place>, Dead> {
        let (half, new) = half_of(self.message(group, sent, unique_key)).expect("it is a half");
        let pass = self.arrive(Point::HalfAppended).await?;
        if pass == Pass::Fails {
            self.disk_fails(1);
        }
        let mut appended = Vec::new();
        for _ in 0..if pass == Pass::Twice { 2 } else { 1 } {
            self.running().coordinator.admit([&new]).remove(0).expect("there is room");
            match self.running().store.append(&[[half.clone()]]) {
                Ok(mut group) => appended.push(group.remove(0)),
                Err(error) => {
                    self.note(format!("half {unique_key}: {error}"));
                    return Ok(None);
                }
            }
        }
        self.leave(Point::HalfAppended)?;
        let (log, at) = appended[0].records[0];
        let place = Place { half: at.into(), log };
        self.nobody_ends(group, place, unique_key, "T6", &[Refusal::NotDurable, Refusal::NoSuchHalf]);
        match self.arrive(Point::HalfDurable).await? {
            Pass::Fails => self.disk_fails(1),
            Pass::Twice => self.flush()?,
            Pass::Go => {}
        }
        self.flush()?;
        let stored = appended.iter().map(|appended| {
            StoredHalf::new(new.clone(), appended.records[0].1, appended.store_timestamp, Some(group.into()))
        });
        self.running().coordinator.stored(stored.collect::<Vec<_>>());
        self.leave(Point::HalfDurable)?;
        self.note(format!("half {} of {unique_key} at {log}", place.half));
        self.nobody_ends(group, place, "another", "T2", &[Refusal::WrongTransaction]);
        Ok(Some(place))
    }

    /// What a stranger's verdict has to be answered.
    fn nobody_ends(&self, group: &str, place: Place, transaction: &str, claim: &str, due: &[Refusal]) {
        let end = end_request(group, place, transaction, Verdict::Rollback);
        match self.running().coordinator.end(&[end]).remove(0) {
            Err(EndError::Refused(refused)) if due.contains(&refused) => {}
            // A delayed sender: whoever was asked meanwhile has ended it.
            Ok(ended) if matches!(ended.answer, Answer::Before(_)) => {}
            Err(EndError::Refused(Refusal::Contrary(_))) => {}
            other => self.violation(claim, &format!("{other:?} where {due:?} is due, half {}", place.half)),
        }
    }

    fn message(&self, group: &str, sent: &Sent, unique_key: &str) -> Message {
        let own = [("PGROUP", group), ("UNIQ_KEY", unique_key), ("TRAN_MSG", "true")];
        let properties = Properties::parse(&sent.properties().encode());
        Message {
            topic: sent.topic().into(),
            queue_id: QUEUE,
            flag: 0,
            sys_flag: 4,
            born_timestamp: self.clock.now(),
            born_host: "10.1.1.1:1234".parse().expect("an address"),
            store_host: "127.0.0.1:10911".parse().expect("an address"),
            reconsume_times: 0,
            prepared_transaction_offset: LogOffset::ZERO,
            properties: [properties.encode().to_string(), Properties::from_iter(own).encode().to_string()]
                .concat()
                .into(),
            body: sent.body().clone(),
        }
    }

    /// END_TRANSACTION, from whomever.
    pub(crate) async fn receive_end(&mut self, half: &HalfReceipt, said: Said) -> Result<Result<(), Unanswered>, Dead> {
        let verdict = match said {
            Said::Commit => Verdict::Commit,
            Said::Rollback => Verdict::Rollback,
            Said::Unknown => Verdict::Unknown,
        };
        let request = EndRequest {
            half: half.half_offset.into(),
            log_offset: half.log_offset,
            producer_group: half.group.clone(),
            transaction_id: Some(half.transaction_id.clone()),
            verdict,
        };
        let pass = self.arrive(Point::EndParsed).await?;
        if pass == Pass::Fails {
            return Ok(Err(Unanswered::No));
        }
        self.leave(Point::EndParsed)?;
        if self.facts.beyond.next_end_is_unread.take_if(|id| **id == *half.message_id).is_some() {
            self.note("it is not read yet");
            self.facts.beyond.unread.push(request);
            return Ok(Err(Unanswered::Lost));
        }
        let mut requests = std::mem::take(&mut self.facts.beyond.unread);
        requests.push(request);
        if pass == Pass::Twice {
            let _ = self.decide(&requests).await?;
        }
        self.decide(&requests).await
    }

    /// All verdicts of one read; the answer to the last one.
    async fn decide(&mut self, requests: &[EndRequest]) -> Result<Result<(), Unanswered>, Dead> {
        let pass = self.arrive(Point::DecisionAppended).await?;
        if pass == Pass::Fails && requests.iter().any(|request| request.verdict != Verdict::Unknown) {
            self.disk_fails(TRIES);
        }
        let mut ended = self.running().coordinator.end(requests);
        if pass == Pass::Twice {
            ended = self.running().coordinator.end(requests);
        }
        for (request, ended) in requests.iter().zip(&ended) {
            let said = ended.as_ref().map(|ended| ended.answer).map_err(ToString::to_string);
            self.note(format!("{:?} {}: {said:?}", request.verdict, request.half));
        }
        if self.dice.random_ratio(1, 3) {
            // The checkpoint of every ten seconds may come right now.
            let _ = self.running().coordinator.checkpoint();
        }
        self.leave(Point::DecisionAppended)?;
        match self.arrive(Point::DecisionDurable).await? {
            Pass::Fails if self.running().store.durable() < self.running().store.end() => self.disk_fails(1),
            Pass::Twice => self.flush()?,
            _ => {}
        }
        let waits_until = ended.iter().flatten().map(|ended| ended.durable_at).max();
        if waits_until.unwrap_or_default() > self.running().store.durable() {
            self.flush()?;
        }
        self.leave(Point::DecisionDurable)?;
        self.becomes_visible().await?;
        let mut answered = Ok(Err(Unanswered::No));
        for (request, ended) in requests.iter().zip(ended) {
            answered = Ok(ended.map(|ended| self.promise(request, ended.answer)).map_err(|_| Unanswered::No));
        }
        self.audit();
        answered
    }

    fn promise(&mut self, request: &EndRequest, answer: Answer) {
        let (Answer::Now(outcome) | Answer::Before(outcome)) = answer else { return };
        let id = request.transaction_id.as_deref().unwrap_or_default().to_owned();
        if answer == Answer::Now(Outcome::Committed) {
            self.facts.beyond.committed.push(id.clone());
        }
        let first = *self.facts.promised.entry(id.clone()).or_insert(outcome);
        if first != outcome {
            self.violation("T2", &format!("{id} was answered {first}, then {outcome}"));
        }
        if self.dice.random_bool(0.5) {
            self.a_contrary_verdict_is_refused(request);
        }
    }

    /// Consumers are woken; what is settled is noted for the next start.
    async fn becomes_visible(&mut self) -> Result<(), Dead> {
        if self.arrive(Point::Visible).await? == Pass::Twice {
            Box::pin(self.consume()).await;
        }
        self.leave(Point::Visible)?;
        if self.arrive(Point::OpNoted).await? == Pass::Fails {
            self.disk_fails(1);
        }
        let noted = self.running().coordinator.checkpoint().is_ok();
        let _ = self.running().coordinator.progress();
        self.note(format!("checkpoint: {noted}"));
        self.leave(Point::OpNoted)
    }

    fn a_contrary_verdict_is_refused(&mut self, request: &EndRequest) {
        let contrary = match request.verdict {
            Verdict::Commit => Verdict::Rollback,
            _ => Verdict::Commit,
        };
        let contrary = EndRequest { verdict: contrary, ..request.clone() };
        let (before, end) = (self.running().store.end(), |world: &Self| world.running().store.end());
        match self.running().coordinator.end(&[contrary]).remove(0) {
            Err(EndError::Refused(Refusal::Contrary(_))) if end(self) == before => {}
            other => self.violation("T2", &format!("a second, contrary verdict for {}: {other:?}", request.half)),
        }
    }

    /// What is due is done, and its checks are sent.
    pub(crate) async fn tick(&mut self) {
        if self.checking {
            // One task does this, and it is at it: late, perhaps.
            return;
        }
        while self.running().coordinator.next_due().is_some_and(|due| due <= self.clock.now()) {
            let before = self.running().coordinator.next_due();
            if self.round_and_answers().await.is_err() || self.running().coordinator.next_due() == before {
                break;
            }
        }
        self.let_tasks_run().await;
        self.audit();
    }

    async fn round_and_answers(&mut self) -> Result<(), Dead> {
        self.checking = true;
        let sent = self.round().await;
        self.checking = false;
        let starts = self.broker_starts;
        for check in sent? {
            self.sender_is_asked(&check).await;
        }
        if self.broker_starts == starts { Ok(()) } else { Err(Dead) }
    }

    /// The checks that reached the service.
    async fn round(&mut self) -> Result<Vec<Check>, Dead> {
        let pass = self.arrive(Point::CheckScanned).await?;
        if pass == Pass::Fails {
            return Ok(Vec::new());
        }
        let parks = self
            .facts
            .delivered
            .iter()
            .any(|(half, checks)| *checks >= CHECK_MAX && self.running().coordinator.outcome(*half).is_none());
        let park = if parks { self.arrive(Point::ParkWritten).await? } else { Pass::Go };
        if park == Pass::Fails {
            self.disk_fails(TRIES);
        }
        let mut checks = self.running().coordinator.tick(self.clock.now());
        if pass == Pass::Twice || park == Pass::Twice {
            checks.extend(self.running().coordinator.tick(self.clock.now()));
        }
        if self.running().store.durable() < self.running().store.end() {
            self.flush()?;
        }
        if parks {
            self.leave(Point::ParkWritten)?;
        }
        self.leave(Point::CheckScanned)?;
        let mut sent = Vec::new();
        for check in checks {
            let times = self.send_check(&check).await?;
            sent.extend(std::iter::repeat_n(check, times));
        }
        Ok(sent)
    }

    /// How often it reached the service.
    async fn send_check(&mut self, check: &Check) -> Result<usize, Dead> {
        let half = StoredMessage::decode(&check.request.body).expect("a check holds its half");
        let group = half.message.property("PGROUP").unwrap_or_default();
        if *check.producer_group != *group {
            self.violation("T1", &format!("{} is asked instead of {group}", check.producer_group));
        }
        let pass = self.arrive(Point::CheckSent).await?;
        if pass == Pass::Fails || self.asked(&check.producer_group).is_none() {
            self.note(format!("check of {}: nobody to ask", check.half));
            self.running().coordinator.check_result(check.half, CheckResult::NobodyToAsk);
            return Ok(0);
        }
        self.note(format!("check {} of {}", check.attempt, check.half));
        self.running().coordinator.check_result(check.half, CheckResult::Delivered);
        *self.facts.ever_delivered.entry(asked_by(&half)).or_default() += 1;
        let delivered = self.facts.delivered.entry(check.half).or_default();
        *delivered += 1;
        if *delivered > CHECK_MAX || check.attempt > CHECK_MAX {
            let text = format!("half {} is checked {delivered} times, attempt {}", check.half, check.attempt);
            self.violation("T5", &text);
        }
        self.leave(Point::CheckSent)?;
        Ok(if pass == Pass::Twice { 2 } else { 1 })
    }
}

fn end_request(group: &str, place: Place, transaction: &str, verdict: Verdict) -> EndRequest {
    EndRequest {
        half: place.half,
        log_offset: place.log,
        producer_group: group.into(),
        transaction_id: Some(transaction.into()),
        verdict,
    }
}
