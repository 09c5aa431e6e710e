//! The broker's side of a transaction: the half message and its end, or the decision to leave the message in the outbox.
//! Knows no database.

use std::{collections::HashSet, fmt, sync::Arc};

use futures_util::future::try_join_all;
use mq_client::{ClientError, HalfReceipt, MAX_PARTS, Message, SendError, SendFailure, Verdict, property};
use mq_protocol::codes::response;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::Instrument;

use super::{
    outcome::{Outcome, Sent, TxnError},
    wire::Producer,
};
use crate::{
    counters::Counters,
    decision,
    failpoints::{during, reach},
    id::{DATABASE_PROPERTY, DatabaseId, TRANSACTION_ID_PROPERTY, TransactionId},
    marker::MarkError,
    outbox::{self, Outbox},
    trace::{TraceContext, span},
};

/// By these a broker knows a transaction: the unique key and the group are its name, a shared id ends others with it.
const RESERVED: [&str; 5] =
    [property::UNIQ_KEY, property::PRODUCER_GROUP, property::TRANSACTION_PREPARED, property::SHARED_ID, property::PART];

/// What all transactions of a producer share.
pub(crate) struct Link {
    pub(crate) producer: Producer,
    pub(crate) topics: HashSet<String>,
    pub(crate) counters: Arc<Counters>,
    /// Which database knows what becomes of its transactions; `None`: the service itself does.
    pub(crate) database_id: Option<DatabaseId>,
    /// Where messages wait while no broker takes halves; `None`: their transactions are refused.
    pub(crate) outbox: Option<Arc<Outbox>>,
    /// Says which trace a transaction belongs to.
    pub(crate) trace_from: Option<TraceHook>,
    /// Detached ends, and open transactions: shutdown waits for them.
    pub(crate) running: TaskTracker,
    pub(crate) stopped: CancellationToken,
}

/// The trace context of whoever calls.
pub(crate) type TraceHook = Arc<dyn Fn() -> Option<TraceContext> + Send + Sync>;

impl Link {
    /// A half message, or nothing: for transactions that have no table of ours.
    pub(crate) async fn send_half(self: &Arc<Self>, message: Message, on_drop: OnDrop) -> Result<Half, TxnError> {
        let sent = async {
            self.accepts(&message)?;
            self.try_send_half(TransactionId::fresh(), self.traced(message), on_drop).await
        };
        sent.await.inspect_err(|_| self.counters.refused.add_one())
    }

    /// What a transaction begins with: a half message or, where one is kept and no broker can be had, a place in the
    /// outbox under the same id. A half that did reach the broker is then rolled back by its checkback.
    pub(crate) async fn begin(self: &Arc<Self>, message: Message) -> Result<Begun, TxnError> {
        self.try_begin(message).await.inspect_err(|_| self.counters.refused.add_one())
    }

    async fn try_begin(self: &Arc<Self>, message: Message) -> Result<Begun, TxnError> {
        self.accepts(&message)?;
        let (id, topic, message) = (TransactionId::fresh(), message.topic().to_owned(), self.traced(message));
        let Some(outbox) = self.outbox.as_ref().filter(|_| outbox::can_wait(&message)) else {
            let half = self.try_send_half(id, message, OnDrop::Rollback).await?;
            return Ok(Begun { half, topic, outboxed: None });
        };
        if outbox.tries_broker() {
            match self.try_send_half(id, message.clone(), OnDrop::Rollback).await {
                Ok(half) => {
                    outbox.broker_is_up();
                    return Ok(Begun { half, topic, outboxed: None });
                }
                Err(TxnError::ShuttingDown) => return Err(TxnError::ShuttingDown),
                Err(error) if decision::goes_to_outbox(true, outbox::fault_of(&error)) => {
                    tracing::warn!(%id, %error, "no broker takes half messages: transactions go to the outbox");
                    outbox.broker_is_down();
                }
                Err(error) => return Err(error),
            }
        }
        self.takes(&message)?;
        self.will_be_taken(&message, id)?;
        outbox.admit()?;
        let (link, running) = (self.clone(), self.running.token());
        let (carrier, on_drop) = (Carrier::Outbox, OnDrop::Rollback);
        let trace = TraceContext::attached_to(&message);
        let half = Half { link, carrier, id, trace, on_drop, _running: running };
        Ok(Begun { half, topic, outboxed: Some(message) })
    }

    /// Refuses what may not wait for a broker because none would take it, or this cluster's may not do what it asks for.
    fn will_be_taken(&self, message: &Message, id: TransactionId) -> Result<(), TxnError> {
        let relayed = self.named(outbox::relayed(message.clone(), id), id);
        self.producer.check_half(&relayed).and_then(|()| self.producer.heard_offers(&relayed)).map_err(refusal)
    }

    /// By these whoever is asked about it knows where to look.
    fn named(&self, message: Message, id: TransactionId) -> Message {
        let database = self.database_id.map(|id| id.to_string()).unwrap_or_default();
        // Without one, that of a forwarded message is taken off.
        message.property(TRANSACTION_ID_PROPERTY, id.to_string()).property(DATABASE_PROPERTY, database)
    }

