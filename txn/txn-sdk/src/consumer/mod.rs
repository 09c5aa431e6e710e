//! The consumer whose effect on a database happens exactly once: inbox row and effect share a transaction.

mod effect;
mod handlers;
mod inbox;
mod run;

use std::{marker::PhantomData, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use mq_client::ReceivedMessage;
use mq_protocol::ids::UnixMillis;
use serde::de::DeserializeOwned;
use tracing::Instrument;

use crate::{
    counters::{Counters, Sample},
    database::{Database, DatabaseError},
    failpoints::reach,
    planted::{Bug, planted},
    trace::{TraceContext, span},
};
pub use effect::Effect;
pub use handlers::{HandlerError, Handlers, Msg, NoHandler, OnTopic, OnTopicEmitting};
pub use inbox::{Inbox, InboxError, Key, Witness};
pub use run::ConsumeError;

const DEFAULT_CONCURRENCY: usize = 20;

/// Before it is said where the effects go.
#[derive(Debug)]
#[must_use]
pub struct ConsumerBuilder {
    name_servers: String,
    group: String,
}

impl ConsumerBuilder {
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// Effects go to the inbox's database, each message's once.
    pub fn inbox<D: Database>(self, inbox: Inbox<D>) -> Consumer<D, NoHandler> {
        let Self { name_servers, group } = self;
        Consumer {
            name_servers,
            group,
            inbox,
            handlers: NoHandler,
            concurrency: DEFAULT_CONCURRENCY,
            max_retries: None,
            counters: Arc::default(),
            follow: None,
        }
    }
}

/// Consumes topics into a database. The effect there happens exactly once per message; what a handler does outside the
/// transaction (an e-mail, an HTTP call) happens at least once.
#[must_use = "it consumes when it runs"]
pub struct Consumer<D, H> {
    name_servers: String,
    group: String,
    inbox: Inbox<D>,
    handlers: H,
    concurrency: usize,
    max_retries: Option<u32>,
    counters: Arc<Counters>,
    follow: Option<Follow>,
}

/// Ties the span of a delivery to the trace that its message came in.
type Follow = Arc<dyn Fn(&tracing::Span, &TraceContext) + Send + Sync>;

/// What a consumer counts.
#[derive(Clone, Debug)]
pub struct ConsumerCounters(Arc<Counters>);

impl ConsumerCounters {
    /// `inbox_handled_total`, `inbox_duplicate_total`, `inbox_failed_total`.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.0.of_consumer()
    }
}

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Its effect is committed.
    Done,
    /// Its effect was here before; the handler did not run.
    Duplicate,
    /// Nothing was written: deliver it again later. Why, in words.
    Later(String),
}

#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Inbox(#[from] InboxError),
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error("the handler's transaction was ended before its commit")]
    Ended,
    #[error("a checkback has given up what the handler emitted: it took longer than the deadline")]
    Fenced,
    #[error("the commit was not confirmed: {0}")]
    Commit(DatabaseError),
    #[error("the handler panicked")]
    Panic,
}

impl Consumer<(), NoHandler> {
    /// `name_servers` as in `NAMESRV_ADDR`; of Checkback or of an Apache RocketMQ cluster.
    pub fn builder(name_servers: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder { name_servers: name_servers.into(), group: String::new() }
    }
}

