//! Clients and groups: 34's answer, 35, 38, 40.

use bytestring::ByteString;

use super::headers;

headers! {
    /// The answer to HEART_BEAT (34).
    HeartbeatResponse {
        supports_v2: Option<bool> = "IS_SUPPORT_HEART_BEAT_V2",
        subscription_changed: Option<bool> = "IS_SUB_CHANGE",
        /// Our capability mark: what this broker can do beyond Apache's, a comma list.
        capabilities: Option<ByteString> = "CHECKBACK_CAPABILITIES",
    }

    /// UNREGISTER_CLIENT (35).
    UnregisterClient {
        client_id: ByteString = "clientID",
        producer_group: Option<ByteString> = "producerGroup",
        consumer_group: Option<ByteString> = "consumerGroup",
    }

    /// GET_CONSUMER_LIST_BY_GROUP (38).
    GetConsumerList {
        consumer_group: ByteString = "consumerGroup",
    }

    /// NOTIFY_CONSUMER_IDS_CHANGED (40), broker to client, one-way.
    NotifyConsumerIdsChanged {
        consumer_group: ByteString = "consumerGroup",
    }
}
