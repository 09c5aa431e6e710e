//! The topics that a broker has for itself.

use std::collections::BTreeSet;

use mq_protocol::body::{TopicConfig, perm};
use mq_protocol::topic;

use crate::config::BrokerConfig;

/// One queue a delay level.
const SCHEDULE_QUEUES: u32 = 18;
/// What `mqadmin`'s benchmark expects.
const BENCHMARK_QUEUES: u32 = 1024;
const CLUSTER_TOPIC_QUEUES: u32 = 16;
const REVIVE_QUEUES: u32 = 8;

/// Topics that no tool may change or delete.
pub(crate) fn is_system(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        topic::AUTO_CREATE,
        topic::SCHEDULE,
        topic::BENCHMARK,
        topic::HALF,
        topic::OP_HALF,
        topic::CHECK_MAX_TIME,
        topic::TRACE,
        topic::SELF_TEST,
        topic::OFFSET_MOVED,
    ];
    NAMES.contains(&name) || name.starts_with("rmq_sys_")
}

/// The names of the topics that a broker of this configuration has for itself.
pub(crate) fn system_names(config: &BrokerConfig) -> BTreeSet<String> {
    let made = system_topics(config).into_iter().map(|topic| topic.topic_name);
    made.chain([topic::AUTO_CREATE, topic::TRACE].map(Into::into)).collect()
}

/// The topics that tools and clients expect of every broker.
pub(super) fn system_topics(config: &BrokerConfig) -> Vec<TopicConfig> {
    const ALL: u32 = perm::READ_WRITE | perm::INHERIT;
    const RW: u32 = perm::READ_WRITE;
    let BrokerConfig { cluster_name: cluster, broker_name: broker, .. } = config;
    let mut topics = vec![
        TopicConfig::new(topic::SELF_TEST, 1, RW),
        TopicConfig::new(topic::BENCHMARK, BENCHMARK_QUEUES, RW),
        TopicConfig::new(cluster, CLUSTER_TOPIC_QUEUES, ALL),
        TopicConfig::new(broker, 1, ALL),
        TopicConfig::new(topic::OFFSET_MOVED, 1, RW),
        TopicConfig::new(topic::SCHEDULE, SCHEDULE_QUEUES, RW),
        TopicConfig::new(topic::reply_topic(cluster), 1, RW),
        TopicConfig::new(topic::revive_topic(cluster), REVIVE_QUEUES, RW),
        TopicConfig::new(format!("rmq_sys_SYNC_BROKER_MEMBER_{broker}"), 1, perm::INHERIT),
        TopicConfig::new(topic::HALF, 1, RW),
        TopicConfig::new(topic::OP_HALF, 1, RW),
        TopicConfig::new(topic::CHECK_MAX_TIME, 1, RW),
        TopicConfig::new(topic::TIMER, 1, RW),
    ];
    if config.auto_create_topic {
        topics.push(TopicConfig::new(topic::AUTO_CREATE, config.default_topic_queues, ALL));
    }
    if config.trace_topic {
        topics.push(TopicConfig::new(topic::TRACE, 1, RW));
    }
    topics
}
