//! Pop consumption: what is given out stays away for its time, comes again when nobody acknowledges it, and survives
//! restarts either way.

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
    PopMessage {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: PopMessage::ANY_QUEUE,
        max_msg_nums: 32,
        invisible_time: INVISIBLE.as_millis() as i64,
        poll_time: 0,
        born_time: None,
        init_mode: PopMessage::INIT_AT_FIRST,
        exp_type: None,
        exp: None,
        order: None,
        attempt_id: None,
        bname: None,
    }
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

#[tokio::test]
async fn what_is_not_acknowledged_in_time_comes_again_and_what_is_does_not() {
    for format in [HeaderFormat::Json, HeaderFormat::Binary] {
        let world = World::new();
        let broker = world.start().await;
        let mut client = member(&broker).await;
        client.format = format;
        send(&mut client, &["a", "b", "c"]).await;
        let first = popped(&mut client, &pop("g", "T")).await;
        assert_eq!(bodies(&first), ["a", "b", "c"]);
        assert!(first.iter().all(|message| message.tries() == 0 && message.handle.mark == Mark::Normal));
        done(&mut client, first[0].ack()).await;
        done(&mut client, first[2].ack()).await;
        world.clock.advance(INVISIBLE - Duration::from_millis(1));
        assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "not before its time");
        world.clock.advance(Duration::from_millis(1));
        let again = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&again), again[0].tries(), again[0].handle.mark), (vec!["b"], 1, Mark::RetryV1));
        let again = &again[0].message.message;
        assert_eq!(again.property(name::FIRST_POP_TIME), Some(START.to_string().as_str()));
        assert_eq!(again.property(name::UNIQ_KEY), first[1].message.message.property(name::UNIQ_KEY));

        world.clock.advance(INVISIBLE);
        let third = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&third), third[0].tries()), (vec!["b"], 2), "a retry is tried again in its own topic");
        done(&mut client, third[0].ack()).await;
        world.clock.advance(INVISIBLE * 2);
        let nothing = PopMessage { poll_time: 500, ..pop("g", "T") };
        assert!(popped(&mut client, &nothing).await.is_empty());
    }
}

#[tokio::test]
async fn a_pop_takes_of_all_queues_what_its_filter_wants_and_passes_over_the_rest() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    for queue in 0..4 {
        for (tag, body) in [("x", "skipped"), ("a", "one"), ("b", "two")] {
            let mut message = Send::to("T").property("TAGS", tag).body(body);
            message.header.queue_id = queue;
            client.send(message).await;
        }
    }
    let all = PopMessage { exp: Some("a || b".into()), exp_type: Some("TAG".into()), ..pop("g", "T") };
    let one = PopMessage { queue_id: 2, ..all.clone() };
    assert_eq!(bodies(&popped(&mut client, &one).await), ["one", "two"]);
    let some = PopMessage { max_msg_nums: 3, ..all.clone() };
    let answer = client.call(command(&some)).await;
    let header: PopMessageResponse = answer.header().unwrap();
    assert_eq!((messages(&some, &answer).len(), answer.remark.as_deref()), (3, Some("FOUND")));
    assert!(header.rest_num > 0, "{header:?}");
    assert_eq!(popped(&mut client, &all).await.len(), 3);
    assert!(popped(&mut client, &all).await.is_empty());
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "what no filter wanted is passed over for good");
}

