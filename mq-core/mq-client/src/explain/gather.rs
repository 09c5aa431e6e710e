//! Asks the brokers for the facts: the index for messages of the key, then what each group and producer group is at.

use std::collections::{BTreeMap, BTreeSet};

use mq_protocol::body::{
    ConsumeType, ConsumerConnections, InboxAnswer, IsPopped, MessageModel, MessageQueue, Subscription, TxnName,
    TxnShown,
};
use mq_protocol::ids::UnixMillis;
use mq_protocol::pop::Mark;
use mq_protocol::properties::name;
use mq_protocol::topic;

use super::facts::{DelayedFacts, Facts, GroupFacts, MessageFacts, RetryFacts, RetryFate, TransactionFacts};
use crate::admin::{Admin, GroupProgress, Master};
use crate::error::ClientError;
use crate::message::ReceivedMessage;
use crate::trace::TRACE_TOPIC;
use crate::unique_key;

/// Topics where a message waits until it is delivered to its own.
const WAITING_ROOMS: [&str; 2] = [topic::TIMER, topic::SCHEDULE];

pub(super) async fn gather(admin: &Admin, key: &str, wanted: Option<&str>) -> Result<Facts, ClientError> {
    let topics = match wanted {
        Some(topic) => vec![topic.to_owned()],
        None => admin.user_topics().await?,
    };
    let gatherer = Gatherer { admin, key, wanted, masters: admin.masters().await? };
    let waiting = gatherer.waiting().await?;
    let (mut groups, mut messages) = (BTreeMap::new(), Vec::new());
    for topic in &topics {
        for message in admin.messages_by_key(topic, key, false).await? {
            messages.push(gatherer.message(&message, &waiting, &mut groups).await?);
        }
    }
    let delayed = waiting.iter().filter(|one| !topic::is_retry(&one.topic)).cloned().collect();
    let transactions = gatherer.transactions().await?;
    let ids = transactions.iter().map(|one| &one.id).chain(messages.iter().map(|one: &MessageFacts| &one.id));
    let mut traces = BTreeMap::new();
    for id in ids.collect::<BTreeSet<_>>() {
        let records = answered(admin.traces(TRACE_TOPIC, id).await)?.unwrap_or_default();
        traces.insert(id.clone(), records);
    }
    Ok(Facts { key: key.to_owned(), now: unique_key::now(), topics, transactions, messages, delayed, traces })
}

struct Gatherer<'a> {
    admin: &'a Admin,
    key: &'a str,
    wanted: Option<&'a str>,
    masters: Vec<Master>,
}

/// Members of a group that are asked until one tells.
const ASKED_FOR_INBOXES: usize = 3;

/// When a message was popped that is not acknowledged, and when it comes again.
type Held = Option<(UnixMillis, Option<UnixMillis>)>;

/// What is asked once a group and topic.
struct GroupState {
    progress: GroupProgress,
    members: Vec<ConsumerConnections>,
}

