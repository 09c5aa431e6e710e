//! A client that speaks frames, nothing more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mq_protocol::body::{self, ConsumerData, HeartbeatData, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};
use mq_protocol::header::{
    GetRouteInfo, OffsetResponse, PullMessage, QueryConsumerOffset, SendMessage, SendMessageResponse,
    UpdateConsumerOffset,
};
use mq_protocol::ids::QueueId;
use mq_protocol::record;

use crate::process::PATIENCE;

pub(crate) struct Client {
    stream: TcpStream,
    input: BytesMut,
    opaque: i32,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream, input: BytesMut::new(), opaque: 0 }
    }

    pub(crate) fn call(&mut self, mut request: Command) -> Command {
        self.opaque += 1;
        request.opaque = self.opaque;
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).expect("sent");
        loop {
            while let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES).expect("a good frame") {
                let command = Command::decode(frame).expect("a good header");
                if command.is_response() && command.opaque == self.opaque {
                    return command;
                }
            }
            let mut chunk = [0; 16 << 10];
            let read = self.stream.read(&mut chunk).expect("an answer in time");
            assert_ne!(read, 0, "the connection was closed");
            self.input.extend_from_slice(&chunk[..read]);
        }
    }

    fn succeed(&mut self, request: Command) -> Command {
        let answer = self.call(request);
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        answer
    }

    pub(crate) fn send(&mut self, topic: &str, text: &'static str) -> SendMessageResponse {
        let header = SendMessage { queue_id: 0, ..SendMessage::new("producers".into(), topic.into()) };
        let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(text.as_bytes());
        header.encode_v2(&mut command.ext);
        self.succeed(command).header().expect("where it is stored")
    }

    pub(crate) fn texts(&mut self, topic: &str) -> Vec<String> {
        let header = PullMessage::new(mq_protocol::topic::TOOLS_GROUP.into(), topic.into(), QueueId(0), 0);
        let answer = self.succeed(Command::request_with(request::PULL_MESSAGE, &header));
        let messages = record::decode_all(&answer.body).expect("messages");
        messages.iter().map(|stored| String::from_utf8_lossy(&stored.message.body).into_owned()).collect()
    }

    pub(crate) fn subscribe(&mut self, group: &str, topic: &str) {
        let data = HeartbeatData {
            client_id: "test".into(),
            consumer_data_set: vec![ConsumerData {
                group_name: group.into(),
                subscription_data_set: vec![Subscription::tags(topic, "*", 1)],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        self.succeed(Command::request(request::HEART_BEAT).with_body(body::to_json(&data)));
    }

    pub(crate) fn commit(&mut self, group: &str, topic: &str, commit_offset: i64) {
        let header = UpdateConsumerOffset {
            consumer_group: group.into(),
            topic: topic.into(),
            queue_id: QueueId(0),
            commit_offset,
            bname: None,
        };
        self.succeed(Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header));
    }

    pub(crate) fn committed(&mut self, group: &str, topic: &str) -> u64 {
        let header = QueryConsumerOffset {
            consumer_group: group.into(),
            topic: topic.into(),
            queue_id: QueueId(0),
            set_zero_if_not_found: Some(false),
            bname: None,
        };
        let answer = self.succeed(Command::request_with(request::QUERY_CONSUMER_OFFSET, &header));
        answer.header::<OffsetResponse>().expect("an offset").offset.0
    }

    /// The code of the topic's route.
    pub(crate) fn route(&mut self, topic: &str) -> i32 {
        let header = GetRouteInfo { topic: topic.into(), accept_standard_json_only: None };
        self.call(Command::request_with(request::GET_ROUTEINFO_BY_TOPIC, &header)).code
    }

    /// Asks until the route answers with `code`; the limit only bounds a failing test.
    pub(crate) fn until_route_is(&mut self, topic: &str, code: i32) -> Duration {
        let from = Instant::now();
        while self.route(topic) != code {
            assert!(from.elapsed() < PATIENCE, "the route of {topic} never answered {code}");
            std::thread::sleep(Duration::from_millis(5));
        }
        from.elapsed()
    }
}
