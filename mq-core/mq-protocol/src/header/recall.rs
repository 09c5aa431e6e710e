//! Taking a delayed message back: 370 and its answer.

use bytestring::ByteString;

use super::headers;

headers! {
    /// RECALL_MESSAGE (370).
    RecallMessage {
        producer_group: Option<ByteString> = "producerGroup",
        topic: ByteString = "topic",
        /// See [`crate::recall::RecallHandle`].
        recall_handle: ByteString = "recallHandle",
        bname: Option<ByteString> = "bname",
    }

    /// Its answer.
    RecallMessageResponse {
        /// The unique key of the message that was taken back.
        msg_id: ByteString = "msgId",
        region: Option<ByteString> = "MSG_REGION",
    }
}
