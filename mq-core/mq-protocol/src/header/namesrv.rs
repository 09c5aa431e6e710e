//! The name server's requests: registration, routes, key-value configuration.

use bytestring::ByteString;

use super::headers;

headers! {
    /// REGISTER_BROKER (103).
    RegisterBroker {
        broker_name: ByteString = "brokerName",
        broker_addr: ByteString = "brokerAddr",
        cluster_name: ByteString = "clusterName",
        ha_server_addr: Option<ByteString> = "haServerAddr",
        broker_id: u64 = "brokerId",
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
        enable_acting_master: Option<bool> = "enableActingMaster",
        compressed: Option<bool> = "compressed",
        /// CRC-32 of the body as sent, `& 0x7FFFFFFF`; 0: not checked.
        body_crc32: Option<u32> = "bodyCrc32",
        zone_name: Option<ByteString> = "__ZONE_NAME",
    }

    /// The answer to 103 for a slave.
    RegisterBrokerResponse {
        ha_server_addr: Option<ByteString> = "haServerAddr",
        master_addr: Option<ByteString> = "masterAddr",
    }

    /// UNREGISTER_BROKER (104) and QUERY_DATA_VERSION (322).
    BrokerIdentity {
        broker_name: ByteString = "brokerName",
        broker_addr: ByteString = "brokerAddr",
        cluster_name: ByteString = "clusterName",
        broker_id: u64 = "brokerId",
    }

    /// The answer to 322.
    QueryDataVersionResponse {
        changed: bool = "changed",
    }

    /// BROKER_HEARTBEAT (904), in Apache's spelling.
    BrokerHeartbeat {
        cluster_name: ByteString = "clusterName",
        broker_addr: ByteString = "brokerAddr",
        broker_name: ByteString = "brokerName",
        broker_id: Option<u64> = "brokerId",
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMills",
    }

    /// GET_ROUTEINFO_BY_TOPIC (105).
    GetRouteInfo {
        topic: ByteString = "topic",
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }

    /// GET_TOPICS_BY_CLUSTER (224).
    GetTopicsByCluster {
        cluster: ByteString = "cluster",
    }

    /// GET_BROKER_MEMBER_GROUP (901).
    GetBrokerMemberGroup {
        cluster_name: ByteString = "clusterName",
        broker_name: ByteString = "brokerName",
    }

    /// DELETE_TOPIC_IN_NAMESRV (216).
    DeleteTopicInNamesrv {
        topic: ByteString = "topic",
        cluster_name: Option<ByteString> = "clusterName",
    }

    /// WIPE_WRITE_PERM_OF_BROKER (205) and ADD_WRITE_PERM_OF_BROKER (327).
    WritePermOfBroker {
        broker_name: ByteString = "brokerName",
    }

    /// The answer to 205.
    WipeWritePermResponse {
        wipe_topic_count: i32 = "wipeTopicCount",
    }

    /// The answer to 327.
    AddWritePermResponse {
        add_topic_count: i32 = "addTopicCount",
    }

    /// PUT_KV_CONFIG (100).
    PutKvConfig {
        namespace: ByteString = "namespace",
        key: ByteString = "key",
        value: ByteString = "value",
    }

    /// GET_KV_CONFIG (101) and DELETE_KV_CONFIG (102).
    KvConfigKey {
        namespace: ByteString = "namespace",
        key: ByteString = "key",
    }

    /// The answer to 101.
    KvConfigValue {
        value: Option<ByteString> = "value",
    }

    /// GET_KVLIST_BY_NAMESPACE (219).
    KvNamespace {
        namespace: ByteString = "namespace",
    }
}
