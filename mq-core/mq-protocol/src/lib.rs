//! RocketMQ remoting: bytes to types and back. No tokio, no files, no clock.
//!
//! Reads from slices and says "need more" as a value; sockets live in `mq-broker`, `mq-namesrv` and `mq-client` only.
//! Formats follow Apache RocketMQ 5.x (`remoting`, `common` and `store` modules).

pub mod batch;
pub mod body;
pub mod codes;
pub mod command;
pub mod compression;
pub mod ext;
pub mod frame;
pub mod header;
pub mod ids;
pub mod java;
pub mod java_properties;
mod json;
pub mod message_id;
pub mod pop;
pub mod properties;
pub mod recall;
pub mod record;
pub mod record_view;
pub mod sys_flag;
pub mod topic;

pub use bytes::{Bytes, BytesMut};
pub use bytestring::ByteString;
