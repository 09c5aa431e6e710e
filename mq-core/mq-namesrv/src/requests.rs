//! What each request code of a name server means: headers and bodies in, calls on the tables, answers out.

use bytes::Bytes;
use bytestring::ByteString;
use mq_protocol::body::{self, BodyError, DataVersion, KvTable, TopicList, TopicRoute};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    AddWritePermResponse, BrokerHeartbeat, BrokerIdentity, DeleteTopicInNamesrv, GetBrokerMemberGroup, GetRouteInfo,
    GetTopicsByCluster, Header, HeaderError, KvConfigKey, KvConfigValue, KvNamespace, PutKvConfig,
    QueryDataVersionResponse, RegisterBroker, RegisterBrokerResponse, TopicName, WipeWritePermResponse,
    WritePermOfBroker,
};
use mq_protocol::topic::{self, NameError};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::kv::KvError;
use crate::registration::{self, RegistrationError};
use crate::routes::{ConnectionId, Identity, RegisterError};
use crate::server::State;
use crate::settings::SettingsError;

/// Bits of a topic's system flag.
const UNIT: i32 = 1;
const UNIT_SUBSCRIBED: i32 = 2;

/// Where Java clients look for the queues of an ordered topic.
const ORDER_TOPICS: &str = "ORDER_TOPIC_CONFIG";

/// Topics that exist for the system, whatever the clusters are called.
const SYSTEM_TOPICS: [&str; 8] = [
    topic::AUTO_CREATE,
    topic::SCHEDULE,
    topic::BENCHMARK,
    topic::HALF,
    topic::TRACE,
    topic::OP_HALF,
    topic::CHECK_MAX_TIME,
    topic::SELF_TEST,
];

/// Why a request was not served; the only place where response codes are chosen.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("disable: this name server is set not to list its topics (enableAllTopicList, enableTopicList)")]
    Disabled,
    #[error("No topic route info in name server for the topic: {0}")]
    NoRoute(ByteString),
    #[error("No config item, Namespace: {namespace} Key: {key}")]
    NoKey { namespace: ByteString, key: ByteString },
    #[error("No config item, Namespace: {0}")]
    NoNamespace(ByteString),
    #[error("a topic name must not be empty")]
    EmptyTopic,
    #[error(" request type {0} not supported")]
    Unsupported(i32),
}

impl Refusal {
    fn code(&self) -> i32 {
        match self {
            Self::NoRoute(_) => response::TOPIC_NOT_EXIST,
            Self::NoKey { .. } | Self::NoNamespace(_) => response::QUERY_NOT_FOUND,
            Self::Settings(SettingsError::Forbidden(_)) => response::NO_PERMISSION,
            Self::Unsupported(_) => response::REQUEST_CODE_NOT_SUPPORTED,
            _ => response::SYSTEM_ERROR,
        }
    }
}

type Answer = Result<Command, Refusal>;

/// A file is written before the answer: rare. The runtime's other connections move to another thread meanwhile.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Who asks.
pub(crate) struct Peer {
    pub(crate) connection: ConnectionId,
    /// It was told of a route, or of all brokers.
    knows_a_broker: bool,
    /// It asked for a topic that nobody serves.
    asked_in_vain: bool,
}

impl Peer {
    pub(crate) fn new(connection: ConnectionId) -> Self {
        Self { connection, knows_a_broker: false, asked_in_vain: false }
    }
}

pub(crate) fn answer(state: &State, peer: &mut Peer, command: &Command) -> Command {
    dispatch(state, peer, command).unwrap_or_else(|refusal| command.error(refusal.code(), refusal.to_string()))
}

