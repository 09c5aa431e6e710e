//! Pop consumption: what is given out stays away for its time, comes again when nobody acknowledges it, and survives
//! restarts either way.

mod acknowledging;
mod limits;
mod order;
mod polling;
mod positions;
mod retries;

use std::time::Duration;

use mq_broker::BrokerConfig;
use mq_protocol::ByteString;
use mq_protocol::body::{self, BatchAck, BatchAcks, SubscriptionGroup};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::HeaderFormat;
use mq_protocol::header::{
    AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeResponse, Notification, NotificationResponse, OffsetResponse,
    PeekMessage, PollingInfo, PollingInfoResponse, PopMessage, PopMessageResponse, QueryConsumerOffset, ResetOffset,
};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::pop::{Handle, Mark, ORDERLY, read_shares};
use mq_protocol::properties::name;
use mq_protocol::record::{self, StoredMessage};

use crate::harness::{Client, Pull, START, Send, TestBroker, World, until};

const INVISIBLE: Duration = Duration::from_secs(60);
/// Longer than a wait that ends by an event; a broker holds no pop for longer.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A message with its receipt handle, as Java's client makes it.
#[derive(Clone, Debug)]
pub(crate) struct Popped {
    pub(crate) handle: Handle,
    pub(crate) message: StoredMessage,
    group: String,
}

impl Popped {
    pub(crate) fn body(&self) -> &str {
        std::str::from_utf8(&self.message.message.body).unwrap()
    }

    fn tries(&self) -> i32 {
        self.message.message.reconsume_times
    }

    /// The topic that the message lies in.
    fn real_topic(&self) -> ByteString {
        self.handle.mark.topic(&self.message.message.topic, &self.group).into()
    }

    pub(crate) fn ack(&self) -> Command {
        self.ack_with(&self.handle.to_string())
    }

    fn ack_with(&self, handle: &str) -> Command {
        let header = AckMessage {
            consumer_group: self.group.as_str().into(),
            topic: self.real_topic(),
            queue_id: self.handle.queue_id.0 as i32,
            extra_info: handle.into(),
            offset: self.message.queue_offset.0 as i64,
            bname: None,
        };
        Command::request_with(request::ACK_MESSAGE, &header)
    }

    pub(crate) fn change(&self, to: Duration) -> Command {
        let header = ChangeInvisibleTime {
            consumer_group: self.group.as_str().into(),
            topic: self.real_topic(),
            queue_id: self.handle.queue_id.0 as i32,
            extra_info: self.handle.to_string().into(),
            offset: self.message.queue_offset.0 as i64,
            invisible_time: to.as_millis() as i64,
            bname: None,
        };
        Command::request_with(request::CHANGE_MESSAGE_INVISIBLETIME, &header)
    }

    /// The handle after a change, made as clients make it.
    pub(crate) fn changed(&self, answer: &Command) -> Self {
        let ChangeInvisibleTimeResponse { pop_time, invisible_time, revive_qid } = answer.header().unwrap();
        let start_offset = if revive_qid == ORDERLY { self.handle.start_offset } else { self.message.queue_offset };
        Self {
            handle: Handle { start_offset, pop_time, invisible_time, revive_qid, ..self.handle.clone() },
            ..self.clone()
        }
    }
}

/// A pop of all queues that waits for nothing.
pub(crate) fn pop(group: &str, topic: &str) -> PopMessage {
    PopMessage::new(group.into(), topic.into(), INVISIBLE.as_millis() as i64)
}

pub(crate) fn waiting(pop: PopMessage) -> PopMessage {
    PopMessage { poll_time: LONG.as_millis() as i64, ..pop }
}

fn in_order(pop: PopMessage) -> PopMessage {
    PopMessage { order: Some(true), ..pop }
}

pub(crate) fn command(pop: &PopMessage) -> Command {
    Command::request_with(request::POP_MESSAGE, pop)
}

