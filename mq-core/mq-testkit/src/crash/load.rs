//! The clients of a crash test: producers that keep requests in flight and answer checks, and a reader behind them.
//! Each stops at the first broken connection and hands over what it learned.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mq_protocol::body::{self, ConsumeType, ConsumerData, HeartbeatData, ProducerData, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    CheckTransactionState, EndTransaction, GetMaxOffset, OffsetResponse, PullMessage, SendMessage, SendMessageResponse,
};
use mq_protocol::ids::{QueueId, UnixMillis};
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::{StoredMessage, decode_all};
use mq_protocol::sys_flag;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::evidence::{Seen, View};
use super::history::{HalfReceipt, History, Place};
use super::plan::{Fate, MessageId, Plan, QUEUES, TOPIC};
use crate::wire::Peer;

const GROUP: &str = "crash-producers";
const READER_GROUP: &str = "crash-reader";
/// An answer that takes longer is a hang, not a slow disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a round of sends may be.
const MAX_ROUND: u32 = 16;
/// The largest pause between two rounds.
const MAX_PAUSE_MICROS: u64 = 3000;

enum Pending {
    Message(MessageId),
    End(MessageId, HalfReceipt),
}

/// One producer over all crashes: its numbers never repeat.
pub struct Producer {
    plan: Plan,
    number: u16,
    next: u32,
    random: SmallRng,
    /// Verdicts to send again on the next connection.
    again: Vec<(MessageId, HalfReceipt)>,
}

impl Producer {
    #[must_use]
    pub fn new(plan: Plan, number: u16) -> Self {
        let random = SmallRng::seed_from_u64(plan.seed.wrapping_add(u64::from(number)));
        Self { plan, number, next: 0, random, again: Vec::new() }
    }

    /// Sends until `stop` or until the connection breaks; keeps answering checks until `silence` as well.
    pub fn run(&mut self, broker: SocketAddr, stop: &AtomicBool, silence: &AtomicBool) -> History {
        let mut session = Session { producer: self, history: History::default(), pending: HashMap::new() };
        let end = Peer::connect(broker).and_then(|mut peer| session.work(&mut peer, stop, silence));
        let mut history = session.history;
        let open = session.pending.into_values().filter_map(|pending| match pending {
            Pending::End(id, receipt) => Some((id, receipt)),
            Pending::Message(_) => None,
        });
        self.again = open.collect();
        history.unanswered.extend(self.again.iter().copied());
        if let Err(error) = end
            && matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::InvalidData)
        {
            history.surprises.push(format!("producer {}: {error}", self.number));
        }
        history
    }
}

struct Session<'p> {
    producer: &'p mut Producer,
    history: History,
    pending: HashMap<i32, Pending>,
}