fn dispatch(state: &State, peer: &mut Peer, command: &Command) -> Answer {
    match command.code {
        request::GET_ROUTEINFO_BY_TOPIC => route(state, peer, command),
        request::REGISTER_BROKER => register(state, peer.connection, command),
        request::UNREGISTER_BROKER => unregister(state, command),
        request::QUERY_DATA_VERSION => data_version(state, command),
        request::BROKER_HEARTBEAT => heartbeat(state, command),
        request::GET_BROKER_CLUSTER_INFO => {
            peer.knows_a_broker = true;
            ok(command, state.routes.lock().clusters().to_json())
        }
        request::GET_BROKER_MEMBER_GROUP => members(state, command),
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => {
            may_list(state.settings.flags().list_all_topics)?;
            topics(command, state.routes.lock().topics())
        }
        request::GET_UNIT_TOPIC_LIST => flagged(state, command, |flag| flag & UNIT != 0),
        request::GET_HAS_UNIT_SUB_TOPIC_LIST => flagged(state, command, |flag| flag & UNIT_SUBSCRIBED != 0),
        request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
            flagged(state, command, |flag| flag & (UNIT | UNIT_SUBSCRIBED) == UNIT_SUBSCRIBED)
        }
        request::REGISTER_TOPIC_IN_NAMESRV => add_topic(state, command),
        request::UPDATE_NAMESRV_CONFIG => {
            let remark = aside(|| state.settings.update(&command.body))?;
            Ok(Command { remark: remark.map(Into::into), ..command.response(response::SUCCESS) })
        }
        request::GET_NAMESRV_CONFIG => ok(command, state.settings.print().into()),
        request::GET_TOPICS_BY_CLUSTER => {
            may_list(state.settings.flags().list_topics)?;
            let GetTopicsByCluster { cluster } = command.header()?;
            topics(command, state.routes.lock().topics_of_cluster(&cluster))
        }
        request::GET_SYSTEM_TOPIC_LIST_FROM_NS => system_topics(state, command),
        request::DELETE_TOPIC_IN_NAMESRV => delete_topic(state, command),
        request::WIPE_WRITE_PERM_OF_BROKER => {
            let wipe_topic_count = set_writable(state, command, false)?;
            header(command, &WipeWritePermResponse { wipe_topic_count })
        }
        request::ADD_WRITE_PERM_OF_BROKER => {
            let add_topic_count = set_writable(state, command, true)?;
            header(command, &AddWritePermResponse { add_topic_count })
        }
        request::PUT_KV_CONFIG => {
            let PutKvConfig { namespace, key, value } = command.header()?;
            aside(|| state.kv.put(&namespace, &key, &value))?;
            ok(command, Bytes::new())
        }
        request::GET_KV_CONFIG => kv_value(state, command),
        request::DELETE_KV_CONFIG => {
            let KvConfigKey { namespace, key } = command.header()?;
            aside(|| state.kv.delete(&namespace, &key))?;
            ok(command, Bytes::new())
        }
        request::GET_KVLIST_BY_NAMESPACE => kv_list(state, command),
        code => Err(Refusal::Unsupported(code)),
    }
}

fn ok(command: &Command, body: Bytes) -> Answer {
    Ok(command.response(response::SUCCESS).with_body(body))
}

fn header(command: &Command, header: &impl Header) -> Answer {
    Ok(command.response(response::SUCCESS).with_header(header))
}

fn topics(command: &Command, topic_list: Vec<String>) -> Answer {
    ok(command, body::to_json(&TopicList { broker_addr: None, topic_list }))
}

fn may_list(enabled: bool) -> Result<(), Refusal> {
    if enabled { Ok(()) } else { Err(Refusal::Disabled) }
}

fn flagged(state: &State, command: &Command, wanted: impl Fn(i32) -> bool) -> Answer {
    may_list(state.settings.flags().list_topics)?;
    topics(command, state.routes.lock().topics_with_flag(wanted))
}

fn add_topic(state: &State, command: &Command) -> Answer {
    let TopicName { topic } = command.header()?;
    topic::check_topic(&topic)?;
    let route: TopicRoute = body::from_json("topic route", &command.body)?;
    state.routes.lock().add_topic(&topic, route.queue_datas)?;
    ok(command, Bytes::new())
}

fn route(state: &State, peer: &mut Peer, command: &Command) -> Answer {
    let GetRouteInfo { topic, accept_standard_json_only } = command.header()?;
    let known = state.routes.lock().route(&topic);
    peer.knows_a_broker |= known.is_some();
    let route = known.or_else(|| coming_route(state, peer, &topic)).ok_or_else(|| Refusal::NoRoute(topic.clone()))?;
    let ordered = state.settings.flags().order_messages;
    let order_topic_conf = state.kv.get(ORDER_TOPICS, &topic).filter(|_| ordered);
    let route = in_zone(TopicRoute { order_topic_conf, ..route }, command);
    let version = if accept_standard_json_only == Some(true) { i32::MAX } else { command.version };
    ok(command, route.to_json(version))
}

/// A consumer whose topic is yet to come knows no broker, tells none that it is there, and cannot be told of the topic: it
/// would poll. Where its group's retry topic will be, with its first heartbeat, is known: there it goes. Java's client asks
/// for each of its topics twice as it starts, in any order; a tool asks once.
fn coming_route(state: &State, peer: &mut Peer, topic: &str) -> Option<TopicRoute> {
    let again = std::mem::replace(&mut peer.asked_in_vain, true);
    let group = topic.strip_prefix(topic::RETRY_PREFIX).filter(|group| topic::check_group(group).is_ok());
    let waits = again && !peer.knows_a_broker && group.is_some();
    waits.then(|| state.routes.lock().coming_retry_route()).flatten()
}

