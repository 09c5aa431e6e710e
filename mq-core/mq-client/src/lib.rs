//! An async RocketMQ client: producers (also transactional), push and pull consumers. Speaks the remoting protocol of
//! Apache RocketMQ 5.x, with Checkback's broker or with Apache's.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use mq_client::{Message, Producer};
//!
//! let producer = Producer::builder("127.0.0.1:9876").group("orders").build().await?;
//! let receipt = producer.send(Message::new("ORDER_PLACED", "{}").key("order-7")).await?;
//! println!("{} is at {} of {:?}", receipt.message_id, receipt.queue_offset, receipt.queue);
//! # Ok(()) }
//! ```

mod admin;
mod client;
mod consumer;
mod error;
pub mod explain;
mod message;
mod names;
mod producer;
mod remoting;
mod route;
mod trace;
mod unique_key;

pub use admin::{Admin, GroupProgress, Leftovers, Master, QueueProgress, QueueReset, ResetTo, TopicSettings};
pub use client::{Client, ClientOptions};
pub use consumer::{
    Action, Allocation, ConsumeFrom, Filter, FlowLimits, MessageHandler, PopConsumer, PopConsumerBuilder,
    PoppedMessage, PullConsumer, PullConsumerBuilder, PullStatus, Pulled, PushConsumer, PushConsumerBuilder,
    PushOptions, Rooms,
};
pub use error::{CallError, ClientError, Refused, RequestError, RouteError, SendError, SendFailure};
pub use message::{Message, ReceivedMessage};
pub use mq_protocol::body::{InboxAnswer, MessageQueue};
pub use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
pub use mq_protocol::properties::{Properties, name as property};
pub use producer::{
    CheckedHalf, HalfReceipt, MAX_PARTS, NotARequest, OpenTransactions, Producer, ProducerBuilder, ProducerOptions,
    ReplyError, RequestFailed, SendReceipt, SendStatus, TransactionChecker, Verdict,
};
pub use trace::{TRACE_TOPIC, TraceRecord, TracedKind, TracedMessage};