#[tokio::test]
async fn a_changed_time_makes_a_new_handle_and_ends_the_old_one() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["later", "sooner", "done"]).await;
    let mut first = popped(&mut client, &pop("g", "T")).await;
    first.sort_by_key(|message| message.message.queue_offset);
    let answer = done(&mut client, first[0].change(INVISIBLE * 3)).await;
    let later = first[0].changed(&answer);
    assert_ne!(later.handle.pop_time, first[0].handle.pop_time);
    let answer = done(&mut client, first[1].change(Duration::from_secs(1))).await;
    let sooner = first[1].changed(&answer);
    let answer = done(&mut client, first[2].change(Duration::from_secs(1))).await;
    done(&mut client, first[2].changed(&answer).ack()).await;
    // The old handles name nothing any more.
    done(&mut client, first[0].ack()).await;
    done(&mut client, first[1].ack()).await;

    world.clock.advance(Duration::from_secs(2));
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(bodies(&again), ["sooner"]);
    done(&mut client, again[0].ack()).await;
    // Too late: it has come again under another handle, and that one is acknowledged.
    let late = client.call(sooner.change(Duration::from_secs(1))).await.code;
    assert!([response::SUCCESS, response::NO_MESSAGE].contains(&late), "{late}");
    world.clock.advance(INVISIBLE * 3);
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(bodies(&again), ["later"]);
    done(&mut client, again[0].ack()).await;
    world.clock.advance(INVISIBLE * 9);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
}

#[tokio::test]
async fn a_batch_acknowledges_messages_of_several_queues() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    for queue in [0, 0, 0, 1] {
        let mut message = Send::to("T").body(format!("m{queue}"));
        message.header.queue_id = queue;
        client.send(message).await;
    }
    let first = popped(&mut client, &pop("g", "T")).await;
    let handle = |queue: u32| &first.iter().find(|popped| popped.handle.queue_id.0 == queue).unwrap().handle;
    let acks = |queue: u32, bits: &[u64]| BatchAck {
        consumer_group: "g".into(),
        topic: "T".into(),
        retry: "0".into(),
        start_offset: handle(queue).start_offset,
        queue_id: QueueId(queue),
        revive_qid: handle(queue).revive_qid,
        pop_time: handle(queue).pop_time,
        invisible_time: handle(queue).invisible_time,
        bits: bits.iter().copied().collect(),
    };
    // Offsets that the queue does not have are passed over.
    let batch = BatchAcks { broker_name: "broker-a".into(), acks: vec![acks(0, &[0, 2, 900]), acks(1, &[0])] };
    done(&mut client, Command::request(request::BATCH_ACK_MESSAGE).with_body(body::to_json(&batch))).await;
    world.clock.advance(INVISIBLE);
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(again.iter().map(|popped| popped.message.queue_offset).collect::<Vec<_>>(), [QueueOffset(0)]);
    assert_eq!(bodies(&again), ["m0"]);
    let retried = BatchAcks { acks: vec![BatchAck { retry: "1".into(), ..acks_of(&again[0]) }], ..batch };
    done(&mut client, Command::request(request::BATCH_ACK_MESSAGE).with_body(body::to_json(&retried))).await;
    world.clock.advance(INVISIBLE);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
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

#[tokio::test]
async fn a_message_that_fails_as_often_as_its_group_allows_becomes_a_dead_letter() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    set_group(&mut client, SubscriptionGroup { retry_max_times: 2, ..group() }).await;
    send(&mut client, &["poison"]).await;
    for tries in 0..3 {
        let found = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&found), found[0].tries()), (vec!["poison"], tries));
        world.clock.advance(INVISIBLE);
    }
    let dead = client.pull(Pull::of("T", 0, 0)).await;
    let origin = mq_protocol::message_id::offset_id(dead[0].message.store_host, dead[0].log_offset);
    while client.max_offset("%DLQ%g", 0).await == 0 {
        tokio::task::yield_now().await;
    }
    let dead = client.pull(Pull::of("%DLQ%g", 0, 0)).await;
    assert_eq!(dead.len(), 1);
    let message = &dead[0].message;
    assert_eq!((&message.body[..], message.reconsume_times), (&b"poison"[..], 3));
    for (property, value) in [
        (name::DLQ_ORIGIN_TOPIC, "T"),
        (name::RETRY_TOPIC, "T"),
        (name::DLQ_ORIGIN_MESSAGE_ID, origin.as_str()),
        (name::ORIGIN_MESSAGE_ID, origin.as_str()),
    ] {
        assert_eq!(message.property(property), Some(value), "{property}");
    }
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty());
    // The dead letter is seen before its message is taken off the books.
    until(async || broker.broker.pop_in_flight("%RETRY%g_T", "g", QueueId(0)) == 0).await;
}

