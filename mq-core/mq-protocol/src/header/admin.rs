//! Topics, groups and statistics, as tools ask a broker for them.

use bytestring::ByteString;

use super::headers;
use crate::ids::UnixMillis;

headers! {
    /// UPDATE_AND_CREATE_TOPIC (17).
    CreateTopic {
        topic: ByteString = "topic",
        default_topic: Option<ByteString> = "defaultTopic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        perm: i32 = "perm",
        topic_filter_type: Option<ByteString> = "topicFilterType",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: Option<bool> = "order",
        /// `+key=value` and `-key`, comma separated.
        attributes: Option<ByteString> = "attributes",
        force: Option<bool> = "force",
    }

    /// DELETE_TOPIC_IN_BROKER (215), GET_TOPIC_STATS_INFO (202), QUERY_TOPIC_CONSUME_BY_WHO (300).
    TopicName {
        topic: ByteString = "topic",
    }

    /// GET_TOPIC_CONFIG (351).
    GetTopicConfig {
        topic: ByteString = "topic",
        lo: Option<bool> = "lo",
    }

    /// GET_ALL_TOPIC_CONFIG (21).
    GetAllTopicConfig {
        topic_seq: Option<i32> = "topicSeq",
        max_topic_num: Option<i32> = "maxTopicNum",
        data_version: Option<ByteString> = "dataVersion",
    }

    /// The answer to 21.
    GetAllTopicConfigResponse {
        total_topic_num: Option<i32> = "totalTopicNum",
    }

    /// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201).
    GetAllSubscriptionGroup {
        group_seq: Option<i32> = "groupSeq",
        max_group_num: Option<i32> = "maxGroupNum",
        data_version: Option<ByteString> = "dataVersion",
    }

    /// The answer to 201.
    GetAllSubscriptionGroupResponse {
        total_group_num: Option<i32> = "totalGroupNum",
    }

    /// GET_SUBSCRIPTIONGROUP_CONFIG (352).
    GroupName {
        group: ByteString = "group",
    }

    /// DELETE_SUBSCRIPTIONGROUP (207).
    DeleteSubscriptionGroup {
        group_name: ByteString = "groupName",
        clean_offset: Option<bool> = "cleanOffset",
    }

    /// UPDATE_AND_GET_GROUP_FORBIDDEN (353). Without `readable` it is only read.
    GroupForbidden {
        group: ByteString = "group",
        topic: ByteString = "topic",
        readable: Option<bool> = "readable",
    }

    /// GET_CONSUMER_CONNECTION_LIST (203).
    ConsumerConnectionList {
        consumer_group: ByteString = "consumerGroup",
    }

    /// GET_PRODUCER_CONNECTION_LIST (204).
    ProducerConnectionList {
        producer_group: ByteString = "producerGroup",
    }

    /// GET_CONSUME_STATS (208).
    ConsumeStats {
        consumer_group: ByteString = "consumerGroup",
        topic: Option<ByteString> = "topic",
        topic_list: Option<ByteString> = "topicList",
    }

    /// INVOKE_BROKER_TO_RESET_OFFSET (222).
    ResetOffset {
        topic: ByteString = "topic",
        group: ByteString = "group",
        timestamp: UnixMillis = "timestamp",
        is_force: Option<bool> = "isForce",
        queue_id: Option<i32> = "queueId",
        offset: Option<i64> = "offset",
    }

    /// VIEW_BROKER_STATS_DATA (315).
    ViewBrokerStats {
        stats_name: ByteString = "statsName",
        stats_key: ByteString = "statsKey",
    }

    /// GET_BROKER_CONSUME_STATS (317).
    BrokerConsumeStats {
        is_order: Option<bool> = "isOrder",
    }

    /// The answer to GET_BROKER_CONFIG (26).
    BrokerConfigResponse {
        version: ByteString = "version",
    }
}
