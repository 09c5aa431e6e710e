//! Consuming: groups that share queues ([`PushConsumer`]), reading by hand ([`PullConsumer`]),
//! and messages for a time ([`PopConsumer`]).

mod allocate;
mod assigned;
mod builder;
mod calls;
mod concurrent;
mod control;
mod filter;
mod group;
mod handler;
mod in_flight;
mod inbox;
mod local_offsets;
mod meters;
mod orderly;
mod pop_consumer;
mod pull_consumer;
mod rebalance;
mod send_back;
mod start;

pub use allocate::{Allocation, Rooms};
pub use builder::{PushConsumer, PushConsumerBuilder, PushOptions};
pub use calls::{PullStatus, Pulled};
pub use filter::Filter;
pub use handler::{Action, MessageHandler};
pub use in_flight::FlowLimits;
pub(crate) use inbox::InboxLookup;
pub use pop_consumer::{PopConsumer, PopConsumerBuilder, PoppedMessage};
pub use pull_consumer::{PullConsumer, PullConsumerBuilder};
pub use start::ConsumeFrom;
