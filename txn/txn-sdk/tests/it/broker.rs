//! A broker and name server on a real socket that does as it is told: answers late, wrongly or not at all, and asks about
//! half messages when the test wants it.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use mq_protocol::{
    body::{BrokerData, QueueData, TopicRoute},
    codes::{request, response},
    command::Command,
    frame::{self, MAX_FRAME_BYTES},
    header::{CheckTransactionState, EndTransaction, SendMessage, SendMessageResponse},
    ids::{LogOffset, QueueId, QueueOffset, UnixMillis},
    message_id::offset_id,
    properties::{Properties, find},
    record::Message,
    sys_flag,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::oneshot,
};
use txn_sdk::Verdict;

/// Only a bug waits for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSend {
    Store,
    /// Stored, and no answer.
    StoreSilently,
    /// Stored, and answered with this code: not flushed, not replicated.
    StoreAndSay(i32),
    Refuse(i32),
    /// Refused as illegal if it has this key.
    RefuseKey(&'static str),
    /// Asks for the verdict before it answers the send.
    CheckFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnEnd {
    Record,
    /// As if the request had been lost on the way.
    Lose,
    /// The half has another outcome by now.
    Refuse(i32),
}

/// A stored half message and what was heard of it.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    pub(crate) header: SendMessage,
    body: bytes::Bytes,
    /// From the producer itself.
    pub(crate) ends: Vec<Verdict>,
    /// Answers to checks.
    pub(crate) answers: Vec<Verdict>,
}

#[derive(Clone)]
pub(crate) struct Broker(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
}

struct State {
    on_send: OnSend,
    on_end: OnEnd,
    halves: Vec<Half>,
    /// Halves in the order in which they became visible.
    published: Vec<usize>,
    /// The last client that sent a heartbeat.
    client: Option<Peer>,
    asked: HashMap<u64, oneshot::Sender<Verdict>>,
}

