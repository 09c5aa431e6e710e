//! The sends of one read of a socket: prepared one by one, appended together under one lock, answered one by one.

use bytes::BytesMut;
use mq_protocol::ByteString;
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::SendMessageResponse;
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::message_id::offset_id;
use mq_protocol::record::Message;
use mq_store::Appended;
use txn_coordinator::{ClientId, NewHalf, StoredHalf};

use crate::broker::{Broker, REGION, TRACE_ON};
use crate::connection::Connection;
use crate::handlers::error::Refusal;
use crate::limits::KEPT_ENTRIES;
use crate::metrics::Call;
use crate::output::Encode;

/// What decides how long the answer waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain {
        wait: bool,
    },
    /// Always waits for the disk: a half may only be checked or ended once it is there.
    Half {
        group: ByteString,
        half: NewHalf,
    },
    /// The broker's own record of what a client said: its answer is a plain one.
    Record,
}

/// The messages of one request: stored together or not at all.
pub(crate) enum Group {
    One(Message),
    Many(Vec<Message>),
}

impl AsRef<[Message]> for Group {
    fn as_ref(&self) -> &[Message] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Many(messages) => messages,
        }
    }
}

/// A send that passed every rule.
pub(crate) struct Prepared {
    messages: Group,
    pending: Pending,
}

/// The part of a send that waits for the append.
struct Pending {
    /// Its request code.
    code: i32,
    answer: Command,
    oneway: bool,
    /// As the client asked for it, or as picked: for a half or delayed message not where it is stored.
    queue_id: QueueId,
    unique_key: Option<ByteString>,
    kind: Kind,
    /// By which the message can be taken back until it is due.
    recall_handle: Option<ByteString>,
    to_new_topic: bool,
}

impl Prepared {
    pub(crate) fn new(
        request: &Command,
        queue_id: QueueId,
        unique_key: Option<ByteString>,
        kind: Kind,
        messages: Group,
    ) -> Self {
        let answer = request.response(response::SUCCESS);
        let (code, oneway) = (request.code, request.is_oneway());
        let pending =
            Pending { code, answer, oneway, queue_id, unique_key, kind, recall_handle: None, to_new_topic: false };
        Self { messages, pending }
    }

    /// Whether the receipt says that there is a topic now: it waits for the route to it.
    pub(crate) fn with_new_topic(mut self, is_new: bool) -> Self {
        self.pending.to_new_topic = is_new;
        self
    }

    pub(crate) fn is_half(&self) -> bool {
        self.pending.half().is_some()
    }

    pub(crate) fn record(request: &Command, records: Group) -> Self {
        Self::new(request, QueueId(0), None, Kind::Record, records)
    }

    pub(crate) fn with_recall_handle(mut self, handle: Option<String>) -> Self {
        self.pending.recall_handle = handle.map(ByteString::from);
        self
    }
}

#[derive(Default)]
pub(crate) struct Sends {
    groups: Vec<Group>,
    pending: Vec<Pending>,
}

pub(crate) enum SendAnswer {
    Stored { head: Command, fields: SendMessageResponse },
    Plain(Command),
}

impl SendAnswer {
    pub(crate) fn into_command(self) -> Command {
        match self {
            Self::Stored { head, fields } => head.with_header(&fields),
            Self::Plain(answer) => answer,
        }
    }
}

impl Encode for SendAnswer {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Stored { head, fields } => head.encode_with(fields, out),
            Self::Plain(answer) => answer.encode(out),
        }
    }
}

/// An answer to a send, and what it waits for.
pub(crate) struct Sent {
    pub(crate) call: Call,
    pub(crate) answer: Option<SendAnswer>,
    pub(crate) waits_until: Option<LogOffset>,
    pub(crate) half: Option<StoredHalf>,
    /// It waits for the name servers, too.
    pub(crate) to_new_topic: bool,
}