#[tokio::test]
async fn a_groups_own_retry_policy_makes_its_messages_rest_unless_the_consumer_chose_the_time() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let policy = r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":100000,"max":7200000,"multiplier":3}}"#;
    set_group(&mut client, SubscriptionGroup { group_retry_policy: serde_json::from_str(policy).unwrap(), ..group() })
        .await;
    let listed = client.call(Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    let stored = &listed["subscriptionGroupTable"]["g"]["groupRetryPolicy"]["exponentialRetryPolicy"]["initial"];
    assert_eq!(stored, 100_000);
    send(&mut client, &["m"]).await;
    for (rest, tries) in [(100, 0), (300, 1)] {
        assert_eq!(popped(&mut client, &waiting(pop("g", "T"))).await[0].tries(), tries);
        world.clock.advance(Duration::from_secs(rest) - Duration::from_millis(1));
        assert!(popped(&mut client, &PopMessage { poll_time: 400, ..pop("g", "T") }).await.is_empty(), "{rest}");
        world.clock.advance(Duration::from_millis(1));
    }
    let third = popped(&mut client, &waiting(pop("g", "T"))).await;
    done(&mut client, third[0].change(Duration::from_secs(1))).await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(popped(&mut client, &waiting(pop("g", "T"))).await[0].tries(), 3);
}

#[tokio::test]
async fn newer_retry_topics_are_written_and_older_ones_still_read() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["old", "new"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    assert_eq!(bodies(&popped(&mut client, &one).await), ["old"]);
    world.clock.advance(INVISIBLE);
    while client.max_offset("%RETRY%g_T", 0).await == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    broker.stop().await.unwrap();
    let broker = world.start_with(|config| config.pop.retry_topic_v2 = true).await;
    let mut client = member(&broker).await;
    assert_eq!(bodies(&popped(&mut client, &PopMessage { queue_id: 0, ..one.clone() }).await).len(), 1);
    let rest = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(rest.len(), 1);
    world.clock.advance(INVISIBLE);
    while client.max_offset("%RETRY%g+T", 0).await + client.max_offset("%RETRY%g_T", 0).await < 3 {
        tokio::task::yield_now().await;
    }
    let mut again = popped(&mut client, &waiting(pop("g", "T"))).await;
    again.sort_by_key(|popped| popped.handle.mark);
    let marks: Vec<_> = again.iter().map(|popped| (popped.body(), popped.handle.mark, popped.tries())).collect();
    assert_eq!(marks, [("old", Mark::RetryV1, 2), ("new", Mark::RetryV2, 1)]);
    for popped in &again {
        done(&mut client, popped.ack()).await;
    }
    world.clock.advance(INVISIBLE);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
}

#[tokio::test]
async fn a_new_group_starts_where_its_first_pop_says() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let groups = [("first", "T", "*"), ("last", "T", "*")];
    client.heartbeat("c1", &[], &groups).await;
    send(&mut client, &["a", "b", "c"]).await;
    let last = |group| PopMessage { init_mode: PopMessage::INIT_AT_LAST, ..pop(group, "T") };
    assert_eq!(bodies(&popped(&mut client, &last("last")).await), ["a", "b", "c"], "a young queue is read whole");
    broker.stop().await.unwrap();
    let broker = world.start_with(|config| config.pop.start_of_young_queues = false).await;
    let mut client = broker.connect().await;
    client.heartbeat("c1", &[], &[("first", "T", "*"), ("other", "T", "*"), ("last", "T", "*")]).await;
    assert_eq!(bodies(&popped(&mut client, &last("other")).await), ["c"]);
    assert_eq!(bodies(&popped(&mut client, &pop("first", "T")).await), ["a", "b", "c"]);
    assert!(popped(&mut client, &last("last")).await.is_empty(), "it has begun long ago");
}

