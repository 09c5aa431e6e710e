//! What was found about one business key, before anything is concluded from it. Plain values; knows no socket.

use std::collections::BTreeMap;

use mq_protocol::body::{InboxAnswer, TxnEvent, TxnShown};
use mq_protocol::ids::UnixMillis;

use crate::trace::TraceRecord;

#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) key: String,
    pub(super) now: UnixMillis,
    /// Where it was looked for.
    pub(super) topics: Vec<String>,
    pub(super) transactions: Vec<TransactionFacts>,
    pub(super) messages: Vec<MessageFacts>,
    /// Messages that are kept back until a time.
    pub(super) delayed: Vec<DelayedFacts>,
    /// What clients tell of each message.
    pub(super) traces: BTreeMap<String, Vec<TraceRecord>>,
}

impl Facts {
    pub(super) fn traces_of(&self, id: &str) -> &[TraceRecord] {
        self.traces.get(id).map_or(&[], Vec::as_slice)
    }
}

/// A half message, and what its broker tells of it.
#[derive(Clone, Debug, Default)]
pub(super) struct TransactionFacts {
    /// Its unique key.
    pub(super) id: String,
    pub(super) group: String,
    /// Where it is to be published.
    pub(super) topic: String,
    pub(super) broker: String,
    pub(super) half: u64,
    pub(super) stored_at: UnixMillis,
    /// Further halves of the transaction: its client sent it again, or an operator resumed it. Oldest first.
    pub(super) again: Vec<(UnixMillis, u64)>,
    /// When it was given up, and its offset in the topic of those. Oldest first.
    pub(super) parked: Vec<(UnixMillis, u64)>,
    /// What is told of the last half. `None`: the broker does not tell.
    pub(super) shown: Option<TxnShown>,
    /// The transaction's id in its SDK.
    pub(super) sdk_transaction: Option<String>,
    /// Clients of its producer group that are connected.
    pub(super) producers: usize,
}

impl TransactionFacts {
    /// The half that is asked about, if any is, and when it was stored.
    pub(super) fn last(&self) -> (UnixMillis, u64) {
        self.again.last().copied().unwrap_or((self.stored_at, self.half))
    }

    /// What its broker tells of it, if it is such.
    pub(super) fn told(&self, such: impl Fn(&TxnEvent) -> bool) -> impl Iterator<Item = &TxnEvent> {
        self.shown.iter().flat_map(|shown| &shown.history).filter(move |event| such(event))
    }
}

/// A message that consumers can see.
#[derive(Clone, Debug, Default)]
pub(super) struct MessageFacts {
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) broker: String,
    pub(super) queue: u32,
    pub(super) offset: u64,
    pub(super) stored_at: UnixMillis,
    /// It comes from an SDK's outbox: the transaction that put it there.
    pub(super) outbox_of: Option<String>,
    pub(super) groups: Vec<GroupFacts>,
}

/// A group that reads the message's topic, or did.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupFacts {
    pub(super) group: String,
    /// Members that are connected.
    pub(super) consumers: usize,
    /// Each member reads everything and keeps its own position.
    pub(super) broadcast: bool,
    /// What it subscribes to, if that leaves this message out.
    pub(super) passes_over: Option<String>,
    /// In the message's queue.
    pub(super) committed: Option<u64>,
    /// What it was handed ends here.
    pub(super) handed_out_to: u64,
    /// When it was popped and is not acknowledged, and when it comes again.
    pub(super) popped: Option<(UnixMillis, Option<UnixMillis>)>,
    /// Its members pop, and the broker does not tell what they acknowledged.
    pub(super) pops_untold: bool,
    /// Copies of the message for another try, in order.
    pub(super) retries: Vec<RetryFacts>,
    pub(super) dead_at: Option<UnixMillis>,
    /// What a connected member's database says. `None`: no member has an inbox, or none answers.
    pub(super) inbox: Option<InboxAnswer>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RetryFacts {
    pub(super) at: UnixMillis,
    /// Which try it is for: 2 is the first one again.
    pub(super) number: i32,
    pub(super) fate: RetryFate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RetryFate {
    /// It rests before the next try.
    Resting,
    /// The group can read it.
    #[default]
    Ready,
    /// The group committed past it.
    Done,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DelayedFacts {
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) stored_at: UnixMillis,
    /// `None`: after a delay level's time.
    pub(super) due: Option<UnixMillis>,
}
