//! Sending: 10, 310, 320 and their answer; 36; 33.

use bytestring::ByteString;

use super::{Field, FieldSink, Header, HeaderError, headers, read_fields};
use crate::ext::ExtFields;
use crate::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};

/// Declares the send header once with both of its name tables.
macro_rules! send_message {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $long:literal | $short:literal),+ $(,)?) => {
        /// SEND_MESSAGE (10) and, with one-letter names, SEND_MESSAGE_V2 (310) and SEND_BATCH_MESSAGE (320).
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct SendMessage { $($(#[$doc])* pub $field: $type),+ }

        impl Header for SendMessage {
            fn decode(ext: &ExtFields) -> Result<Self, HeaderError> {
                read_fields!(ext, $($field: $long),+);
                Ok(Self { $($field: Field::get($field, $long)?),+ })
            }
            fn encode(&self, fields: &mut impl FieldSink) {
                $(Field::put(&self.$field, fields, $long);)+
            }
        }

        impl SendMessage {
            pub fn decode_v2(ext: &ExtFields) -> Result<Self, HeaderError> {
                read_fields!(ext, $($field: $short),+);
                Ok(Self { $($field: Field::get($field, $short)?),+ })
            }
            pub fn encode_v2(&self, fields: &mut impl FieldSink) {
                $(Field::put(&self.$field, fields, $short);)+
            }
        }
    };
}

send_message! {
    producer_group: ByteString = "producerGroup" | "a",
    topic: ByteString = "topic" | "b",
    /// The topic whose settings a new topic inherits: `TBW102`.
    default_topic: Option<ByteString> = "defaultTopic" | "c",
    default_topic_queue_nums: Option<i32> = "defaultTopicQueueNums" | "d",
    /// -1: the broker picks.
    queue_id: i32 = "queueId" | "e",
    sys_flag: i32 = "sysFlag" | "f",
    born_timestamp: UnixMillis = "bornTimestamp" | "g",
    flag: i32 = "flag" | "h",
    /// The property text of `properties`.
    properties: Option<ByteString> = "properties" | "i",
    reconsume_times: Option<i32> = "reconsumeTimes" | "j",
    unit_mode: Option<bool> = "unitMode" | "k",
    max_reconsume_times: Option<i32> = "maxReconsumeTimes" | "l",
    batch: Option<bool> = "batch" | "m",
    /// Broker name.
    bname: Option<ByteString> = "bname" | "n",
}

impl SendMessage {
    /// A plain send to a queue that the broker picks, with nothing else set.
    #[must_use]
    pub fn new(producer_group: ByteString, topic: ByteString) -> Self {
        Self {
            producer_group,
            topic,
            default_topic: Some(ByteString::from_static(crate::topic::AUTO_CREATE)),
            default_topic_queue_nums: Some(4),
            queue_id: -1,
            sys_flag: 0,
            born_timestamp: UnixMillis(0),
            flag: 0,
            properties: None,
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(false),
            bname: None,
        }
    }
}

headers! {
    /// The answer to a send. Java dereferences every field, and the ext fields themselves, without a check.
    SendMessageResponse {
        /// The offset message id; of a batch, a comma list.
        msg_id: ByteString = "msgId",
        queue_id: QueueId = "queueId",
        queue_offset: QueueOffset = "queueOffset",
        transaction_id: Option<ByteString> = "transactionId",
        batch_uniq_id: Option<ByteString> = "batchUniqId",
        recall_handle: Option<ByteString> = "recallHandle",
        region: Option<ByteString> = "MSG_REGION",
        trace_on: Option<bool> = "TRACE_ON",
    }

    /// CONSUMER_SEND_MSG_BACK (36).
    ConsumerSendMsgBack {
        offset: LogOffset = "offset",
        group: ByteString = "group",
        /// 0: by the number of tries; below 0: to the dead-letter topic at once.
        delay_level: i32 = "delayLevel",
        origin_msg_id: Option<ByteString> = "originMsgId",
        origin_topic: Option<ByteString> = "originTopic",
        unit_mode: Option<bool> = "unitMode",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        bname: Option<ByteString> = "bname",
    }

    /// VIEW_MESSAGE_BY_ID (33).
    ViewMessage {
        offset: LogOffset = "offset",
        topic: Option<ByteString> = "topic",
    }

    /// SEND_REPLY_MESSAGE's way to the requester: PUSH_REPLY_MESSAGE_TO_CLIENT (326).
    PushReplyMessage {
        producer_group: ByteString = "producerGroup",
        topic: ByteString = "topic",
        default_topic: Option<ByteString> = "defaultTopic",
        default_topic_queue_nums: Option<i32> = "defaultTopicQueueNums",
        queue_id: i32 = "queueId",
        sys_flag: i32 = "sysFlag",
        born_timestamp: UnixMillis = "bornTimestamp",
        flag: i32 = "flag",
        properties: Option<ByteString> = "properties",
        reconsume_times: Option<i32> = "reconsumeTimes",
        unit_mode: Option<bool> = "unitMode",
        born_host: ByteString = "bornHost",
        store_host: ByteString = "storeHost",
        store_timestamp: UnixMillis = "storeTimestamp",
    }
}