#[tokio::test]
async fn a_pop_waits_for_a_message_and_is_told_when_there_is_none_or_no_room_to_wait() {
    let world = World::new();
    let broker = world.start_with(|config| config.pop.polling_size = 1).await;
    let mut client = member(&broker).await;
    send(&mut client, &["before"]).await;
    popped(&mut client, &pop("g", "T")).await;
    let wait = waiting(PopMessage { exp: Some("wanted".into()), ..pop("g", "T") });
    let opaque = client.post(command(&wait)).await;
    let mut other = broker.connect().await;
    let info = PollingInfo { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, bname: None };
    loop {
        let answer = done(&mut other, Command::request_with(request::POLLING_INFO, &info)).await;
        if answer.header::<PollingInfoResponse>().unwrap().polling_num == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let refused = other.call(command(&wait)).await;
    assert_eq!(refused.code, response::POLLING_FULL);
    assert!(refused.remark.unwrap().contains("popPollingSize"));
    other.send(Send::to("T").property("TAGS", "other").body("passed over")).await;
    let ended = other.call(command(&PopMessage { queue_id: 0, poll_time: 50, ..wait.clone() })).await;
    assert_eq!((ended.code, ended.remark.as_deref()), (response::POLLING_TIMEOUT, Some("NO_MESSAGE_IN_QUEUE")));
    other.send(Send::to("T").property("TAGS", "wanted").body("after")).await;
    let answer = client.answer(opaque).await;
    assert_eq!(bodies(&messages(&wait, &answer)), ["after"]);
    let late = PopMessage { born_time: Some(START.0 - 601), poll_time: 100, ..pop("g", "T") };
    assert_eq!(client.call(command(&late)).await.code, response::POLLING_TIMEOUT);
}

#[tokio::test]
async fn a_notification_comes_when_a_pop_would_find_something() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let ask = |poll_time| {
        let header = Notification {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: -1,
            poll_time,
            born_time: Some(0),
            order: Some(false),
            attempt_id: None,
            bname: None,
        };
        Command::request_with(request::NOTIFICATION, &header)
    };
    send(&mut client, &["a"]).await;
    let told = |answer: Command| answer.header::<NotificationResponse>().unwrap().has_msg;
    assert!(told(done(&mut client, ask(0)).await));
    popped(&mut client, &pop("g", "T")).await;
    assert!(!told(done(&mut client, ask(0)).await));
    let opaque = client.post(ask(LONG.as_millis() as i64)).await;
    world.clock.advance(INVISIBLE);
    assert!(told(client.answer(opaque).await), "a revived message is news too");
}

#[tokio::test]
async fn a_peek_shows_the_next_messages_and_takes_none() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let peek =
        PeekMessage { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, max_msg_nums: 2, bname: None };
    let peek = || Command::request_with(request::PEEK_MESSAGE, &peek);
    client.send(Send::to("T").body("a")).await;
    popped(&mut client, &pop("g", "T")).await;
    assert_eq!(client.call(peek()).await.code, response::PULL_NOT_FOUND);
    send(&mut client, &["b", "c", "d"]).await;
    for _ in 0..2 {
        let answer = done(&mut client, peek()).await;
        let seen = record::decode_all(&answer.body).unwrap();
        assert_eq!(seen.iter().map(|seen| &seen.message.body[..]).collect::<Vec<_>>(), [b"b", b"c"]);
        assert_eq!(answer.header::<PopMessageResponse>().unwrap().rest_num, 3);
    }
    assert_eq!(popped(&mut client, &pop("g", "T")).await.len(), 3);
}

