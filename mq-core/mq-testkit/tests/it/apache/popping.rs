//! Pops of whichever broker runs, as bare requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mq_protocol::body::{self, SubscriptionGroup};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{AckMessage, PopMessage, PopMessageResponse};
use mq_protocol::pop::{Handle, Mark, read_shares};
use mq_protocol::record::{self, StoredMessage};
use mq_testkit::wire::Peer;

use super::{POLL, WAIT};

pub(super) const TOPIC: &str = "popped";
const GROUP: &str = "poppers";
/// Longer than a change of brokers takes here. On a slower machine the first broker gives the message out again itself.
const INVISIBLE: Duration = Duration::from_secs(15);

/// A message that was given out, and what acknowledges it.
pub(super) struct Popped {
    handle: Handle,
    message: StoredMessage,
}

impl Popped {
    pub(super) fn body(&self) -> String {
        String::from_utf8(self.message.message.body.to_vec()).unwrap()
    }
}

pub(super) fn create_group(broker: SocketAddr) {
    let group = SubscriptionGroup { group_name: GROUP.into(), ..SubscriptionGroup::default() };
    let create = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(body::to_json(&group));
    let answer = ask(broker, create);
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
}

fn pop(broker: SocketAddr) -> Vec<Popped> {
    let header = PopMessage::new(GROUP.into(), TOPIC.into(), INVISIBLE.as_millis() as i64);
    let header = PopMessage { order: Some(false), ..header };
    let answer = ask(broker, Command::request_with(request::POP_MESSAGE, &header));
    let PopMessageResponse { pop_time, invisible_time, revive_qid, start_offset_info, msg_offset_info, .. } =
        match answer.code {
            response::SUCCESS => answer.header().unwrap(),
            response::POLLING_TIMEOUT | response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY => {
                return Vec::new();
            }
            _ => panic!("{}: {:?}", answer.code, answer.remark),
        };
    let shares = read_shares(&start_offset_info.unwrap(), &msg_offset_info.unwrap()).unwrap();
    let with_handle = |message: StoredMessage| {
        // Only messages of a retry topic state theirs.
        let stated = message.message.property("POP_CK").map(|handle| handle.parse::<Handle>().unwrap());
        let handle = stated.unwrap_or_else(|| {
            let of_queue = |mark| shares.iter().find(|share| share.mark == mark);
            let share = of_queue(Mark::Normal).or(of_queue(Mark::RetryV1)).unwrap();
            Handle {
                start_offset: share.start_offset,
                pop_time,
                invisible_time,
                revive_qid,
                mark: share.mark,
                broker_name: "broker-a".into(),
                queue_id: share.queue_id,
                offset: Some(message.queue_offset),
            }
        });
        Popped { handle, message }
    };
    record::decode_all(&answer.body).unwrap().into_iter().map(with_handle).collect()
}

/// Pops until a message of this body comes; gives all that did.
pub(super) fn pop_until(broker: SocketAddr, body: &str) -> Vec<Popped> {
    let deadline = Instant::now() + WAIT;
    let mut all = Vec::new();
    while !all.iter().any(|popped: &Popped| popped.body() == body) {
        assert!(Instant::now() < deadline, "{body} does not come");
        std::thread::sleep(POLL);
        all.extend(pop(broker));
    }
    all
}

pub(super) fn acknowledge(broker: SocketAddr, popped: &Popped) {
    let Popped { handle, message } = popped;
    let header = AckMessage {
        consumer_group: GROUP.into(),
        topic: handle.mark.topic(TOPIC, GROUP).into(),
        queue_id: handle.queue_id.0 as i32,
        extra_info: handle.to_string().into(),
        offset: message.queue_offset.0 as i64,
        bname: None,
    };
    let answer = ask(broker, Command::request_with(request::ACK_MESSAGE, &header));
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
}

fn ask(broker: SocketAddr, command: Command) -> Command {
    Peer::connect(broker).unwrap().ask(command, WAIT).unwrap()
}