    /// What the message says itself, else the hook, else the delivery that is being handled.
    fn traced(&self, message: Message) -> Message {
        if TraceContext::attached_to(&message).is_some() {
            return message;
        }
        match self.trace_from.as_ref().map_or_else(TraceContext::current, |hook| hook()) {
            Some(context) => context.attach(message),
            None => message,
        }
    }

    /// The same of a message that its service made.
    fn accepts(&self, message: &Message) -> Result<(), TxnError> {
        self.takes(message)?;
        match RESERVED.into_iter().find(|name| message.properties().get(name).is_some()) {
            Some(property) => Err(TxnError::Reserved { property }),
            None => Ok(()),
        }
    }

    fn takes(&self, message: &Message) -> Result<(), TxnError> {
        if self.stopped.is_cancelled() {
            return Err(TxnError::ShuttingDown);
        }
        if !self.topics.contains(message.topic()) {
            return Err(TxnError::UnknownTopic(message.topic().to_owned()));
        }
        Ok(())
    }

    /// Several messages under one verdict: each a half of its own with the shared id and its place, all at the broker
    /// that took the first. One end ends them all, and so does the end of any of them when one cannot be stored.
    pub(crate) async fn begin_all(self: &Arc<Self>, messages: Vec<Message>) -> Result<Begun, TxnError> {
        self.try_begin_all(messages).await.inspect_err(|_| self.counters.refused.add_one())
    }

    async fn try_begin_all(self: &Arc<Self>, messages: Vec<Message>) -> Result<Begun, TxnError> {
        let (id, count) = (TransactionId::fresh(), messages.len());
        if !(1..=MAX_PARTS).contains(&count) {
            return Err(TxnError::Parts { messages: count });
        }
        messages.iter().try_for_each(|message| self.accepts(message))?;
        let topic = messages[0].topic().to_owned();
        let mut parts = (1..).zip(messages).map(|(place, message)| {
            let message = self.traced(message).property(property::SHARED_ID, id.to_string());
            message.property(property::PART, format!("{place}/{count}"))
        });
        let first = parts.next().expect("there is one at least");
        let mut half = self.try_send_half(id, first, OnDrop::Cancel).await?;
        let broker = half.broker().to_owned();
        let others = parts.map(|part| self.send_half_to(Some(&broker), id, part, OnDrop::Leave));
        // When one is missing the first is dropped: its rollback ends the others, and what arrives later.
        try_join_all(others).await?;
        half.on_drop = OnDrop::Rollback;
        Ok(Begun { half, topic, outboxed: None })
    }

    pub(crate) async fn try_send_half(
        self: &Arc<Self>,
        id: TransactionId,
        message: Message,
        on_drop: OnDrop,
    ) -> Result<Half, TxnError> {
        self.send_half_to(None, id, message, on_drop).await
    }

    async fn send_half_to(
        self: &Arc<Self>,
        broker: Option<&str>,
        id: TransactionId,
        message: Message,
        on_drop: OnDrop,
    ) -> Result<Half, TxnError> {
        self.takes(&message)?;
        let running = self.running.token();
        reach("txn-before-half");
        let parent = TraceContext::attached_to(&message);
        let (span, trace) = span!("txn.half", parent.as_ref(), %id, topic = message.topic());
        let message = self.named(message, id);
        let message = trace.iter().fold(message, |message, trace| trace.attach(message));
        let sending = async {
            match broker {
                None => self.producer.send_half(message).await,
                Some(broker) => self.producer.send_half_at(message, broker).await,
            }
        };
        let receipt = during("txn-half-sent", sending.instrument(span)).await.map_err(refusal)?;
        reach("txn-after-half");
        Ok(Half { link: self.clone(), carrier: Carrier::Half(receipt), id, trace, on_drop, _running: running })
    }

    /// A message is in the outbox for good.
    fn outboxed(&self) {
        self.counters.outbox_stored.add_one();
        if let Some(outbox) = &self.outbox {
            outbox.row_came();
        }
    }

    /// Tells the broker how it ended. When that fails the checkback will: the verdict source knows.
    async fn end(&self, receipt: &HalfReceipt, id: TransactionId, trace: Option<&TraceContext>, verdict: Verdict) {
        let (span, _) = span!("txn.end", trace, %id, ?verdict);
        match self.producer.end(receipt, verdict).instrument(span).await {
            Ok(()) => {}
            Err(error) if verdict == Verdict::Commit && is_too_late(&error) => {
                self.counters.end_refused.add_one();
                tracing::error!(
                    %id, message_id = %receipt.message_id, topic = %receipt.topic, %error,
                    "committed, and NOT published: the half message was parked, or ended otherwise by an operator. No \
                     checkback will come: look with mq explain, then mq admin txn resume"
                );
            }
            Err(error) if is_too_late(&error) => {
                self.counters.end_refused.add_one();
                tracing::error!(
                    %id, message_id = %receipt.message_id, topic = %receipt.topic, %error,
                    "rolled back too late: if an operator has committed its half message, that is out without rows; if it \
                     was parked, its copy stays until mq admin txn resume has it asked about and rolled back"
                );
            }
            Err(error) => {
                self.counters.end_lost.add_one();
                tracing::warn!(%id, ?verdict, %error, "the broker was not told how a transaction ended; its checkback will");
            }
        }
    }
}