impl Session<'_> {
    fn work(&mut self, peer: &mut Peer, stop: &AtomicBool, silence: &AtomicBool) -> io::Result<()> {
        peer.ask(heartbeat(self.producer.number), ANSWER_WITHIN)?;
        for (id, receipt) in std::mem::take(&mut self.producer.again) {
            self.end(peer, id, receipt);
        }
        self.settle(peer)?;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..self.producer.random.random_range(1..=MAX_ROUND) {
                self.send_next(peer);
            }
            self.settle(peer)?;
            let pause = Duration::from_micros(self.producer.random.random_range(1..MAX_PAUSE_MICROS));
            self.answer_checks(peer, pause)?;
        }
        while !silence.load(Ordering::Relaxed) {
            self.answer_checks(peer, Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn send_next(&mut self, peer: &mut Peer) {
        let id = MessageId { producer: self.producer.number, sequence: self.producer.next };
        self.producer.next += 1;
        self.history.tried.insert(id);
        let opaque = peer.write(send_request(self.producer.plan, id));
        self.pending.insert(opaque, Pending::Message(id));
    }

    fn end(&mut self, peer: &mut Peer, id: MessageId, receipt: HalfReceipt) {
        let opaque = peer.write(end_request(id, receipt, verdict(self.producer.plan.fate(id)), false));
        self.pending.insert(opaque, Pending::End(id, receipt));
    }

    /// Waits until everything that was sent is answered.
    fn settle(&mut self, peer: &mut Peer) -> io::Result<()> {
        peer.flush()?;
        while !self.pending.is_empty() {
            let frame = peer.receive(ANSWER_WITHIN)?;
            let hang = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {ANSWER_WITHIN:?}"));
            self.take(peer, &frame.ok_or_else(hang)?);
            peer.flush()?;
        }
        Ok(())
    }

    /// Takes what the broker asks for, for a while.
    fn answer_checks(&mut self, peer: &mut Peer, within: Duration) -> io::Result<()> {
        while let Some(frame) = peer.receive(within)? {
            self.take(peer, &frame);
            self.settle(peer)?;
        }
        Ok(())
    }

    fn take(&mut self, peer: &mut Peer, frame: &Command) {
        if !frame.is_response() {
            if frame.code == request::CHECK_TRANSACTION_STATE {
                self.check(peer, frame);
            }
            return;
        }
        let Some(pending) = self.pending.remove(&frame.opaque) else {
            self.history.surprises.push(format!("an answer to nothing: {frame:?}"));
            return;
        };
        if frame.code != response::SUCCESS {
            *self.history.refused.entry(frame.code).or_default() += 1;
            return;
        }
        match pending {
            Pending::Message(id) => self.stored(peer, id, frame),
            Pending::End(id, _) => {
                self.history.ended.insert(id, self.producer.plan.fate(id).is_visible());
            }
        }
    }

    fn stored(&mut self, peer: &mut Peer, id: MessageId, answer: &Command) {
        let Ok(header) = answer.header::<SendMessageResponse>() else {
            self.history.surprises.push(format!("{id}: no receipt in {answer:?}"));
            return;
        };
        let fate = self.producer.plan.fate(id);
        if !fate.is_half() {
            self.history.stored.insert(id, (header.queue_id.0, header.queue_offset.0));
            return;
        }
        let Some((_, log_offset)) = parse_offset_id(&header.msg_id) else {
            self.history.surprises.push(format!("{id}: {:?} is no offset id", header.msg_id));
            return;
        };
        let receipt = HalfReceipt { half_offset: header.queue_offset, log_offset };
        self.history.halves.insert(id, receipt);
        if fate.ends_at_once() {
            self.end(peer, id, receipt);
        }
    }

    fn check(&mut self, peer: &mut Peer, check: &Command) {
        self.history.checks += 1;
        let id = StoredMessage::decode(&check.body).ok().and_then(|half| Plan::id_of(&half.message.body));
        let (Ok(header), Some(id)) = (check.header::<CheckTransactionState>(), id) else {
            self.history.surprises.push(format!("a check that nobody can read: {check:?}"));
            return;
        };
        let receipt = HalfReceipt { half_offset: header.tran_state_table_offset, log_offset: header.commit_log_offset };
        let end = end_request(id, receipt, verdict(self.producer.plan.fate(id)), true);
        // As Apache's client does: one-way. A verdict that gets lost is asked for again.
        peer.write(end.oneway());
    }
}

fn heartbeat(number: u16) -> Command {
    let producer = ProducerData { group_name: GROUP.into(), ..ProducerData::default() };
    let data = HeartbeatData {
        client_id: format!("127.0.0.1@producer-{number}"),
        producer_data_set: vec![producer],
        ..HeartbeatData::default()
    };
    Command::request(request::HEART_BEAT).with_body(body::to_json(&data))
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    UnixMillis(since.as_millis() as i64)
}

fn unique_key(id: MessageId) -> String {
    format!("C0DE{:012X}{:016X}", id.producer, id.sequence)
}

fn send_request(plan: Plan, id: MessageId) -> Command {
    let mut properties: Properties =
        [(name::UNIQ_KEY, unique_key(id)), (name::WAIT, "true".into())].into_iter().collect();
    let mut sys_flag = sys_flag::TRANSACTION_NONE;
    if plan.fate(id).is_half() {
        properties.set(name::TRANSACTION_PREPARED, "true");
        properties.set(name::PRODUCER_GROUP, GROUP);
        sys_flag = sys_flag::TRANSACTION_PREPARED;
    }
    let header = SendMessage {
        queue_id: plan.queue(id) as i32,
        sys_flag,
        born_timestamp: now(),
        properties: Some(properties.encode()),
        default_topic_queue_nums: Some(QUEUES as i32),
        ..SendMessage::new(GROUP.into(), TOPIC.into())
    };
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(plan.body(id));
    header.encode_v2(&mut command.ext);
    command
}

fn verdict(fate: Fate) -> i32 {
    match fate {
        Fate::Commit | Fate::CommitWhenAsked => sys_flag::TRANSACTION_COMMIT,
        Fate::Rollback | Fate::RollbackWhenAsked => sys_flag::TRANSACTION_ROLLBACK,
        Fate::NeverDecided | Fate::Plain => sys_flag::TRANSACTION_NONE,
    }
}

fn end_request(id: MessageId, receipt: HalfReceipt, verdict: i32, from_check: bool) -> Command {
    let header = EndTransaction {
        topic: Some(TOPIC.into()),
        producer_group: GROUP.into(),
        tran_state_table_offset: receipt.half_offset,
        commit_log_offset: receipt.log_offset,
        commit_or_rollback: verdict,
        from_transaction_check: Some(from_check),
        msg_id: Some(unique_key(id).into()),
        transaction_id: Some(unique_key(id).into()),
        bname: None,
    };
    Command::request_with(request::END_TRANSACTION, &header)
}

/// Reads the topic's queues from where it stands.
pub struct Reader {
    plan: Plan,
    next: [u64; QUEUES as usize],
}

impl Reader {
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, next: [0; QUEUES as usize] }
    }

    /// Follows the producers until `stop` or until the connection breaks.
    pub fn follow(&mut self, broker: SocketAddr, stop: &AtomicBool) -> History {
        let mut history = History::default();
        let end = connect_reader(broker).and_then(|mut peer| {
            while !stop.load(Ordering::Relaxed) {
                let seen = self.round(&mut peer)?;
                if seen.is_empty() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                for (place, seen) in seen {
                    match seen.id {
                        Some(id) if seen.intact => drop(history.read.insert(place, id)),
                        _ => history.surprises.push(format!("the reader got {seen:?} at {place:?}")),
                    }
                }
            }
            Ok(())
        });
        if let Err(error) = end
            && matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::InvalidData)
        {
            history.surprises.push(format!("reader: {error}"));
        }
        history
    }

    /// The whole topic up to its end, and where each queue ends.
    pub fn read_all(plan: Plan, broker: SocketAddr) -> io::Result<View> {
        let mut peer = connect_reader(broker)?;
        let mut view = View::default();
        for queue in 0..QUEUES {
            view.ends.insert(queue, max_offset(&mut peer, queue)?);
        }
        let mut reader = Self::new(plan);
        loop {
            let more = reader.round(&mut peer)?;
            if more.is_empty() {
                return Ok(view);
            }
            view.messages.extend(more);
        }
    }

    /// One pull of each queue.
    fn round(&mut self, peer: &mut Peer) -> io::Result<Vec<(Place, Seen)>> {
        let mut seen = Vec::new();
        for queue in 0..QUEUES {
            for record in pull(peer, queue, self.next[queue as usize])? {
                let body = &record.message.body;
                let id = Plan::id_of(body);
                let intact = id.is_some_and(|id| self.plan.is_intact(id, body));
                seen.push(((queue, record.queue_offset.0), Seen { id, intact }));
                self.next[queue as usize] = record.queue_offset.0 + 1;
            }
        }
        Ok(seen)
    }
}

