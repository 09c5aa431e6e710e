//! Where a topic is in the whole cluster, as the name servers know it; remembered for a short while.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mq_protocol::body::{self, MessageQueue, TopicRoute, perm};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};
use mq_protocol::header::GetRouteInfo;
use parking_lot::Mutex;
use tracing::debug;

/// A name server answers within milliseconds; this long means that it is not there.
const PATIENCE: Duration = Duration::from_secs(3);
/// Members of a group ask for the same topic at the same time, whenever one of them comes or goes.
const FRESH: Duration = Duration::from_secs(2);
const MAX_REMEMBERED: usize = 10_000;

pub(crate) struct Routes {
    name_servers: Vec<String>,
    known: Mutex<HashMap<String, (Instant, Queues)>>,
    /// None of them could be asked the last time. One at a time then finds out whether they are back; the others do not
    /// wait with it, as all of them together would take every thread of the blocking lane.
    away: AtomicBool,
    looking: Mutex<()>,
}

/// `None`: the name servers do not know the topic.
type Queues = Option<BTreeSet<MessageQueue>>;

/// No name server could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable;

impl Routes {
    pub(crate) fn new(name_servers: &[String]) -> Self {
        Self {
            name_servers: name_servers.to_vec(),
            known: Mutex::default(),
            away: AtomicBool::new(false),
            looking: Mutex::default(),
        }
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.name_servers.is_empty()
    }

    /// The readable queues of a topic on all brokers. Waits for the network.
    pub(crate) fn queues(&self, topic: &str) -> Result<Queues, Unreachable> {
        if let Some((at, queues)) = self.known.lock().get(topic)
            && at.elapsed() < FRESH
        {
            return Ok(queues.clone());
        }
        let ask =
            |addr: &String| ask(addr, topic).inspect_err(|error| debug!(name_server = addr, %error, "no route")).ok();
        let _looking = match self.away.load(Ordering::Relaxed) {
            true => Some(self.looking.try_lock().ok_or(Unreachable)?),
            false => None,
        };
        let queues = self.name_servers.iter().find_map(ask);
        self.away.store(queues.is_none(), Ordering::Relaxed);
        let queues = queues.ok_or(Unreachable)?;
        let mut known = self.known.lock();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(topic.to_owned(), (Instant::now(), queues.clone()));
        }
        Ok(queues)
    }
}

fn ask(addr: &str, topic: &str) -> io::Result<Queues> {
    let header = GetRouteInfo { topic: topic.into(), accept_standard_json_only: Some(true) };
    let answer = call(addr, Command::request_with(request::GET_ROUTEINFO_BY_TOPIC, &header))?;
    match answer.code {
        response::SUCCESS => {}
        response::TOPIC_NOT_EXIST => return Ok(None),
        code => return Err(io::Error::other(format!("refused with code {code}: {:?}", answer.remark))),
    }
    let route: TopicRoute = body::from_json("route", &answer.body).map_err(io::Error::other)?;
    let queues = route.queue_datas.iter().filter(|data| perm::readable(data.perm)).flat_map(|data| {
        let queue = |queue_id| MessageQueue { topic: topic.into(), broker_name: data.broker_name.clone(), queue_id };
        (0..data.read_queue_nums).map(queue)
    });
    Ok(Some(queues.collect()))
}

fn call(addr: &str, request: Command) -> io::Result<Command> {
    let addr = addr.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let (mut input, mut chunk) = (BytesMut::new(), [0; 16 << 10]);
    loop {
        if let Some(frame) = frame::split(&mut input, MAX_FRAME_BYTES).map_err(io::Error::other)? {
            return Command::decode(frame).map_err(io::Error::other);
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => input.extend_from_slice(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const ROUTE: &str = r#"{"brokerDatas":[],"filterServerTable":{},"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":2,"topicSysFlag":0,"writeQueueNums":2}]}"#;

    /// A name server that answers each of these requests with the next code, and no more.
    fn name_server(codes: &'static [i32]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        std::thread::spawn(move || {
            for code in codes {
                let (mut stream, _) = listener.accept().expect("a connection");
                let (mut input, mut chunk) = (BytesMut::new(), [0; 4096]);
                let request = loop {
                    if let Some(frame) = frame::split(&mut input, MAX_FRAME_BYTES).expect("a frame") {
                        break Command::decode(frame).expect("a request");
                    }
                    let read = stream.read(&mut chunk).expect("bytes");
                    input.extend_from_slice(&chunk[..read]);
                };
                let mut out = BytesMut::new();
                Command { code: *code, ..request.response(0) }.with_body(ROUTE).encode(&mut out);
                stream.write_all(&out).expect("written");
            }
        });
        address
    }

    #[test]
    fn only_a_name_server_that_says_so_does_not_know_the_topic() {
        for (codes, expected) in [
            (&[response::SUCCESS][..], Ok(Some(2))),
            (&[response::TOPIC_NOT_EXIST], Ok(None)),
            (&[response::SYSTEM_ERROR], Err(Unreachable)),
            (&[], Err(Unreachable)),
        ] {
            let routes = Routes::new(&[name_server(codes)]);
            let found = routes.queues("T").map(|queues| queues.map(|queues| queues.len()));
            assert_eq!(found, expected, "{codes:?}");
            assert_eq!(routes.away.load(Ordering::Relaxed), expected.is_err(), "{codes:?}");
        }
    }

    #[test]
    fn while_no_name_server_answers_one_request_looks_for_them_and_the_others_do_not_wait() {
        let routes = Routes::new(&[name_server(&[response::SUCCESS, response::SUCCESS])]);
        routes.away.store(true, Ordering::Relaxed);
        let looking = routes.looking.lock();
        assert_eq!(routes.queues("T"), Err(Unreachable));
        drop(looking);
        assert!(routes.queues("T").is_ok());
        let _looking = routes.looking.lock();
        assert!(routes.queues("U").is_ok(), "they are back");
    }
}