impl<D: Database, H: Handlers<D>> Consumer<D, H> {
    /// Handles the messages of a topic. `handler` gets the open transaction and the message; when it returns `Ok` its
    /// effect is committed together with the inbox row and the message is acknowledged. On an error nothing is written,
    /// and the message comes again after a growing delay, at last (see [`Consumer::max_retries`]) to the dead-letter topic.
    pub fn on<F, T, E>(self, topic: impl Into<String>, handler: F) -> Consumer<D, OnTopic<F, (T, E), H>>
    where
        F: for<'t> AsyncFn(D::Handle<'t>, Msg<T>) -> Result<(), E>,
        T: DeserializeOwned,
        E: std::fmt::Display,
    {
        self.with(|rest| OnTopic { topic: topic.into(), handler, rest, body: PhantomData })
    }

    /// The same for handlers that publish: `tx.emit(message)` is part of the delivery's transaction, `tx.handle()` is what
    /// statements run on. The inbox is made with [`Inbox::of`] the producer whose group and topics the messages go by.
    pub fn on_emitting<F, T, E>(
        self,
        topic: impl Into<String>,
        handler: F,
    ) -> Consumer<D, OnTopicEmitting<F, (T, E), H>>
    where
        F: for<'t> AsyncFn(&'t mut Effect<D>, Msg<T>) -> Result<(), E>,
        T: DeserializeOwned,
        E: std::fmt::Display,
    {
        self.with(|rest| OnTopicEmitting { topic: topic.into(), handler, rest, body: PhantomData })
    }

    fn with<M>(self, more: impl FnOnce(H) -> M) -> Consumer<D, M> {
        let Self { name_servers, group, inbox, handlers, concurrency, max_retries, counters, follow } = self;
        Consumer { name_servers, group, inbox, handlers: more(handlers), concurrency, max_retries, counters, follow }
    }

    /// Messages handled at the same time.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages;
        self
    }

    /// Deliveries after the first, before a message becomes a dead letter. Without it the group's setting on the broker
    /// decides (`mq admin group create GROUP --retry-max-times`): 16, unless somebody has changed it.
    pub fn max_retries(mut self, deliveries: u32) -> Self {
        self.max_retries = Some(deliveries);
        self
    }

    /// Called for each delivery whose message brings a trace context, with its span `inbox.handle`: a service with a
    /// tracing backend makes the context the span's parent there.
    pub fn follow_trace(mut self, follow: impl Fn(&tracing::Span, &TraceContext) + Send + Sync + 'static) -> Self {
        self.follow = Some(Arc::new(follow));
        self
    }

    /// A handle on what it counts, for while it runs.
    #[must_use]
    pub fn counters(&self) -> ConsumerCounters {
        ConsumerCounters(self.counters.clone())
    }

    /// Creates or migrates the inbox table. [`Consumer::run_until`] does it too.
    pub async fn prepare(&self) -> Result<(), DatabaseError> {
        self.inbox.prepare().await
    }

    /// Forgets messages of this group that can no longer come again, in small batches, and says how many rows went. A
    /// running consumer does it every few minutes.
    pub async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        self.inbox.housekeeper(&self.group)?.clean(now).await
    }

    /// Takes one delivery to its end; never fails, never panics. For deliveries by other ways than a broker's.
    pub async fn deliver(&self, message: ReceivedMessage) -> Delivered {
        let name = (message.topic.clone(), message.message_id.clone());
        let sent_in = TraceContext::of(&message);
        let (span, context) =
            span!("inbox.handle", sent_in.as_ref(), group = self.group, topic = %name.0, message_id = %name.1);
        if let (Some(follow), Some(sent_in)) = (&self.follow, &sent_in) {
            follow(&span, sent_in);
        }
        let taking = TraceContext::around(context, self.take(message)).instrument(span);
        let taken = AssertUnwindSafe(taking).catch_unwind().await.unwrap_or(Err(DeliveryError::Panic));
        match taken {
            Ok(true) => {
                self.counters.inbox_handled.add_one();
                Delivered::Done
            }
            Ok(false) => {
                self.counters.inbox_duplicate.add_one();
                Delivered::Duplicate
            }
            Err(error) => {
                self.counters.inbox_failed.add_one();
                tracing::warn!(topic = %name.0, message_id = %name.1, %error, "delivery failed; the message will come again");
                Delivered::Later(error.to_string())
            }
        }
    }

    /// Whether the message was new.
    async fn take(&self, message: ReceivedMessage) -> Result<bool, DeliveryError> {
        reach("inbox-before-row");
        let mut tx = self.inbox.database().begin().await?;
        if !self.inbox.admit(&mut tx, &self.group, &message).await? {
            Inbox::<D>::leave(tx).await?;
            return Ok(false);
        }
        if planted(Bug::InboxRowOutside) {
            let _ = D::commit(tx).await;
            tx = self.inbox.database().begin().await?;
        }
        reach("inbox-after-row");
        let mut effect = Effect::new(tx, self.inbox.link());
        self.handlers.handle(&mut effect, message).await?;
        reach("inbox-after-effect");
        match effect.commit().await {
            Err(_) if planted(Bug::AckBeforeEffect) => {}
            committed => committed?,
        }
        reach("inbox-before-ack");
        Ok(true)
    }
}