impl Gatherer<'_> {
    /// Messages of the key that are kept back, of retries too.
    async fn waiting(&self) -> Result<Vec<DelayedFacts>, ClientError> {
        let mut waiting = Vec::new();
        for room in WAITING_ROOMS {
            for message in self.admin.messages_by_key(room, self.key, false).await? {
                let Some(topic) = message.property(name::REAL_TOPIC) else { continue };
                let due = message.property(name::TIMER_OUT_MS).and_then(|due| due.parse().ok()).map(UnixMillis);
                if topic::is_retry(topic) || self.is_wanted(topic) {
                    let (id, topic) = (message.message_id.to_string(), topic.to_owned());
                    waiting.push(DelayedFacts { id, topic, stored_at: message.store_timestamp, due });
                }
            }
        }
        Ok(waiting)
    }

    fn is_wanted(&self, topic: &str) -> bool {
        self.wanted.is_none_or(|wanted| wanted == topic)
    }

    /// A client that sent its half again, and an operator who resumed one, made another half of the same transaction.
    async fn transactions(&self) -> Result<Vec<TransactionFacts>, ClientError> {
        let parked = self.admin.messages_by_key(topic::CHECK_MAX_TIME, self.key, false).await?;
        let mut halves: BTreeMap<_, Vec<ReceivedMessage>> = BTreeMap::new();
        for half in self.admin.messages_by_key(topic::HALF, self.key, false).await? {
            if half.property(name::REAL_TOPIC).is_some_and(|topic| self.is_wanted(topic)) {
                let group = half.property(name::PRODUCER_GROUP).unwrap_or_default().to_owned();
                halves.entry((group, half.message_id.to_string())).or_default().push(half);
            }
        }
        let mut transactions = Vec::new();
        for ((group, id), halves) in halves {
            let (Some(first), Some(last)) = (halves.first(), halves.last()) else { continue };
            let is_it = |copy: &&ReceivedMessage| *copy.message_id == *id;
            transactions.push(TransactionFacts {
                producers: self.producers(&group).await?,
                topic: last.property(name::REAL_TOPIC).unwrap_or_default().to_owned(),
                broker: last.queue.broker_name.clone(),
                half: first.queue_offset.0,
                stored_at: first.store_timestamp,
                again: halves[1..].iter().map(place).collect(),
                parked: parked.iter().filter(is_it).map(place).collect(),
                shown: self.shown(first, last).await?,
                sdk_transaction: last.property(name::SDK_TRANSACTION).map(str::to_owned),
                id,
                group,
            });
        }
        Ok(transactions)
    }

    /// What the broker tells of the last half, with the history of the first. Nothing of brokers that have no such
    /// request.
    async fn shown(&self, first: &ReceivedMessage, last: &ReceivedMessage) -> Result<Option<TxnShown>, ClientError> {
        let Some(mut shown) = self.shown_half(last).await? else { return Ok(None) };
        if first.queue_offset != last.queue_offset {
            let before = self.shown_half(first).await?.unwrap_or_default().history;
            let new = before.into_iter().filter(|event| !shown.history.contains(event)).collect::<Vec<_>>();
            shown.history.splice(0..0, new);
        }
        Ok(Some(shown))
    }

    async fn shown_half(&self, half: &ReceivedMessage) -> Result<Option<TxnShown>, ClientError> {
        let Some(master) = self.master_of(half) else { return Ok(None) };
        let name = TxnName { half: Some(half.queue_offset.0), ..TxnName::default() };
        answered(self.admin.transaction(master, &name).await).map(Option::flatten)
    }

    async fn producers(&self, group: &str) -> Result<usize, ClientError> {
        let brokers = answered(self.admin.producers(group).await)?.unwrap_or_default();
        let clients = brokers.into_iter().flat_map(|(_, producers)| producers.connection_set);
        Ok(clients.map(|client| client.client_id).collect::<BTreeSet<_>>().len())
    }

    fn master_of(&self, message: &ReceivedMessage) -> Option<&Master> {
        self.masters.iter().find(|master| master.name == message.queue.broker_name)
    }

    async fn message(
        &self,
        message: &ReceivedMessage,
        waiting: &[DelayedFacts],
        groups: &mut BTreeMap<(String, String), GroupState>,
    ) -> Result<MessageFacts, ClientError> {
        let mut facts = MessageFacts {
            id: message.message_id.to_string(),
            topic: message.topic.to_string(),
            broker: message.queue.broker_name.clone(),
            queue: message.queue.queue_id,
            offset: message.queue_offset.0,
            stored_at: message.store_timestamp,
            outbox_of: message.property(name::SDK_OUTBOX_TRANSACTION).map(str::to_owned),
            groups: Vec::new(),
        };
        let Some(master) = self.master_of(message) else { return Ok(facts) };
        for group in self.admin.groups_of(master, &message.topic).await? {
            let pair = (group, facts.topic.clone());
            if !groups.contains_key(&pair) {
                let progress = answered(self.admin.progress(&pair.0, Some(&pair.1)).await)?.unwrap_or_default();
                let members = answered(self.admin.consumers(&pair.0).await)?.unwrap_or_default();
                let members = members.into_iter().map(|(_, members)| members).collect();
                groups.insert(pair.clone(), GroupState { progress, members });
            }
            facts.groups.push(self.group(message, &pair.0, &groups[&pair], waiting).await?);
        }
        Ok(facts)
    }

    async fn group(
        &self,
        message: &ReceivedMessage,
        group: &str,
        state: &GroupState,
        waiting: &[DelayedFacts],
    ) -> Result<GroupFacts, ClientError> {
        let clients = state.members.iter().flat_map(|members| &members.connection_set);
        let subscription = state.members.iter().find_map(|members| members.subscription_table.get(&*message.topic));
        let mut retries = Vec::new();
        for topic in retry_topics(group, &message.topic) {
            let copies = self.copies(&topic, message).await?;
            for copy in &copies {
                let passed = self.committed(group, &copy.queue).await?.is_some_and(|next| next > copy.queue_offset.0);
                let done = passed && self.popped(group, copy).await?.flatten().is_none();
                let fate = if done { RetryFate::Done } else { RetryFate::Ready };
                retries.push(RetryFacts { at: copy.store_timestamp, number: copy.reconsume_times + 1, fate });
            }
            let resting = waiting.iter().filter(|one| *one.topic == *topic && *one.id == *message.message_id);
            // Each that is out rested before.
            for (number, one) in (2..).zip(resting).skip(copies.len()) {
                retries.push(RetryFacts { at: one.stored_at, number, fate: RetryFate::Resting });
            }
        }
        retries.sort_by_key(|retry| retry.at);
        let popped = self.popped(group, message).await?;
        let dead = self.copies(&topic::dead_letter_topic(group), message).await?;
        Ok(GroupFacts {
            group: group.to_owned(),
            consumers: clients.map(|client| &client.client_id).collect::<BTreeSet<_>>().len(),
            broadcast: state.members.iter().any(|members| members.message_model == MessageModel::Broadcasting),
            popped: popped.flatten(),
            pops_untold: popped.is_none()
                && state.members.iter().any(|members| members.consume_type == ConsumeType::ConsumePop),
            passes_over: subscription.filter(|it| passes_over(it, message)).map(|it| it.sub_string.clone()),
            committed: self.committed(group, &message.queue).await?,
            handed_out_to: state.handed_out_to(&message.queue),
            retries,
            dead_at: dead.last().map(|copy| copy.store_timestamp),
            inbox: self.inbox(group, state, message).await,
        })
    }

    /// Whoever has the row decides, for members may have several databases; else what the first says that has an inbox.
    async fn inbox(&self, group: &str, state: &GroupState, message: &ReceivedMessage) -> Option<InboxAnswer> {
        let master = self.master_of(message)?;
        let mut first = None;
        let pushed = state.members.iter().filter(|members| members.consume_type == ConsumeType::ConsumePassively);
        for client in pushed.flat_map(|members| &members.connection_set).take(ASKED_FOR_INBOXES) {
            let told = self.admin.inbox(master, group, &client.client_id, &message.offset_message_id).await;
            match told {
                Ok(Some(done @ InboxAnswer::Done { .. })) => return Some(done),
                Ok(Some(answer)) => {
                    first.get_or_insert(answer);
                }
                _ => {}
            }
        }
        first
    }

    async fn copies(&self, topic: &str, message: &ReceivedMessage) -> Result<Vec<ReceivedMessage>, ClientError> {
        self.admin.messages_by_key(topic, &message.message_id, true).await
    }

    /// `None`: the broker does not tell.
    async fn popped(&self, group: &str, message: &ReceivedMessage) -> Result<Option<Held>, ClientError> {
        let Some(master) = self.master_of(message) else { return Ok(None) };
        let place = IsPopped {
            group: group.to_owned(),
            topic: message.queue.topic.clone(),
            queue_id: message.queue.queue_id,
            offset: message.queue_offset.0,
        };
        let popped = answered(self.admin.popped(master, &place).await)?;
        Ok(popped.map(|popped| popped.popped_at.map(|at| (UnixMillis(at), popped.until.map(UnixMillis)))))
    }

    /// Nothing of a topic that no route names.
    async fn committed(&self, group: &str, queue: &MessageQueue) -> Result<Option<u64>, ClientError> {
        match self.admin.client().committed(group, queue).await {
            Err(ClientError::Route(_)) => Ok(None),
            committed => Ok(committed?.map(|next| next.0)),
        }
    }
}

impl GroupState {
    /// The offset behind the last message that the group was handed.
    fn handed_out_to(&self, queue: &MessageQueue) -> u64 {
        let place = self.progress.queues.iter().find(|progress| progress.queue == *queue);
        place.map_or(0, |place| place.committed.0 + place.in_flight)
    }
}

fn place(record: &ReceivedMessage) -> (UnixMillis, u64) {
    (record.store_timestamp, record.queue_offset.0)
}

/// Of those that pull, then of those that pop.
fn retry_topics(group: &str, of: &str) -> impl Iterator<Item = String> {
    let pops = Mark::RETRIES.map(|mark| mark.topic(of, group));
    std::iter::once(topic::retry_topic(group)).chain(pops)
}

fn passes_over(subscription: &Subscription, message: &ReceivedMessage) -> bool {
    let wants = |tag: &str| subscription.tags_set.contains(tag);
    subscription.is_tag() && !subscription.tags_set.is_empty() && !message.tags().is_some_and(wants)
}

/// A refusal says that there is nothing to be told.
fn answered<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::Call(error)) if error.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
