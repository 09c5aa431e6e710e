//! The people of a scenario: producers that send halves, give verdicts and are asked, and somebody who reads what is
//! visible. Blocking, in frames.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use mq_protocol::body::{self, HeartbeatData, ProducerData, TxnPage, TxnQuery};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    CheckTransactionState, EndTransaction, PullMessage, QueryMessage, SendMessage, SendMessageResponse,
};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::{StoredMessage, decode_all};
use mq_protocol::sys_flag::{self, transaction_bits};
use mq_protocol::topic;

use super::Setting;
use crate::wire::Peer;

/// The brokers' `transactionCheckInterval`.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// For what has to come, on a slow machine too.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
/// For what must not come: as many rounds as the short settings have checks, and some.
pub(super) const QUIET: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(50);
const READERS: &str = "replay-readers";

/// A running broker.
pub struct Stage {
    pub broker: SocketAddr,
    pub setting: Setting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Commit,
    Rollback,
    Unknown,
}

impl Verdict {
    fn bits(self) -> i32 {
        match self {
            Self::Commit => sys_flag::TRANSACTION_COMMIT,
            Self::Rollback => sys_flag::TRANSACTION_ROLLBACK,
            Self::Unknown => sys_flag::TRANSACTION_NONE,
        }
    }
}

/// A half as its sender, or a check, names it.
#[derive(Clone, Debug)]
pub(super) struct Half {
    pub(super) key: String,
    half_offset: QueueOffset,
    pub(super) log_offset: LogOffset,
}

/// What a request was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: i32,
    remark: String,
}

impl Answer {
    pub(super) fn is_yes(&self) -> bool {
        self.code == response::SUCCESS
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_yes() { f.write_str("accepted") } else { write!(f, "refused ({})", self.code) }
    }
}

impl Stage {
    pub(super) fn producer(&self, group: &str, client: &str) -> Result<Producer> {
        let peer = Peer::connect(self.broker)?;
        let mut producer = Producer { peer, group: group.into(), checks: VecDeque::new() };
        let data = HeartbeatData {
            client_id: format!("127.0.0.1@{client}"),
            producer_data_set: vec![ProducerData { group_name: group.into(), ..ProducerData::default() }],
            ..HeartbeatData::default()
        };
        let answer = producer.ask(Command::request(request::HEART_BEAT).with_body(body::to_json(&data)))?;
        if answer.code != response::SUCCESS {
            bail!("the heartbeat of {group} is refused: {answer:?}");
        }
        Ok(producer)
    }

    /// Bodies of the messages of a topic that consumers see.
    pub(super) fn visible(&self, topic: &str) -> Result<Vec<Vec<u8>>> {
        let mut peer = Peer::connect(self.broker)?;
        let mut bodies = Vec::new();
        loop {
            let header = PullMessage::new(READERS.into(), topic.into(), QueueId(0), bodies.len() as i64);
            let answer = peer.ask(Command::request_with(request::PULL_MESSAGE, &header), PATIENCE)?;
            match answer.code {
                response::SUCCESS => {
                    let messages = decode_all(&answer.body).context("a pull's messages")?;
                    bodies.extend(messages.into_iter().map(|stored| stored.message.body.to_vec()));
                }
                response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY => return Ok(bodies),
                response::PULL_OFFSET_MOVED | response::TOPIC_NOT_EXIST => return Ok(bodies),
                code => bail!("pull of {topic}: code {code}, {:?}", answer.remark),
            }
        }
    }