/// A client that asks for its zone sees the brokers of other zones only when their master is missing.
fn in_zone(mut route: TopicRoute, command: &Command) -> TopicRoute {
    let zone = command.ext.get("__ZONE_NAME").filter(|zone| !zone.is_empty());
    let wanted = command.ext.get("__ZONE_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("true"));
    if let (true, Some(zone)) = (wanted, zone) {
        let here = |of: Option<&str>| of.is_some_and(|of| of.eq_ignore_ascii_case(zone));
        route.broker_datas.retain(|broker| !broker.broker_addrs.contains_key(&0) || here(broker.zone_name.as_deref()));
        let kept = &route.broker_datas;
        route.queue_datas.retain(|queue| kept.iter().any(|broker| broker.broker_name == queue.broker_name));
    }
    route
}

fn register(state: &State, connection: ConnectionId, command: &Command) -> Answer {
    let request: RegisterBroker = command.header()?;
    let registration = registration::read(&request, &command.body)?;
    let (broker, count) = (registration.broker.name.clone(), registration.topics.len());
    let registered = state.routes.lock().register(registration, connection, (state.clock)())?;
    tracing::debug!(broker, topics = count, "broker registered");
    let answer = header(
        command,
        &RegisterBrokerResponse {
            ha_server_addr: registered.ha_addr.map(ByteString::from),
            master_addr: registered.master_addr.map(ByteString::from),
        },
    )?;
    let told = state.settings.flags().order_to_brokers;
    let order_topics = state.kv.namespace(ORDER_TOPICS).filter(|_| told);
    Ok(match order_topics {
        Some(table) => answer.with_body(body::to_json(&KvTable { table })),
        None => answer,
    })
}

fn unregister(state: &State, command: &Command) -> Answer {
    let BrokerIdentity { broker_name, broker_addr, cluster_name, broker_id } = command.header()?;
    state.routes.lock().unregister(&Identity {
        cluster: cluster_name.into(),
        name: broker_name.into(),
        id: broker_id,
        addr: broker_addr.into(),
    });
    ok(command, Bytes::new())
}

fn data_version(state: &State, command: &Command) -> Answer {
    let BrokerIdentity { broker_addr, cluster_name, .. } = command.header()?;
    let asked: DataVersion = body::from_json("data version", &command.body)?;
    let held = state.routes.lock().version(&cluster_name, &broker_addr, (state.clock)());
    let answer = header(command, &QueryDataVersionResponse { changed: held != Some(asked) })?;
    Ok(match held {
        Some(held) => answer.with_body(body::to_json(&held)),
        None => answer,
    })
}

fn heartbeat(state: &State, command: &Command) -> Answer {
    let BrokerHeartbeat { cluster_name, broker_addr, .. } = command.header()?;
    state.routes.lock().touch(&cluster_name, &broker_addr, (state.clock)());
    ok(command, Bytes::new())
}

fn members(state: &State, command: &Command) -> Answer {
    let GetBrokerMemberGroup { cluster_name, broker_name } = command.header()?;
    let addrs = state.routes.lock().broker(&broker_name).map(|broker| broker.broker_addrs.clone());
    ok(
        command,
        body::to_json(&serde_json::json!({
            "brokerMemberGroup": {
                "brokerAddrs": addrs.unwrap_or_default(),
                "brokerName": &*broker_name,
                "cluster": &*cluster_name,
            }
        })),
    )
}

fn system_topics(state: &State, command: &Command) -> Answer {
    let clusters = state.routes.lock().clusters();
    let names = clusters.cluster_addr_table.keys().chain(clusters.broker_addr_table.keys());
    let mut topic_list: Vec<String> = names.cloned().collect();
    topic_list.extend(SYSTEM_TOPICS.map(ToOwned::to_owned));
    let broker_addr = clusters.broker_addr_table.values().find_map(|broker| broker.broker_addrs.values().next());
    ok(command, body::to_json(&TopicList { broker_addr: broker_addr.cloned(), topic_list }))
}

fn delete_topic(state: &State, command: &Command) -> Answer {
    let DeleteTopicInNamesrv { topic, cluster_name } = command.header()?;
    if topic.trim().is_empty() {
        return Err(Refusal::EmptyTopic);
    }
    let cluster = cluster_name.as_deref().filter(|name| !name.is_empty());
    state.routes.lock().delete_topic(&topic, cluster);
    ok(command, Bytes::new())
}

fn set_writable(state: &State, command: &Command, writable: bool) -> Result<i32, Refusal> {
    let WritePermOfBroker { broker_name } = command.header()?;
    let topics = state.routes.lock().set_writable(&broker_name, writable);
    Ok(i32::try_from(topics).unwrap_or(i32::MAX))
}

fn kv_value(state: &State, command: &Command) -> Answer {
    let KvConfigKey { namespace, key } = command.header()?;
    let value = state.kv.get(&namespace, &key).map(ByteString::from);
    let value = value.ok_or(Refusal::NoKey { namespace, key })?;
    header(command, &KvConfigValue { value: Some(value) })
}

fn kv_list(state: &State, command: &Command) -> Answer {
    let KvNamespace { namespace } = command.header()?;
    let table = state.kv.namespace(&namespace).filter(|table| !table.is_empty());
    let table = table.ok_or(Refusal::NoNamespace(namespace))?;
    ok(command, body::to_json(&KvTable { table }))
}
