//! Consume queues: for each queue of a topic the positions of its messages in the commit log, in queue order.
//! Derived from the log. Knows neither how records look nor when they are durable.

mod consume_queue;
mod entry;
mod files;
mod roll;
mod table;

pub(crate) use consume_queue::{ConsumeQueue, partition_point};
pub use entry::QueueEntry;
pub(crate) use files::QueueFiles;
pub(crate) use roll::{ROLL, Roll};
pub(crate) use table::Queues;

pub(crate) const DIRECTORY: &str = "consumequeue";
