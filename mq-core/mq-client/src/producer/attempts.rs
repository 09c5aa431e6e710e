//! A send: which queue, how often, and what is known afterwards.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::SendMessageResponse;
use tokio::time::Instant;

use super::outgoing::Outgoing;
use super::{Producer, SendReceipt, SendStatus, select};
use crate::error::{CallError, RequestError, RouteError, SendError, SendFailure};
use crate::remoting::{Connection, Gather, Patience};
use crate::route::Route;

/// Pause before a broker that was too busy is tried again, when there is no other.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Where a send may go.
#[derive(Clone, Copy)]
pub(super) enum Target<'t> {
    Any,
    /// The queue of this key, also when it fails.
    Key(&'t str),
    Queue(&'t MessageQueue),
    /// Any queue of this broker, also when it fails.
    Broker(&'t str),
}

/// What a failed attempt means for the next one.
enum Failed {
    /// Another attempt makes sense.
    Again(SendFailure),
    Final(SendFailure),
}

impl Producer {
    /// Once, and nobody hears whether it arrived.
    pub(super) async fn hand_over(&self, outgoing: &Outgoing) -> Result<(), SendError> {
        let sent = async {
            let route = self.inner().routes.for_sending(&outgoing.header.topic).await?;
            let queue = self.choose(&route, Target::Any, None)?;
            let address = address_of(&route, &queue)?;
            let deadline = Instant::now() + self.0.options.send_timeout;
            let connection = self.inner().connection_by(address, deadline).await.map_err(CallError::from)?;
            Ok(connection.oneway(outgoing.command(&queue)).await.map_err(CallError::from)?)
        };
        sent.await.map_err(|reason: SendFailure| outgoing.error(1, reason))
    }

    pub(super) async fn send_to(&self, outgoing: &Outgoing, target: Target<'_>) -> Result<SendReceipt, SendError> {
        // A reply that was refused is stored all the same: another try would store it again.
        let certain = outgoing.code == request::SEND_REPLY_MESSAGE_V2;
        self.attempts(outgoing, target, certain).await.map(|(receipt, _)| receipt)
    }

    /// Tries until it is acknowledged, refused for good, or out of tries or time. With `certain`, an attempt that may
    /// have been stored is the last one.
    pub(super) async fn attempts(
        &self,
        outgoing: &Outgoing,
        target: Target<'_>,
        certain: bool,
    ) -> Result<(SendReceipt, Command), SendError> {
        let (began, deadline) = (Instant::now(), Instant::now() + self.0.options.send_timeout);
        let mut failed_broker: Option<Arc<MessageQueue>> = None;
        let mut may_be_stored = false;
        let mut attempt = 1;
        loop {
            let avoid = failed_broker.as_ref().map(|queue| queue.broker_name.as_str());
            let (queue, failed) = match self.attempt(outgoing, target, avoid, deadline).await {
                Ok((receipt, answer)) => {
                    self.trace_sent(outgoing, &receipt, &answer, began.elapsed());
                    return Ok((receipt, answer));
                }
                Err(failed) => failed,
            };
            let (reason, again) = match failed {
                Failed::Again(reason) => (reason, true),
                Failed::Final(reason) => (reason, false),
            };
            let error = outgoing.error(attempt, reason).or_stored_before(may_be_stored);
            may_be_stored = error.may_be_stored();
            let over = attempt > self.0.options.retries || Instant::now() >= deadline;
            if !again || over || (certain && may_be_stored) {
                return Err(error);
            }
            tracing::debug!(%error, "sending again");
            self.before_retry(&error.reason, &outgoing.header.topic).await;
            failed_broker = queue.or(failed_broker);
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        outgoing: &Outgoing,
        target: Target<'_>,
        avoid: Option<&str>,
        deadline: Instant,
    ) -> Result<(SendReceipt, Command), (Option<Arc<MessageQueue>>, Failed)> {
        let unrouted = |error: RouteError| (None, Failed::Final(error.into()));
        let route = self.inner().routes.for_sending(&outgoing.header.topic).await.map_err(unrouted)?;
        let queue = self.choose(&route, target, avoid).map_err(unrouted)?;
        let elsewhere = matches!(target, Target::Any) && route.has_other_writable(&queue.broker_name);
        let address = match address_of(&route, &queue) {
            Ok(address) => address,
            // A static order names a broker that is away: only what belongs there waits for it.
            Err(error) if elsewhere => {
                self.0.faults.failed(&queue.broker_name, Instant::now());
                return Err((Some(queue), Failed::Again(error.into())));
            }
            Err(error) => return Err(unrouted(error)),
        };
        let connection = match self.connect(address, elsewhere, deadline).await {
            Ok(connection) => connection,
            Err(error) => {
                self.0.faults.failed(&queue.broker_name, Instant::now());
                return Err((Some(queue), Failed::Again(SendFailure::Call(error.into()))));
            }
        };
        match self.exchange(&connection, outgoing, &queue, deadline).await {
            Ok(stored) => Ok(stored),
            Err(failed) => Err((Some(queue), failed)),
        }
    }

    async fn connect(
        &self,
        address: &ByteString,
        elsewhere: bool,
        deadline: Instant,
    ) -> Result<Arc<Connection>, RequestError> {
        if elsewhere {
            self.inner().connection(address, Patience::Fail).await
        } else {
            self.inner().connection_by(address, deadline).await
        }
    }

    async fn exchange(
        &self,
        connection: &Connection,
        outgoing: &Outgoing,
        queue: &Arc<MessageQueue>,
        deadline: Instant,
    ) -> Result<(SendReceipt, Command), Failed> {
        let began = Instant::now();
        let within = deadline.saturating_duration_since(began);
        let gather = if outgoing.is_half() { self.gather() } else { Gather::AtOnce };
        let answer = connection.request_with(outgoing.command(queue), within, gather).await;
        let now = Instant::now();
        let answer = answer.map_err(|error| {
            self.0.faults.failed(&queue.broker_name, now);
            Failed::Again(SendFailure::Call(error.into()))
        })?;
        let Some(status) = SendStatus::of(answer.code) else {
            if answer.code == response::GO_AWAY {
                connection.close();
            }
            let failure = SendFailure::Call(connection.refused(outgoing.code, &answer).into());
            return Err(if is_worth_a_retry(answer.code) { Failed::Again(failure) } else { Failed::Final(failure) });
        };
        self.0.faults.answered(&queue.broker_name, now - began, now);
        let header: SendMessageResponse = answer
            .header()
            .map_err(|error| Failed::Final(SendFailure::Call(connection.unreadable(outgoing.code, error))))?;
        Ok((outgoing.receipt(status, header, queue), answer))
    }

    fn choose(
        &self,
        route: &Route,
        target: Target<'_>,
        failed_broker: Option<&str>,
    ) -> Result<Arc<MessageQueue>, RouteError> {
        let queues = &route.writable;
        let now = Instant::now();
        let available = |broker: &str| !self.0.options.avoid_slow_brokers || self.0.faults.is_available(broker, now);
        let chosen = match target {
            Target::Any => select::by_turn(queues, route.next_turn(), failed_broker, available).cloned(),
            Target::Key(key) => select::by_hash(queues, key).cloned(),
            Target::Queue(queue) => Some(Arc::new(queue.clone())),
            Target::Broker(broker) => {
                let there = queues.iter().filter(|queue| queue.broker_name == broker).cloned().collect::<Vec<_>>();
                select::by_turn(&there, route.next_turn(), None, |_| true).cloned()
            }
        };
        chosen.ok_or_else(|| RouteError::NoQueue { topic: route.topic().into(), used: "written to" })
    }

    /// What may make the next attempt go better.
    async fn before_retry(&self, reason: &SendFailure, topic: &ByteString) {
        let SendFailure::Call(error) = reason else { return };
        match error.code() {
            Some(response::TOPIC_NOT_EXIST) => drop(self.inner().routes.refresh(topic).await),
            Some(response::SYSTEM_BUSY | response::SERVICE_NOT_AVAILABLE) => tokio::time::sleep(BUSY_PAUSE).await,
            _ => {}
        }
    }
}

fn address_of<'r>(route: &'r Route, queue: &MessageQueue) -> Result<&'r ByteString, RouteError> {
    let unknown =
        || RouteError::NoBroker { topic: queue.topic.as_str().into(), broker: queue.broker_name.as_str().into() };
    route.master(&queue.broker_name).ok_or_else(unknown)
}

/// Refusals that another broker, or the same one a little later, may not repeat.
fn is_worth_a_retry(code: i32) -> bool {
    matches!(
        code,
        response::SYSTEM_ERROR
            | response::SYSTEM_BUSY
            | response::SERVICE_NOT_AVAILABLE
            | response::NO_PERMISSION
            | response::TOPIC_NOT_EXIST
            | response::NO_BUYER_ID
            | response::NOT_IN_CURRENT_UNIT
            | response::GO_AWAY
    )
}
