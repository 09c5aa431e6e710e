//! Transactions: 37 from the producer, 39 to it, 323 from an operator.

use bytestring::ByteString;

use super::headers;
use crate::ids::{LogOffset, QueueOffset};

headers! {
    /// END_TRANSACTION (37).
    EndTransaction {
        topic: Option<ByteString> = "topic",
        producer_group: ByteString = "producerGroup",
        /// The half message's offset in the half queue.
        tran_state_table_offset: QueueOffset = "tranStateTableOffset",
        /// The half message's offset in the commit log.
        commit_log_offset: LogOffset = "commitLogOffset",
        /// Sys-flag bits: 8 commit, 12 rollback, 0 unknown.
        commit_or_rollback: i32 = "commitOrRollback",
        from_transaction_check: Option<bool> = "fromTransactionCheck",
        /// The UNIQ_KEY.
        msg_id: Option<ByteString> = "msgId",
        transaction_id: Option<ByteString> = "transactionId",
        bname: Option<ByteString> = "bname",
    }

    /// CHECK_TRANSACTION_STATE (39), broker to client, one-way; the half message is the body.
    CheckTransactionState {
        topic: Option<ByteString> = "topic",
        tran_state_table_offset: QueueOffset = "tranStateTableOffset",
        commit_log_offset: LogOffset = "commitLogOffset",
        msg_id: Option<ByteString> = "msgId",
        transaction_id: Option<ByteString> = "transactionId",
        offset_msg_id: Option<ByteString> = "offsetMsgId",
        bname: Option<ByteString> = "bname",
    }

    /// RESUME_CHECK_HALF_MESSAGE (323).
    ResumeCheckHalfMessage {
        topic: Option<ByteString> = "topic",
        msg_id: ByteString = "msgId",
    }
}