/// A connection whose heartbeat made the group known.
fn connect_reader(broker: SocketAddr) -> io::Result<Peer> {
    let mut peer = Peer::connect(broker)?;
    let consumer = ConsumerData {
        group_name: READER_GROUP.into(),
        consume_type: ConsumeType::ConsumeActively,
        subscription_data_set: vec![Subscription::tags(TOPIC, "*", 1)],
        ..ConsumerData::default()
    };
    let data = HeartbeatData {
        client_id: "127.0.0.1@reader".into(),
        consumer_data_set: vec![consumer],
        ..HeartbeatData::default()
    };
    peer.ask(Command::request(request::HEART_BEAT).with_body(body::to_json(&data)), ANSWER_WITHIN)?;
    Ok(peer)
}

fn pull(peer: &mut Peer, queue: u32, from: u64) -> io::Result<Vec<StoredMessage>> {
    let header = PullMessage::new(READER_GROUP.into(), TOPIC.into(), QueueId(queue), from as i64);
    let answer = peer.ask(Command::request_with(request::PULL_MESSAGE, &header), ANSWER_WITHIN)?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    match answer.code {
        response::SUCCESS => decode_all(&answer.body).map_err(|error| invalid(format!("pull of {queue}: {error}"))),
        response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY | response::TOPIC_NOT_EXIST => Ok(Vec::new()),
        // What was read once is gone.
        response::PULL_OFFSET_MOVED => Err(invalid(format!("queue {queue} does not reach {from} any more"))),
        code => Err(io::Error::other(format!("pull of {queue} from {from}: code {code}, {:?}", answer.remark))),
    }
}

fn max_offset(peer: &mut Peer, queue: u32) -> io::Result<u64> {
    let header = GetMaxOffset { topic: TOPIC.into(), queue_id: QueueId(queue), committed: None, bname: None };
    let answer = peer.ask(Command::request_with(request::GET_MAX_OFFSET, &header), ANSWER_WITHIN)?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    answer.header::<OffsetResponse>().map(|header| header.offset.0).map_err(invalid)
}
