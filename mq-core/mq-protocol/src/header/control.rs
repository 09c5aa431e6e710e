//! What tools ask of connected consumers, by way of the broker: 221, 223, 307, 309.

use bytestring::ByteString;

use super::headers;

headers! {
    /// INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223), and GET_CONSUMER_STATUS_FROM_CLIENT (221) on its way to a consumer.
    ConsumerStatus {
        topic: ByteString = "topic",
        group: ByteString = "group",
        /// A client id; every member of the group when it is absent or blank.
        client_addr: Option<ByteString> = "clientAddr",
    }

    /// GET_CONSUMER_RUNNING_INFO (307).
    ConsumerRunningInfo {
        consumer_group: ByteString = "consumerGroup",
        client_id: ByteString = "clientId",
        jstack_enable: Option<bool> = "jstackEnable",
        /// Ours: the offset id of a message. A consumer with an inbox adds to its answer what the inbox says of it.
        inbox_of: Option<ByteString> = "checkbackInboxOf",
    }

    /// CONSUME_MESSAGE_DIRECTLY (309).
    ConsumeMessageDirectly {
        consumer_group: ByteString = "consumerGroup",
        client_id: Option<ByteString> = "clientId",
        /// An offset message id: it says where the message is stored.
        msg_id: Option<ByteString> = "msgId",
        broker_name: Option<ByteString> = "brokerName",
        topic: Option<ByteString> = "topic",
    }
}
