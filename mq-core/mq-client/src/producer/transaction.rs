//! Half messages and their ends. An attempt that left doubt is never repeated elsewhere: doubt is reported.

use mq_protocol::ByteString;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{EndTransaction, SendMessageResponse};
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::properties::name;
use mq_protocol::sys_flag;
use tokio::time::Instant;

use super::attempts::Target;
use super::{HalfReceipt, OpenTransactions, Producer, SendStatus, Verdict};
use crate::error::{CallError, ClientError, RouteError, SendError, SendFailure};
use crate::message::Message;
use crate::remoting::Gather;

/// Properties that would move the half to the delay topic, on Apache's brokers with the loss of its transaction.
const DELAYS: [&str; 4] = [name::DELAY, name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS, name::TIMER_DELAY_SEC];

/// So many transactions have to be open before their requests wait for each other.
const GATHER_FROM: usize = 24;
/// One in so many of the open ones is enough to go.
const GATHER_PART: usize = 4;

impl Producer {
    /// Stores a message that nobody sees until [`Producer::end`] commits it. A receipt means that it is safely stored.
    /// An error says by [`SendError::may_be_stored`] whether it may be there all the same; the broker will then ask.
    pub async fn send_half(&self, message: Message) -> Result<HalfReceipt, SendError> {
        self.half(message, None).await
    }

    /// The same to a broker of this name: the messages of one transaction go to one broker.
    pub async fn send_half_at(&self, message: Message, broker: &str) -> Result<HalfReceipt, SendError> {
        self.half(message, Some(broker)).await
    }

    /// Says, without asking anybody, what is wrong with a half message that no broker would take: what every send of it
    /// will be refused for.
    pub fn check_half(&self, message: &Message) -> Result<(), SendError> {
        let delay = DELAYS.into_iter().find(|delay| message.properties.get(delay).is_some());
        let checked = match delay {
            Some(delay) => {
                Err(format!("a transactional message cannot have {delay}: delays and transactions do not mix"))
            }
            None => message.check(self.0.options.max_message_bytes),
        };
        let invalid =
            |reason| SendError::new(message.topic.clone(), ByteString::new(), 0, SendFailure::Invalid(reason));
        checked.map_err(invalid)
    }

    async fn half(&self, mut message: Message, broker: Option<&str>) -> Result<HalfReceipt, SendError> {
        self.check_half(&message)?;
        let topic = message.topic.clone();
        self.check_offers(&message).await?;
        let order_key = message.properties.get(name::ORDER_KEY).cloned();
        message.properties.set(name::TRANSACTION_PREPARED, "true");
        message.properties.set(name::PRODUCER_GROUP, self.0.group.clone());
        let mut outgoing = self.prepare_checked(message);
        outgoing.header.sys_flag |= sys_flag::TRANSACTION_PREPARED;
        let (receipt, answer) = self.attempts(&outgoing, Target::of_half(broker, order_key.as_deref()), true).await?;
        let header: SendMessageResponse = answer.header().expect("the receipt was made from it");
        if receipt.status != SendStatus::SendOk {
            return Err(outgoing.error(1, SendFailure::NotSafe(receipt.status)));
        }
        let Some((_, log_offset)) = parse_offset_id(&header.msg_id) else {
            let reason = format!("the half's id {:?} holds no offset", header.msg_id);
            let address = ByteString::from(receipt.queue.broker_name.as_str());
            let error = CallError::Unreadable { address, request: outgoing.code, reason };
            return Err(outgoing.error(1, SendFailure::Call(error)));
        };
        Ok(HalfReceipt {
            group: self.0.group.clone(),
            topic,
            transaction_id: header.transaction_id.unwrap_or_else(|| receipt.message_id.clone()),
            message_id: receipt.message_id,
            broker_name: receipt.queue.broker_name.as_str().into(),
            half_offset: receipt.queue_offset,
            log_offset,
        })
    }

    /// With many transactions open, a half or an end costs client and broker less together with those that come in a
    /// moment; a part of them is enough, so that nobody waits for those who wait themselves.
    pub(super) fn gather(&self) -> Gather {
        let open = self.0.options.open_transactions.as_ref().map_or(0, OpenTransactions::count);
        if open < GATHER_FROM { Gather::AtOnce } else { Gather::UpTo(open / GATHER_PART) }
    }

    /// Ends a transaction and waits until the broker has it on disk. `Unknown` only tells the broker to ask later.
    ///
    /// It is repeated only while the broker surely did not get it. After an error with
    /// [`ClientError::may_have_happened`] leave the rest to the checkback.
    pub async fn end(&self, half: &HalfReceipt, verdict: Verdict) -> Result<(), ClientError> {
        let no_broker = || RouteError::NoBroker { topic: half.topic.clone(), broker: half.broker_name.clone() };
        let address = self.inner().routes.master_of(&half.broker_name).ok_or_else(no_broker)?;
        let deadline = Instant::now() + self.0.options.send_timeout;
        let command = end_command(half, verdict, false);
        loop {
            let connection = self.inner().connection_by(&address, deadline).await?;
            if verdict == Verdict::Unknown {
                connection.oneway(command).await?;
                self.trace_end(half, verdict);
                return Ok(());
            }
            let within = deadline.saturating_duration_since(Instant::now());
            match connection.call_with(command.clone(), within, self.gather()).await {
                Ok(_) => {
                    self.trace_end(half, verdict);
                    return Ok(());
                }
                Err(CallError::Request(error)) if !error.may_have_arrived() && Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

pub(super) fn end_command(half: &HalfReceipt, verdict: Verdict, from_check: bool) -> Command {
    let commit_or_rollback = match verdict {
        Verdict::Commit => sys_flag::TRANSACTION_COMMIT,
        Verdict::Rollback => sys_flag::TRANSACTION_ROLLBACK,
        Verdict::Unknown => sys_flag::TRANSACTION_NONE,
    };
    let header = EndTransaction {
        topic: Some(half.topic.clone()),
        producer_group: half.group.clone(),
        tran_state_table_offset: half.half_offset,
        commit_log_offset: half.log_offset,
        commit_or_rollback,
        from_transaction_check: Some(from_check),
        msg_id: Some(half.message_id.clone()),
        transaction_id: Some(half.transaction_id.clone()),
        bname: Some(half.broker_name.clone()),
    };
    Command::request_with(request::END_TRANSACTION, &header)
}