#[tokio::test]
async fn an_orderly_queue_gives_nothing_more_until_what_it_gave_is_settled() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    let two = in_order(PopMessage { max_msg_nums: 2, attempt_id: Some("1".into()), ..pop("g", "T") });
    let first = popped(&mut client, &two).await;
    assert_eq!((bodies(&first), first[0].handle.revive_qid), (vec!["a", "b"], ORDERLY));
    let next = PopMessage { attempt_id: Some("2".into()), ..two.clone() };
    assert!(popped(&mut client, &next).await.is_empty(), "the queue waits");
    assert_eq!(bodies(&popped(&mut client, &two).await), ["a", "b"], "the same attempt may be repeated");
    let first = popped(&mut client, &two).await;
    assert_eq!(broker.broker.pop_in_flight("T", "g", QueueId(0)), 2);

    let opaque = client.post(command(&waiting(next.clone()))).await;
    done(&mut client, first[0].ack()).await;
    assert_eq!(offset(&mut client).await, 1);
    done(&mut client, first[1].ack()).await;
    let second = messages(&next, &client.answer(opaque).await);
    assert_eq!((bodies(&second), offset(&mut client).await), (vec!["c"], 2), "acknowledging opens the queue");

    // Its time ends without an acknowledgement: it comes again in its place, counted.
    let opaque = client.post(command(&waiting(PopMessage { attempt_id: Some("3".into()), ..two.clone() }))).await;
    world.clock.advance(INVISIBLE);
    let answer = client.answer(opaque).await;
    let header: PopMessageResponse = answer.header().unwrap();
    assert_eq!(header.order_count_info.as_deref(), Some("0 qo0%2 1;0 0 1"));
    let third = messages(&two, &answer);
    assert_eq!(bodies(&third), ["c"]);

    let answer = done(&mut client, third[0].change(INVISIBLE * 4)).await;
    let later = third[0].changed(&answer);
    assert_eq!(later.handle.pop_time, third[0].handle.pop_time);
    world.clock.advance(INVISIBLE * 2);
    assert!(popped(&mut client, &in_order(pop("g", "T"))).await.is_empty(), "its consumer wanted more time");

    // A clean stop keeps what the queue waits for.
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert!(popped(&mut client, &in_order(pop("g", "T"))).await.is_empty());
    let not_given =
        Popped { message: StoredMessage { queue_offset: QueueOffset(1), ..later.message.clone() }, ..later.clone() };
    done(&mut client, not_given.ack()).await;
    done(&mut client, later.ack()).await;
    assert_eq!(offset(&mut client).await, 3);
    send(&mut client, &["d"]).await;
    assert_eq!(bodies(&popped(&mut client, &in_order(pop("g", "T"))).await), ["d"]);
}

#[tokio::test]
async fn an_acknowledgement_in_order_from_before_a_reset_passes_over_nothing() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    let before = popped(&mut client, &in_order(pop("g", "T"))).await;
    let header = mq_protocol::header::UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        commit_offset: 0,
        bname: None,
    };
    done(&mut client, Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    done(&mut client, before[2].ack()).await;
    assert_eq!(offset(&mut client).await, 0);
    assert_eq!(bodies(&popped(&mut client, &in_order(pop("g", "T"))).await), ["a", "b", "c"]);
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

#[tokio::test]
async fn a_crash_loses_no_message_that_is_in_flight_and_brings_none_back_that_is_done() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["done", "flying", "changed", "revived"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    let mut each = Vec::new();
    for _ in 0..4 {
        each.extend(popped(&mut client, &one).await);
    }
    done(&mut client, each[0].ack()).await;
    let answer = done(&mut client, each[2].change(INVISIBLE * 2)).await;
    let changed = each[2].changed(&answer);
    done(&mut client, each[3].change(Duration::from_secs(1))).await;
    world.clock.advance(Duration::from_secs(2));
    let revived = popped(&mut client, &waiting(one.clone())).await;
    assert_eq!(bodies(&revived), ["revived"]);
    broker.abandon().await;
    world.wait_unlocked().await;

    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "what was given out stays away for its time");
    assert_eq!(broker.broker.pop_in_flight("T", "g", QueueId(0)), 2);
    assert_eq!(broker.broker.pop_in_flight("%RETRY%g_T", "g", QueueId(0)), 1);
    done(&mut client, revived[0].ack()).await;
    world.clock.advance(INVISIBLE - Duration::from_secs(2));
    assert_eq!(bodies(&popped(&mut client, &waiting(pop("g", "T"))).await), ["flying"]);
    done(&mut client, changed.ack()).await;
    world.clock.advance(INVISIBLE * 2);
    assert_eq!(bodies(&popped(&mut client, &waiting(pop("g", "T"))).await), ["flying"], "and nothing else");
}