    /// How many messages the topic has when that has been so for a while.
    pub(super) fn copies(&self, topic: &str) -> Result<usize> {
        let mut copies = self.visible(topic)?.len();
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            sleep(POLL);
            let now = self.visible(topic)?.len();
            if now != copies {
                (copies, since) = (now, Instant::now());
            }
        }
        Ok(copies)
    }

    /// Whether the topic comes to have a message.
    pub(super) fn becomes_visible(&self, topic: &str) -> Result<bool> {
        wait_for(PATIENCE, || Ok(!self.visible(topic)?.is_empty()))
    }

    /// Whether the half was given up: it lies where operators look.
    pub(super) fn is_parked(&self, body: &str) -> Result<bool> {
        Ok(self.visible(topic::CHECK_MAX_TIME)?.iter().any(|parked| parked == body.as_bytes()))
    }

    /// Unique keys of a group's halves without a verdict; `None` when the broker has no request for that.
    pub(super) fn open_halves(&self, group: &str) -> Result<Option<Vec<String>>> {
        let query = TxnQuery { group: Some(group.into()), ..TxnQuery::default() };
        let command = Command::request(request::TXN_LIST).with_body(body::to_json(&query));
        let answer = Peer::connect(self.broker)?.ask(command, PATIENCE)?;
        match answer.code {
            response::SUCCESS => {
                let page: TxnPage = body::from_json("open halves", &answer.body)?;
                Ok(Some(page.rows.into_iter().map(|half| half.transaction_id).collect()))
            }
            response::REQUEST_CODE_NOT_SUPPORTED => Ok(None),
            code => bail!("the list of halves: code {code}, {:?}", answer.remark),
        }
    }

    /// Unique keys of the messages that are found by a business key.
    pub(super) fn find(&self, topic: &str, key: &str) -> Result<Vec<String>> {
        let header = QueryMessage {
            topic: topic.into(),
            key: key.into(),
            max_num: 32,
            begin_timestamp: UnixMillis(0),
            end_timestamp: UnixMillis(i64::MAX),
            unique_key_query: Some(false),
            index_type: None,
        };
        let answer =
            Peer::connect(self.broker)?.ask(Command::request_with(request::QUERY_MESSAGE, &header), PATIENCE)?;
        if answer.code != response::SUCCESS {
            return Ok(Vec::new());
        }
        let found = decode_all(&answer.body).context("the messages of a key")?;
        let unique = |stored: StoredMessage| stored.message.property(name::UNIQ_KEY).unwrap_or_default().to_owned();
        Ok(found.into_iter().map(unique).collect())
    }

    /// The check of a half that either comes or never will, because the half is parked.
    pub(super) fn check_or_parked(&self, producer: &mut Producer, body: &str) -> Result<Option<Half>> {
        let mut check = None;
        wait_for(PATIENCE, || {
            let parked = self.is_parked(body)?;
            check = producer.check(ROUND / 4)?;
            Ok(check.is_some() || parked)
        })?;
        Ok(check)
    }

    /// Where the log ends, by a message that is added to it.
    pub(super) fn log_end(&self, producer: &mut Producer) -> Result<LogOffset> {
        let sent = producer.send("replay-probes", b"probe", &[], sys_flag::TRANSACTION_NONE, now())?;
        Ok(taken(sent)?.log_offset)
    }
}

/// True as soon as it holds, false when it does not in time.
pub(super) fn wait_for(within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + within;
    while !holds()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(POLL);
    }
    Ok(true)
}

pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    UnixMillis(since.as_millis() as i64)
}

/// One connection of a producer group. It answers no check by itself.
pub(super) struct Producer {
    peer: Peer,
    group: String,
    checks: VecDeque<Half>,
}