type Peer = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            on_send: OnSend::Store,
            on_end: OnEnd::Record,
            halves: Vec::new(),
            published: Vec::new(),
            client: None,
            asked: HashMap::new(),
        };
        let broker = Self(Arc::new(Shared { address: listener.local_addr().unwrap(), state: Mutex::new(state) }));
        let accepting = broker.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        broker
    }

    pub(crate) fn address(&self) -> String {
        self.0.address.to_string()
    }

    pub(crate) fn on_send(&self, on_send: OnSend) {
        self.0.state.lock().on_send = on_send;
    }

    pub(crate) fn on_end(&self, on_end: OnEnd) {
        self.0.state.lock().on_end = on_end;
    }

    pub(crate) fn halves(&self) -> Vec<Half> {
        self.0.state.lock().halves.clone()
    }

    /// The keys of what became visible, in this order.
    pub(crate) fn published(&self) -> Vec<String> {
        let state = self.0.state.lock();
        let key = |index: &usize| state.halves[*index].property("KEYS").unwrap_or_default().to_owned();
        state.published.iter().map(key).collect()
    }

    /// Waits until this holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(tokio::time::Instant::now() < give_up, "{what}: not in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn last(&self) -> Half {
        self.halves().pop().expect("a half message")
    }

    /// Asks the producer's client how this half ends.
    pub(crate) async fn check(&self, index: usize) -> Verdict {
        let (answer, answered) = oneshot::channel();
        let (peer, half) = {
            let mut state = self.0.state.lock();
            state.asked.insert(index as u64, answer);
            (state.client.clone().expect("a registered client"), state.halves[index].clone())
        };
        write(&peer, &self.check_request(index, &half)).await;
        tokio::time::timeout(PATIENCE, answered).await.expect("an answer to the check").unwrap()
    }

    /// Asks until the answer is definite.
    pub(crate) async fn settle(&self, index: usize) -> Verdict {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < give_up {
            match self.check(index).await {
                Verdict::Unknown => tokio::time::sleep(Duration::from_millis(10)).await,
                verdict => return verdict,
            }
        }
        panic!("half {index} is never settled");
    }

    fn check_request(&self, index: usize, half: &Half) -> Command {
        let at = LogOffset(index as u64);
        let message = Message {
            topic: half.header.topic.clone(),
            queue_id: QueueId(0),
            flag: 0,
            sys_flag: 0,
            born_timestamp: half.header.born_timestamp,
            born_host: self.0.address,
            store_host: self.0.address,
            reconsume_times: 0,
            prepared_transaction_offset: LogOffset(0),
            properties: half.header.properties.clone().unwrap(),
            body: half.body.clone(),
        };
        let mut record = BytesMut::new();
        message.encode(&mut record).unwrap();
        mq_protocol::record::stamp(&mut record, QueueOffset(index as u64), at, UnixMillis(1));
        let header = CheckTransactionState {
            topic: Some("RMQ_SYS_TRANS_HALF_TOPIC".into()),
            tran_state_table_offset: QueueOffset(index as u64),
            commit_log_offset: at,
            msg_id: half.property("UNIQ_KEY").map(Into::into),
            transaction_id: half.property("UNIQ_KEY").map(Into::into),
            offset_msg_id: Some(offset_id(self.0.address, at).into()),
            bname: Some("scripted".into()),
        };
        Command::request_with(request::CHECK_TRANSACTION_STATE, &header).with_body(record.freeze()).oneway()
    }

    async fn serve(self, stream: TcpStream) {
        let (mut read, write_half) = stream.into_split();
        let peer: Peer = Arc::new(tokio::sync::Mutex::new(write_half));
        let mut input = BytesMut::new();
        while read.read_buf(&mut input).await.is_ok_and(|bytes| bytes > 0) {
            while let Some(frame) = frame::split(&mut input, MAX_FRAME_BYTES).unwrap() {
                let command = Command::decode(frame).unwrap();
                let (broker, peer) = (self.clone(), peer.clone());
                tokio::spawn(async move {
                    if let Some(answer) = broker.answer(&peer, &command).await {
                        write(&peer, &answer).await;
                    }
                });
            }
        }
    }

    async fn answer(&self, peer: &Peer, command: &Command) -> Option<Command> {
        let success = command.response(response::SUCCESS);
        match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => Some(success.with_body(self.route())),
            request::HEART_BEAT => {
                self.0.state.lock().client = Some(peer.clone());
                Some(success)
            }
            request::SEND_MESSAGE_V2 => self.store(command).await,
            request::END_TRANSACTION => {
                let answer = match self.0.state.lock().on_end {
                    OnEnd::Refuse(code) => command.error(code, "as told"),
                    OnEnd::Record | OnEnd::Lose => success,
                };
                self.end(command).then_some(answer).filter(|_| !command.is_oneway())
            }
            _ => Some(success),
        }
    }

    fn route(&self) -> bytes::Bytes {
        let broker = BrokerData {
            broker_addrs: BTreeMap::from([(0, self.address())]),
            broker_name: "scripted".into(),
            ..BrokerData::default()
        };
        let queue = QueueData {
            broker_name: "scripted".into(),
            perm: 6,
            read_queue_nums: 1,
            write_queue_nums: 1,
            ..QueueData::default()
        };
        let route = TopicRoute { broker_datas: vec![broker], queue_datas: vec![queue], ..TopicRoute::default() };
        route.to_json(i32::MAX)
    }

    async fn store(&self, command: &Command) -> Option<Command> {
        let header = SendMessage::decode_v2(&command.ext).unwrap();
        let (index, on_send) = {
            let mut state = self.0.state.lock();
            let half = Half { header, body: command.body.clone(), ends: Vec::new(), answers: Vec::new() };
            match state.on_send {
                OnSend::Refuse(code) => return Some(command.error(code, "as told")),
                OnSend::RefuseKey(key) if half.property("KEYS") == Some(key) => {
                    return Some(command.error(response::MESSAGE_ILLEGAL, "as told"));
                }
                _ => {}
            }
            state.halves.push(half);
            (state.halves.len() - 1, state.on_send)
        };
        let code = match on_send {
            OnSend::StoreSilently => return None,
            OnSend::StoreAndSay(code) => code,
            OnSend::CheckFirst => {
                self.check(index).await;
                response::SUCCESS
            }
            OnSend::Store | OnSend::Refuse(_) | OnSend::RefuseKey(_) => response::SUCCESS,
        };
        let header = SendMessageResponse {
            msg_id: offset_id(self.0.address, LogOffset(index as u64)).into(),
            queue_id: QueueId(0),
            queue_offset: QueueOffset(index as u64),
            transaction_id: None,
            batch_uniq_id: None,
            recall_handle: None,
            region: None,
            trace_on: None,
        };
        Some(command.response(code).with_header(&header))
    }

    fn end(&self, command: &Command) -> bool {
        let header: EndTransaction = command.header().unwrap();
        let verdict = match header.commit_or_rollback {
            sys_flag::TRANSACTION_COMMIT => Verdict::Commit,
            sys_flag::TRANSACTION_ROLLBACK => Verdict::Rollback,
            _ => Verdict::Unknown,
        };
        let mut state = self.0.state.lock();
        let index = header.tran_state_table_offset.0;
        let half = &mut state.halves[index as usize];
        assert_eq!(half.header.producer_group, header.producer_group);
        if header.from_transaction_check == Some(true) {
            half.answers.push(verdict);
            if verdict == Verdict::Commit {
                state.publish(index as usize);
            }
            if let Some(asked) = state.asked.remove(&index) {
                let _ = asked.send(verdict);
            }
            return true;
        }
        if state.on_end == OnEnd::Lose {
            return false;
        }
        let refused = matches!(state.on_end, OnEnd::Refuse(_));
        state.halves[index as usize].ends.push(verdict);
        if verdict == Verdict::Commit && !refused {
            state.publish(index as usize);
        }
        true
    }
}

impl State {
    fn publish(&mut self, index: usize) {
        if !self.published.contains(&index) {
            self.published.push(index);
        }
    }
}

impl Half {
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        find(self.header.properties.as_ref()?, name)
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut properties = Properties::parse(self.header.properties.as_ref().unwrap());
        properties.remove(name);
        let header = SendMessage { properties: Some(properties.encode()), ..self.header.clone() };
        Self { header, ..self.clone() }
    }
}

impl Broker {
    /// A half message of somebody else's in the same group.
    pub(crate) fn add_half(&self, half: Half) -> usize {
        let mut state = self.0.state.lock();
        state.halves.push(half);
        state.halves.len() - 1
    }
}

async fn write(peer: &Peer, command: &Command) {
    let mut bytes = BytesMut::new();
    command.encode(&mut bytes);
    // The client may have gone: so be it.
    let _ = peer.lock().await.write_all(&bytes).await;
}