impl Sends {
    pub(crate) fn push(&mut self, prepared: Prepared) {
        self.groups.push(prepared.messages);
        self.pending.push(prepared.pending);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Appends all of them and empties this. A request that the store refuses for its own sake does not take the others
    /// with it.
    pub(crate) fn append(&mut self, broker: &Broker, from: &Connection, mut each: impl FnMut(Sent)) {
        self.admit(broker, &mut each);
        while !self.pending.is_empty() {
            match broker.store.append(&self.groups) {
                Ok(appended) => {
                    // The durable mark moves from append to append: to wait for the last group takes no longer, and
                    // their answers go out as one.
                    let end = appended.last().expect("a group each").end;
                    for (pending, appended) in self.pending.drain(..).zip(appended) {
                        each(pending.sent(broker, from, &appended, end));
                    }
                }
                Err(error) => match error.culprit() {
                    Some(group) => {
                        self.groups.remove(group);
                        each(self.pending.remove(group).refused(broker, &error.into()));
                    }
                    None => {
                        let refusal = Refusal::from(error);
                        self.pending.drain(..).for_each(|pending| each(pending.refused(broker, &refusal)));
                    }
                },
            }
        }
        self.groups.clear();
        if self.groups.capacity() > KEPT_ENTRIES {
            *self = Self::default();
        }
    }

    /// Halves need room among those that are pending. One lock for all of them.
    fn admit(&mut self, broker: &Broker, mut each: impl FnMut(Sent)) {
        let halves = self.pending.iter().enumerate().filter_map(|(index, pending)| Some((index, pending.half()?)));
        let (indexes, halves): (Vec<_>, Vec<_>) = halves.unzip();
        if halves.is_empty() {
            return;
        }
        let admitted = broker.transactions.admit(halves);
        for (index, admitted) in indexes.into_iter().zip(admitted).rev() {
            if let Err(error) = admitted {
                self.groups.remove(index);
                each(self.pending.remove(index).refused(broker, &error.into()));
            }
        }
    }
}

impl Pending {
    fn half(&self) -> Option<&NewHalf> {
        match &self.kind {
            Kind::Half { half, .. } => Some(half),
            Kind::Plain { .. } | Kind::Record => None,
        }
    }

    fn sent(mut self, broker: &Broker, from: &Connection, appended: &Appended, end: LogOffset) -> Sent {
        let is_record = self.kind == Kind::Record;
        let (waits, half) = match std::mem::replace(&mut self.kind, Kind::Plain { wait: true }) {
            Kind::Plain { wait } => (wait && broker.answers_wait, None),
            Kind::Record => (broker.answers_wait, None),
            Kind::Half { group, half } => {
                let client = broker.clients.producer_id(&group, from.id()).map(ClientId::from);
                let (_, queue_offset) = appended.records[0];
                (true, Some(StoredHalf::new(half, queue_offset, appended.store_timestamp, client)))
            }
        };
        let waits_until = waits.then_some(end);
        let (call, to_new_topic) = (self.call(response::SUCCESS), self.to_new_topic);
        let answer = (!self.oneway)
            .then(|| if is_record { SendAnswer::Plain(self.answer) } else { self.answer(broker, appended) });
        Sent { call, answer, waits_until, half, to_new_topic }
    }

    fn refused(mut self, broker: &Broker, refusal: &Refusal) -> Sent {
        self.answer.code = refusal.code;
        self.answer.remark = Some(refusal.remark.as_ref().into());
        if self.kind != Kind::Record {
            broker.mark_send_answer(&mut self.answer);
        }
        let call = self.call(refusal.code);
        let answer = (!self.oneway).then_some(SendAnswer::Plain(self.answer));
        Sent { call, answer, waits_until: None, half: None, to_new_topic: false }
    }

    fn call(&self, response: i32) -> Call {
        Call { oneway: self.oneway, ..Call::new(self.code, response) }
    }

    fn answer(self, broker: &Broker, appended: &Appended) -> SendAnswer {
        let mut ids = appended.records.iter().map(|(at, _)| offset_id(broker.store_host, *at));
        let mut msg_id = ids.next().unwrap_or_default();
        msg_id.reserve_exact(ids.len() * (msg_id.len() + 1));
        for id in ids {
            msg_id.push(',');
            msg_id.push_str(&id);
        }
        let (_, queue_offset) = appended.records[0];
        let fields = SendMessageResponse {
            msg_id: msg_id.into(),
            queue_id: self.queue_id,
            queue_offset,
            transaction_id: self.unique_key,
            batch_uniq_id: None,
            recall_handle: self.recall_handle,
            region: Some(ByteString::from_static(REGION)),
            trace_on: Some(TRACE_ON),
        };
        SendAnswer::Stored { head: self.answer, fields }
    }
}