/// The half has another outcome by now, and keeps it.
fn is_too_late(error: &ClientError) -> bool {
    matches!(error, ClientError::Call(error) if error.code() == Some(response::ILLEGAL_OPERATION))
}

fn refusal(error: SendError) -> TxnError {
    if let SendFailure::NotOffered { property, capability, address } = &*error.reason {
        return TxnError::NotOffered { property, capability, broker: address.to_string() };
    }
    match error.may_be_stored() {
        true => TxnError::HalfUnknown(Box::new(error)),
        false => TxnError::HalfRefused(Box::new(error)),
    }
}

/// What a half that nobody ended tells the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// It cannot commit any more: cancel it.
    Rollback,
    /// The same for halves that are no transaction of the service's: nothing is counted.
    Cancel,
    /// Somebody else may know better: wait to be asked.
    Leave,
}

/// A transaction whose message has a place.
pub(crate) struct Begun {
    pub(crate) half: Half,
    pub(crate) topic: String,
    /// The message, when its place is the outbox.
    pub(crate) outboxed: Option<Message>,
}

enum Carrier {
    /// A stored half message.
    Half(HalfReceipt),
    /// A row beside the marker, which the relay delivers.
    Outbox,
}

/// A message that nobody sees yet.
pub(crate) struct Half {
    link: Arc<Link>,
    carrier: Carrier,
    id: TransactionId,
    trace: Option<TraceContext>,
    on_drop: OnDrop,
    _running: TaskTrackerToken,
}

impl Half {
    pub(crate) fn id(&self) -> TransactionId {
        self.id
    }

    /// Its place in a trace.
    pub(crate) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn broker(&self) -> &str {
        match &self.carrier {
            Carrier::Half(receipt) => &receipt.broker_name,
            Carrier::Outbox => "",
        }
    }

    /// From here on only the verdict source knows the outcome.
    pub(crate) fn leave(&mut self) {
        self.on_drop = OnDrop::Leave;
    }

    pub(crate) async fn end(&mut self, verdict: Verdict) {
        match &self.carrier {
            Carrier::Half(receipt) => self.link.end(receipt, self.id, self.trace.as_ref(), verdict).await,
            Carrier::Outbox if verdict == Verdict::Commit => self.link.outboxed(),
            Carrier::Outbox => {}
        }
        self.leave();
    }

    /// After its marker did not get into the transaction.
    pub(crate) fn give_up(mut self, error: MarkError) -> TxnError {
        self.link.counters.refused.add_one();
        match error {
            // The checkback that fenced it off has told the broker.
            MarkError::Fenced => {
                self.leave();
                TxnError::Fenced
            }
            MarkError::Database(error) => {
                self.cancel_detached();
                TxnError::Database(error)
            }
        }
    }

    /// Tells the broker in the background. Without a runtime there is nobody to tell it; the checkback will find no row.
    pub(crate) fn cancel_detached(&mut self) {
        self.leave();
        let Carrier::Half(receipt) = &self.carrier else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (link, receipt, id, trace) = (self.link.clone(), receipt.clone(), self.id, self.trace.clone());
            self.link
                .running
                .spawn_on(async move { link.end(&receipt, id, trace.as_ref(), Verdict::Rollback).await }, &runtime);
        }
    }

    /// What the caller hears if the task that ends it is lost.
    pub(crate) fn in_doubt(&self) -> Sent {
        self.with(Outcome::InDoubt)
    }

    fn with<E>(&self, outcome: Outcome<E>) -> Sent<E> {
        let message_id = match &self.carrier {
            Carrier::Half(receipt) => Some(receipt.message_id.to_string()),
            Carrier::Outbox => None,
        };
        Sent { outcome, transaction_id: self.id, message_id }
    }

    pub(crate) fn sent<E>(&self, outcome: Outcome<E>) -> Sent<E> {
        let counters = &self.link.counters;
        match outcome {
            Outcome::Committed => counters.committed.add_one(),
            Outcome::RolledBack(_) => counters.rolled_back.add_one(),
            Outcome::InDoubt => match self.carrier {
                Carrier::Half(_) => counters.left_in_doubt(self.id),
                // No checkback settles it: either the relay finds a row, or there is none.
                Carrier::Outbox => counters.in_doubt.add_one(),
            },
        }
        self.with(outcome)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Leave => {}
            OnDrop::Cancel => self.cancel_detached(),
            OnDrop::Rollback => {
                self.link.counters.rolled_back.add_one();
                self.cancel_detached();
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("group", &self.producer.group())
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

/// Stops the housekeeping when the last handle of the producer goes.
impl Drop for Link {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}