/// The messages of an answer, in its order.
pub(crate) fn messages(pop: &PopMessage, answer: &Command) -> Vec<Popped> {
    assert!(
        [response::SUCCESS, response::POLLING_TIMEOUT].contains(&answer.code),
        "{}: {:?}",
        answer.code,
        answer.remark
    );
    let header: PopMessageResponse = answer.header().unwrap();
    if answer.code != response::SUCCESS {
        assert_eq!(header.start_offset_info.as_deref(), Some(""));
        return Vec::new();
    }
    let start = header.start_offset_info.unwrap();
    let mut shares = read_shares(&start, &header.msg_offset_info.unwrap()).unwrap();
    let found: Vec<Popped> = record::decode_all(&answer.body)
        .unwrap()
        .into_iter()
        .map(|message| {
            let stated = message.message.property(name::POP_CK).map(|handle| handle.parse::<Handle>().unwrap());
            let mark = stated.as_ref().map_or(Mark::Normal, |handle| handle.mark);
            let of_queue = |share: &&mut mq_protocol::pop::QueueShare| {
                (share.mark, share.queue_id) == (mark, message.message.queue_id)
            };
            let share = shares.iter_mut().find(of_queue).expect("each queue has its share");
            assert_eq!(share.offsets.remove(0), message.queue_offset, "offsets stand in the order of the messages");
            let handle = stated.unwrap_or(Handle {
                start_offset: share.start_offset,
                pop_time: header.pop_time,
                invisible_time: header.invisible_time,
                revive_qid: header.revive_qid,
                mark,
                broker_name: "broker-a".into(),
                queue_id: message.message.queue_id,
                offset: Some(message.queue_offset),
            });
            assert_eq!(message.message.topic, pop.topic, "a client sees its own topic only");
            Popped { handle, message, group: pop.consumer_group.to_string() }
        })
        .collect();
    assert!(shares.iter().all(|share| share.offsets.is_empty()), "each offset has its message");
    found
}

pub(crate) async fn popped(client: &mut Client, pop: &PopMessage) -> Vec<Popped> {
    let answer = client.call(command(pop)).await;
    messages(pop, &answer)
}

fn bodies(popped: &[Popped]) -> Vec<&str> {
    let mut bodies: Vec<_> = popped.iter().map(Popped::body).collect();
    bodies.sort_unstable();
    bodies
}

pub(crate) async fn done(client: &mut Client, command: Command) -> Command {
    let answer = client.call(command).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    answer
}

/// A consumer of the group `g`. It sends no heartbeat: a broker whose clock jumps would miss the next one.
pub(crate) async fn member(broker: &TestBroker) -> Client {
    let mut client = broker.connect().await;
    set_group(&mut client, group()).await;
    client
}

async fn send(client: &mut Client, bodies: &[&'static str]) {
    for body in bodies {
        client.send(Send::to("T").body(*body)).await;
    }
}

async fn set_group(client: &mut Client, group: SubscriptionGroup) {
    let body = body::to_json(&group);
    done(client, Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(body)).await;
}

fn group() -> SubscriptionGroup {
    SubscriptionGroup { group_name: "g".into(), ..SubscriptionGroup::default() }
}

fn acks_of(popped: &Popped) -> BatchAck {
    let Handle { start_offset, pop_time, invisible_time, revive_qid, mark, queue_id, .. } = popped.handle.clone();
    BatchAck {
        consumer_group: popped.group.clone(),
        topic: popped.message.message.topic.to_string(),
        retry: mark.to_string(),
        start_offset,
        queue_id,
        revive_qid,
        pop_time,
        invisible_time,
        bits: [popped.message.queue_offset.0 - start_offset.0].into_iter().collect(),
    }
}

async fn offset(client: &mut Client) -> u64 {
    let header = QueryConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        set_zero_if_not_found: None,
        bname: None,
    };
    let answer = done(client, Command::request_with(request::QUERY_CONSUMER_OFFSET, &header)).await;
    answer.header::<OffsetResponse>().unwrap().offset.0
}
