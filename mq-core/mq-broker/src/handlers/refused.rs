//! Requests that this broker knows and does not serve: each says why, so that a tool's user learns it from the answer.

use mq_protocol::codes::{request, response};

use super::error::Refusal;

const NO_SLAVES: &str = "this broker is a master without slaves, there is no replication to ask about";
const NO_CONTROLLER: &str = "this broker is not run by a controller";
const NO_ROCKSDB: &str = "this broker keeps its queues and settings in files, not in RocksDB";
const NO_CONTAINER: &str = "a process runs one broker; start another mq broker instead";
const NO_STATIC_TOPICS: &str =
    "static topics are not supported; a topic's queues live on the brokers that its route names";
const NO_COLD_DATA: &str = "reads of old messages are not throttled; they run beside the others and hold nobody up";
const NO_USERS: &str = "this broker has no users and permissions yet; keep it on loopback or behind a trusted network";

/// By code, why it is not served.
pub(crate) const REASONS: &[(i32, &str)] = &[
    (request::CHECK_ROCKSDB_CQ_WRITE_PROGRESS, NO_ROCKSDB),
    (request::EXPORT_ROCKSDB_CONFIG_TO_JSON, NO_ROCKSDB),
    (request::UPDATE_AND_CREATE_STATIC_TOPIC, NO_STATIC_TOPICS),
    (request::ADD_BROKER, NO_CONTAINER),
    (request::REMOVE_BROKER, NO_CONTAINER),
    (request::NOTIFY_MIN_BROKER_ID_CHANGE, NO_SLAVES),
    (request::EXCHANGE_BROKER_HA_INFO, NO_SLAVES),
    (request::GET_BROKER_HA_STATUS, NO_SLAVES),
    (request::CONTROLLER_ALTER_SYNC_STATE_SET, NO_CONTROLLER),
    (request::CONTROLLER_ELECT_MASTER, NO_CONTROLLER),
    (request::CONTROLLER_REGISTER_BROKER, NO_CONTROLLER),
    (request::CONTROLLER_GET_REPLICA_INFO, NO_CONTROLLER),
    (request::CONTROLLER_GET_METADATA_INFO, NO_CONTROLLER),
    (request::CONTROLLER_GET_SYNC_STATE_DATA, NO_CONTROLLER),
    (request::GET_BROKER_EPOCH_CACHE, NO_CONTROLLER),
    (request::NOTIFY_BROKER_ROLE_CHANGED, NO_CONTROLLER),
    (request::UPDATE_CONTROLLER_CONFIG, NO_CONTROLLER),
    (request::GET_CONTROLLER_CONFIG, NO_CONTROLLER),
    (request::CLEAN_BROKER_DATA, NO_CONTROLLER),
    (request::CONTROLLER_GET_NEXT_BROKER_ID, NO_CONTROLLER),
    (request::CONTROLLER_APPLY_BROKER_ID, NO_CONTROLLER),
    (request::UPDATE_COLD_DATA_FLOW_CTR_CONFIG, NO_COLD_DATA),
    (request::REMOVE_COLD_DATA_FLOW_CTR_CONFIG, NO_COLD_DATA),
    (request::GET_COLD_DATA_FLOW_CTR_INFO, NO_COLD_DATA),
    (request::SET_COMMITLOG_READ_MODE, NO_COLD_DATA),
    (request::AUTH_CREATE_USER, NO_USERS),
    (request::AUTH_UPDATE_USER, NO_USERS),
    (request::AUTH_DELETE_USER, NO_USERS),
    (request::AUTH_GET_USER, NO_USERS),
    (request::AUTH_LIST_USER, NO_USERS),
    (request::AUTH_CREATE_ACL, NO_USERS),
    (request::AUTH_UPDATE_ACL, NO_USERS),
    (request::AUTH_DELETE_ACL, NO_USERS),
    (request::AUTH_GET_ACL, NO_USERS),
    (request::AUTH_LIST_ACL, NO_USERS),
];

/// The answer to a code that no handler has.
pub(crate) fn refusal(code: i32) -> Refusal {
    let Some((_, reason)) = REASONS.iter().find(|(refused, _)| *refused == code) else {
        return Refusal::unsupported(code);
    };
    let name = request::name(code).unwrap_or_default();
    Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, format!("{name} ({code}) is not supported: {reason}"))
}
