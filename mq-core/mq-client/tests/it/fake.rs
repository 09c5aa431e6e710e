//! Servers with scripted answers, for what real ones do only when they are ill.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use mq_protocol::body::{BrokerData, QueueData, TopicRoute};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Answer = dyn Fn(&Command) -> Option<Command> + Send + Sync;

/// Answers each request as told (`None`: never), and remembers the codes that it was asked.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<i32>>>,
}

impl Fake {
    pub(crate) async fn start(answer: impl Fn(&Command) -> Option<Command> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let asked = Arc::<Mutex<Vec<i32>>>::default();
        let (log, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        Self { address, asked }
    }

    /// A broker that knows its clients and answers sends by this.
    pub(crate) async fn broker(send: impl Fn(&Command) -> Option<Command> + Send + Sync + 'static) -> Self {
        Self::start(move |command| match command.code {
            request::SEND_MESSAGE_V2 => send(command),
            _ => Some(command.response(0)),
        })
        .await
    }

    /// A name server that knows every topic on these brokers, one queue on each.
    pub(crate) async fn name_server(brokers: &[(&str, &Fake)]) -> Self {
        Self::ordered_name_server(brokers, None).await
    }

    /// The same, with a static order of every topic.
    pub(crate) async fn ordered_name_server(brokers: &[(&str, &Fake)], order: Option<&str>) -> Self {
        let mut route = TopicRoute { order_topic_conf: order.map(Into::into), ..TopicRoute::default() };
        for (name, broker) in brokers {
            route.broker_datas.push(BrokerData {
                broker_addrs: BTreeMap::from([(0, broker.address.clone())]),
                broker_name: (*name).into(),
                ..BrokerData::default()
            });
            let broker_name = (*name).into();
            route.queue_datas.push(QueueData {
                broker_name,
                perm: 6,
                read_queue_nums: 1,
                write_queue_nums: 1,
                topic_sys_flag: 0,
            });
        }
        Self::start(move |command| Some(command.response(0).with_body(route.to_json(command.version)))).await
    }

    pub(crate) fn asked(&self, code: i32) -> usize {
        self.asked.lock().iter().filter(|asked| **asked == code).count()
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>, asked: Arc<Mutex<Vec<i32>>>) {
    let mut input = BytesMut::new();
    while stream.read_buf(&mut input).await.is_ok_and(|bytes| bytes > 0) {
        let mut output = BytesMut::new();
        while let Some(frame) = frame::split(&mut input, MAX_FRAME_BYTES).expect("our own frames") {
            let command = Command::decode(frame).expect("our own frames");
            asked.lock().push(command.code);
            if let Some(answer) = answer(&command) {
                answer.encode(&mut output);
            }
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
    }
}