impl Producer {
    /// Asks again while the broker says that it is busy, as clients do.
    fn ask(&mut self, command: Command) -> Result<Command> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask_once(command.clone())?;
            if answer.code != response::SYSTEM_BUSY || Instant::now() > deadline {
                return Ok(answer);
            }
            sleep(POLL);
        }
    }

    fn ask_once(&mut self, command: Command) -> Result<Command> {
        let opaque = self.peer.write(command);
        self.peer.flush()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.peer.receive(left)?.context("the broker does not answer")? {
                answer if answer.is_response() && answer.opaque == opaque => return Ok(answer),
                other => self.take(&other)?,
            }
        }
    }

    fn take(&mut self, frame: &Command) -> Result<()> {
        if frame.code == request::CHECK_TRANSACTION_STATE && !frame.is_response() {
            let header: CheckTransactionState = frame.header()?;
            let half = StoredMessage::decode(&frame.body).context("the half message of a check")?;
            self.checks.push_back(Half {
                key: half.message.property(name::UNIQ_KEY).unwrap_or_default().to_owned(),
                half_offset: header.tran_state_table_offset,
                log_offset: header.commit_log_offset,
            });
        }
        Ok(())
    }

    pub(super) fn half(&mut self, topic: &str, body: &str) -> Result<Half> {
        taken(self.try_half(topic, body, &[])?)
    }

    pub(super) fn try_half(&mut self, topic: &str, body: &str, more: &[(&str, &str)]) -> Result<Result<Half, Answer>> {
        self.send(topic, body.as_bytes(), more, sys_flag::TRANSACTION_PREPARED, now())
    }

    pub(super) fn half_born_at(&mut self, topic: &str, body: &str, born: UnixMillis) -> Result<Half> {
        taken(self.send(topic, body.as_bytes(), &[], sys_flag::TRANSACTION_PREPARED, born)?)
    }

    pub(super) fn compressed_half(&mut self, topic: &str, body: &[u8]) -> Result<Half> {
        let flags = sys_flag::TRANSACTION_PREPARED | sys_flag::COMPRESSED;
        taken(self.send(topic, body, &[], flags, now())?)
    }

    fn send(
        &mut self,
        topic: &str,
        body: &[u8],
        more: &[(&str, &str)],
        sys_flag: i32,
        born_timestamp: UnixMillis,
    ) -> Result<Result<Half, Answer>> {
        let key = unique_key();
        let mut properties: Properties =
            [(name::UNIQ_KEY, key.as_str()), (name::WAIT, "true")].into_iter().chain(more.iter().copied()).collect();
        if transaction_bits(sys_flag) == sys_flag::TRANSACTION_PREPARED {
            properties.set(name::TRANSACTION_PREPARED, "true");
            properties.set(name::PRODUCER_GROUP, self.group.as_str());
        }
        let header = SendMessage {
            // One queue, so that a reader has to look at one only.
            default_topic_queue_nums: Some(1),
            sys_flag,
            born_timestamp,
            properties: Some(properties.encode()),
            ..SendMessage::new(self.group.as_str().into(), topic.into())
        };
        let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(body.to_vec());
        header.encode_v2(&mut command.ext);
        let answer = self.ask(command)?;
        if answer.code != response::SUCCESS {
            return Ok(Err(answer_of(&answer)));
        }
        let header: SendMessageResponse = answer.header()?;
        let (_, log_offset) = parse_offset_id(&header.msg_id).context("no offset id in the answer")?;
        Ok(Ok(Half { key, half_offset: header.queue_offset, log_offset }))
    }

    /// The producer's own verdict, after its local transaction.
    pub(super) fn end(&mut self, half: &Half, verdict: Verdict) -> Result<Answer> {
        self.give(half, verdict, false)
    }

    /// The answer to a check. It is waited for, so that what comes next comes after it.
    pub(super) fn answer(&mut self, check: &Half, verdict: Verdict) -> Result<Answer> {
        self.give(check, verdict, true)
    }

    fn give(&mut self, half: &Half, verdict: Verdict, from_check: bool) -> Result<Answer> {
        let header = EndTransaction {
            topic: None,
            producer_group: self.group.as_str().into(),
            tran_state_table_offset: half.half_offset,
            commit_log_offset: half.log_offset,
            commit_or_rollback: verdict.bits(),
            from_transaction_check: Some(from_check),
            msg_id: Some(half.key.as_str().into()),
            transaction_id: Some(half.key.as_str().into()),
            bname: None,
        };
        let command = Command::request_with(request::END_TRANSACTION, &header);
        // Unknown is not answered by every broker.
        if verdict == Verdict::Unknown {
            self.peer.write(command.oneway());
            self.peer.flush()?;
            return Ok(Answer { code: response::SUCCESS, remark: String::new() });
        }
        Ok(answer_of(&self.ask(command)?))
    }

    /// The next question of the broker, if one comes in time.
    pub(super) fn check(&mut self, within: Duration) -> Result<Option<Half>> {
        let deadline = Instant::now() + within;
        while self.checks.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(frame) = self.peer.receive(left)? else { return Ok(None) };
            self.take(&frame)?;
        }
        Ok(self.checks.pop_front())
    }

    pub(super) fn must_be_checked(&mut self) -> Result<Half> {
        self.check(PATIENCE)?.context("the broker never asks")
    }

    /// Answers "unknown" for a while. Says how often.
    pub(super) fn say_unknown(&mut self, within: Duration) -> Result<u32> {
        let (deadline, mut times) = (Instant::now() + within, 0);
        while let Some(check) = self.check(deadline.saturating_duration_since(Instant::now()))? {
            self.answer(&check, Verdict::Unknown)?;
            times += 1;
        }
        Ok(times)
    }
}

fn taken(sent: Result<Half, Answer>) -> Result<Half> {
    sent.map_err(|answer| anyhow::anyhow!("the message is {answer}: {}", answer.remark))
}

fn answer_of(answer: &Command) -> Answer {
    Answer { code: answer.code, remark: answer.remark.as_deref().unwrap_or_default().to_owned() }
}

fn unique_key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("C0DE{process:012X}{number:016X}")
}
