//! A delay that begins at the commit of a transaction: its real message waits in the timer topic.

use mq_protocol::ids::UnixMillis;
use mq_protocol::record::Message;
use txn_coordinator::Placing;

use super::message::waiting;

#[derive(Debug)]
pub(crate) struct FromCommit {
    pub(crate) precision_ms: i64,
}

impl Placing for FromCommit {
    /// Like any message that waits, but for the bits and the offset that say whose commit it is.
    fn delayed(&self, message: Message, due: UnixMillis) -> Message {
        let slot = UnixMillis((due.0 - 1) / self.precision_ms * self.precision_ms);
        Message { sys_flag: message.sys_flag, ..waiting(message, slot) }
    }
}
