//! Checkbacks: a broker asks how a half message ends, the group's checker answers on the connection that asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use mq_protocol::body::MessageQueue;
use mq_protocol::command::Command;
use mq_protocol::header::CheckTransactionState;
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;
use tokio::sync::Semaphore;

use super::traced::trace_end;
use super::transaction::end_command;
use super::{HalfReceipt, Verdict};
use crate::client::Inner;
use crate::message::ReceivedMessage;
use crate::remoting::Connection;

/// Checks that one producer answers at the same time. Further ones are dropped: the broker asks again.
const MAX_CHECKS: usize = 256;

/// A half message whose verdict the broker wants to know.
#[derive(Clone, Debug)]
pub struct CheckedHalf {
    pub half: HalfReceipt,
    pub message: ReceivedMessage,
    /// Checks before this one.
    pub checked_times: u32,
}

/// Knows how the transactions of a producer group ended.
///
/// Any client of the group may be asked, also about half messages that another process sent.
pub trait TransactionChecker: Send + Sync + 'static {
    fn check(&self, half: CheckedHalf) -> impl Future<Output = Verdict> + Send;
}

impl<F, Answer> TransactionChecker for F
where
    F: Fn(CheckedHalf) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Verdict> + Send,
{
    fn check(&self, half: CheckedHalf) -> impl Future<Output = Verdict> + Send {
        self(half)
    }
}

type Answering = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A group's checker and the places for its checks.
pub(crate) struct Checks {
    checker: Box<dyn Fn(CheckedHalf) -> Answering + Send + Sync>,
    places: Arc<Semaphore>,
}

impl Checks {
    pub(crate) fn new(checker: impl TransactionChecker) -> Self {
        let checker = Arc::new(checker);
        let ask = move |half| -> Answering {
            let checker = checker.clone();
            Box::pin(async move { checker.check(half).await })
        };
        Self { checker: Box::new(ask), places: Arc::new(Semaphore::new(MAX_CHECKS)) }
    }
}

/// Called on the connection's reader: finds the checker and leaves the rest to a task.
pub(crate) fn on_check(client: &Arc<Inner>, connection: &Connection, command: &Command) {
    let half = match read(command) {
        Ok(half) => half,
        Err(reason) => {
            tracing::warn!(address = %connection.address(), reason, "unreadable checkback");
            return;
        }
    };
    let group = half.half.group.clone();
    let Some(checks) = client.checks(&group) else {
        tracing::warn!(%group, "checkback for a group without a checker here");
        return;
    };
    let Ok(place) = checks.places.clone().try_acquire_owned() else {
        tracing::warn!(%group, limit = MAX_CHECKS, "too many checkbacks at once; the broker will ask again");
        return;
    };
    let (client, connection, within) = (client.clone(), connection.clone(), client.options.request_timeout);
    tokio::spawn(async move {
        let (receipt, properties) = (half.half.clone(), half.message.properties.clone());
        let verdict = (checks.checker)(half).await;
        drop(place);
        let command = end_command(&receipt, verdict, true);
        // An answer "unknown" gets no reply from Apache's brokers.
        let told = match verdict {
            Verdict::Unknown => connection.oneway(command).await.map_err(Into::into),
            _ => connection.call(command, within).await.map(drop),
        };
        match told {
            Ok(()) => {
                tracing::debug!(message_id = %receipt.message_id, ?verdict, "checkback answered");
                if let Some(tracer) = client.tracer(&receipt.group) {
                    trace_end(&tracer, &client, &receipt, Some(&properties), verdict);
                }
            }
            Err(error) => tracing::warn!(message_id = %receipt.message_id, ?verdict, %error, "checkback not settled"),
        }
    });
}

fn read(command: &Command) -> Result<CheckedHalf, String> {
    let header: CheckTransactionState = command.header().map_err(|error| error.to_string())?;
    let stored = StoredMessage::decode(&command.body).map_err(|error| error.to_string())?;
    let broker_name = header.bname.unwrap_or_default();
    let queue = MessageQueue {
        topic: stored.message.topic.to_string(),
        broker_name: broker_name.to_string(),
        queue_id: stored.message.queue_id.0,
    };
    let message = ReceivedMessage::new(stored, &Arc::new(queue));
    let group = message.properties.get(name::PRODUCER_GROUP).cloned().ok_or("no producer group")?;
    let message_id = header.msg_id.unwrap_or_else(|| message.message_id.clone());
    let checked_times = message.property(name::TRANSACTION_CHECK_TIMES).and_then(|times| times.parse().ok());
    let half = HalfReceipt {
        group,
        topic: message.topic.clone(),
        transaction_id: header.transaction_id.unwrap_or_else(|| message_id.clone()),
        message_id,
        broker_name,
        half_offset: header.tran_state_table_offset,
        log_offset: header.commit_log_offset,
    };
    Ok(CheckedHalf { half, message, checked_times: checked_times.unwrap_or(0) })
}