#[tokio::test]
async fn a_group_that_was_sent_back_stays_there_over_a_restart() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b"]).await;
    for popped in popped(&mut client, &pop("g", "T")).await {
        done(&mut client, popped.ack()).await;
    }
    let mut tool = broker.connect().await;
    let header = mq_protocol::header::UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        commit_offset: 1,
        bname: None,
    };
    done(&mut tool, Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert_eq!(bodies(&popped(&mut client, &pop("g", "T")).await), ["b"]);
}

#[tokio::test]
async fn a_group_that_pops_goes_once_where_its_topic_is_reset_to_also_while_it_waits() {
    let world = World::new();
    let broker = world.start_with(|config| config.default_topic_queues = 1).await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    for popped in popped(&mut client, &pop("g", "T")).await {
        done(&mut client, popped.ack()).await;
    }
    let mut tool = broker.connect().await;
    until(async || offset(&mut tool).await == 3).await;
    for (waits, to, expected) in [(false, 1, &["b", "c"][..]), (true, 2, &["c"])] {
        let ask = if waits { waiting(pop("g", "T")) } else { pop("g", "T") };
        let waits_since = if waits { Some(client.post(command(&ask)).await) } else { None };
        let info = PollingInfo { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, bname: None };
        until(async || {
            let answer = done(&mut tool, Command::request_with(request::POLLING_INFO, &info)).await;
            answer.header::<PollingInfoResponse>().unwrap().polling_num == u32::from(waits)
        })
        .await;
        let header = ResetOffset {
            topic: "T".into(),
            group: "g".into(),
            timestamp: UnixMillis(-1),
            is_force: Some(true),
            queue_id: Some(0),
            offset: Some(to),
        };
        done(&mut tool, Command::request_with(request::INVOKE_BROKER_TO_RESET_OFFSET, &header)).await;
        let found = match waits_since {
            Some(opaque) => messages(&ask, &client.answer(opaque).await),
            None => popped(&mut client, &ask).await,
        };
        assert_eq!(bodies(&found), expected, "reset to {to}");
        for popped in &found {
            done(&mut client, popped.ack()).await;
        }
        until(async || offset(&mut tool).await == 3).await;
        assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "they came once");
    }
}

#[tokio::test]
async fn a_group_that_acknowledges_nothing_is_given_no_more_than_its_limit() {
    let world = World::new();
    let broker = world.start_with(|config| config.pop.max_in_flight_of_group = 2).await;
    let mut client = member(&broker).await;
    client.heartbeat("c1", &[], &[("g", "T", "*"), ("h", "T", "*")]).await;
    send(&mut client, &["a", "b", "c"]).await;
    let two = PopMessage { max_msg_nums: 2, ..pop("g", "T") };
    let first = popped(&mut client, &two).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) < 2 {
        tokio::task::yield_now().await;
    }
    let refused = client.call(command(&two)).await;
    assert_eq!(refused.code, response::POLLING_FULL);
    assert!(refused.remark.unwrap().contains("its limit is 2"));
    assert_eq!(popped(&mut client, &PopMessage { max_msg_nums: 1, ..pop("h", "T") }).await.len(), 1, "others go on");
    done(&mut client, first[0].ack()).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bodies(&popped(&mut client, &two).await), ["c"]);
}

#[tokio::test]
async fn a_queue_over_its_threshold_waits_where_that_is_switched_on() {
    let mut config = BrokerConfig::default();
    config.apply("enablePopMessageThreshold=true\npopInflightMessageThreshold=0\n").unwrap();
    let world = World::new();
    let broker = world.start_with(|own| own.pop = config.pop).await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    let first = popped(&mut client, &one).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(popped(&mut client, &one).await.is_empty());
    done(&mut client, first[0].ack()).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bodies(&popped(&mut client, &one).await), ["b"]);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_code() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a"]).await;
    let found = popped(&mut client, &pop("g", "T")).await.remove(0);
    let ack = |change: fn(&mut AckMessage)| {
        let mut header: AckMessage = found.ack().header().unwrap();
        change(&mut header);
        Command::request_with(request::ACK_MESSAGE, &header)
    };
    let change = |change: fn(&mut ChangeInvisibleTime)| {
        let mut header: ChangeInvisibleTime = found.change(INVISIBLE).header().unwrap();
        change(&mut header);
        Command::request_with(request::CHANGE_MESSAGE_INVISIBLETIME, &header)
    };
    let pop = |change: fn(&mut PopMessage)| {
        let mut header = pop("g", "T");
        change(&mut header);
        command(&header)
    };
    let batch = |acks| {
        let body = body::to_json(&BatchAcks { broker_name: "b".into(), acks });
        Command::request(request::BATCH_ACK_MESSAGE).with_body(body)
    };
    for (name, request, code) in [
        ("too many", pop(|pop| pop.max_msg_nums = 33), response::INVALID_PARAMETER),
        ("no topic", pop(|pop| pop.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("no queue", pop(|pop| pop.queue_id = 99), response::INVALID_PARAMETER),
        ("no group", pop(|pop| pop.consumer_group = "h".into()), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ("a negative time", pop(|pop| pop.invisible_time = -1), response::INVALID_PARAMETER),
        ("ack: no topic", ack(|ack| ack.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("ack: no queue", ack(|ack| ack.queue_id = -1), response::MESSAGE_ILLEGAL),
        ("ack: no message", ack(|ack| ack.offset = 1), response::NO_MESSAGE),
        ("ack: no handle", ack(|ack| ack.extra_info = "1 2 3".into()), response::INVALID_PARAMETER),
        ("ack: no revive queue", ack(|ack| ack.extra_info = "0 1 2 8 0 b 0 0".into()), response::INVALID_PARAMETER),
        ("ack: not in order", ack(|ack| ack.extra_info = "0 1 2 999 0 b 0 0".into()), response::SUCCESS),
        ("change: no topic", change(|change| change.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("change: no queue", change(|change| change.queue_id = 99), response::MESSAGE_ILLEGAL),
        ("change: no message", change(|change| change.offset = -1), response::NO_MESSAGE),
        ("change: a negative time", change(|change| change.invisible_time = -1), response::INVALID_PARAMETER),
        ("batch: nothing", batch(Vec::new()), response::NO_MESSAGE),
        ("batch: too many", batch(vec![acks_of(&found); 1025]), response::INVALID_PARAMETER),
        (
            "batch: far away",
            batch(vec![BatchAck {
                start_offset: QueueOffset(u64::MAX),
                bits: [0, 1].into_iter().collect(),
                ..acks_of(&found)
            }]),
            response::SUCCESS,
        ),
        ("batch: no mark", batch(vec![BatchAck { retry: "7".into(), ..acks_of(&found) }]), response::INVALID_PARAMETER),
        ("rollback", Command::request(request::POP_ROLLBACK), response::SUCCESS),
    ] {
        assert_eq!(client.call(request).await.code, code, "{name}");
    }
    set_group(&mut client, SubscriptionGroup { consume_enable: false, ..group() }).await;
    assert_eq!(client.call(pop(|_| {})).await.code, response::NO_PERMISSION);
}
