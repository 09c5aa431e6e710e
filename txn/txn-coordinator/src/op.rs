//! The OP record: a list of halves that have ended. It carries no verdict. Pure.
//!
//! Body: half queue offsets in decimal, each followed by a comma (`12,13,`). Brokers before 5.1 wrote one number and no
//! comma. Tag `d`. A reader skips what it does not know.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::Message;
use mq_protocol::{ByteString, sys_flag, topic};

use crate::half::QUEUE;
use crate::types::HalfOffset;

const TAG: &str = "d";

#[must_use]
pub(crate) fn op_record(ends: &[HalfOffset], now: UnixMillis, host: SocketAddr) -> Message {
    let mut body = String::with_capacity(ends.len() * 8);
    for half in ends {
        write!(body, "{half},").expect("a string takes everything");
    }
    Message {
        topic: ByteString::from_static(topic::OP_HALF),
        queue_id: QUEUE,
        flag: 0,
        sys_flag: sys_flag::TRANSACTION_NONE,
        born_timestamp: now,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: LogOffset::ZERO,
        properties: Properties::from_iter([(name::WAIT, "true"), (name::TAGS, TAG)]).encode(),
        body: Bytes::from(body),
    }
}

/// The halves that an OP record ends.
#[must_use]
pub(crate) fn ended_by(record: &Message) -> Vec<HalfOffset> {
    if record.property(name::TAGS) != Some(TAG) {
        return Vec::new();
    }
    let text = std::str::from_utf8(&record.body).unwrap_or_default();
    text.split(',').filter_map(|number| number.trim().parse().ok()).map(HalfOffset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_apache_are_read_and_ours_is_the_batched_one() {
        let host = "127.0.0.1:10911".parse().expect("an address");
        let ours = op_record(&[HalfOffset(7), HalfOffset(12)], UnixMillis(1), host);
        assert_eq!((&ours.body[..], ours.tags_code()), (&b"7,12,"[..], 100));
        for (body, expected) in
            [("7,12,", &[7, 12][..]), ("7", &[7]), ("7,12", &[7, 12]), ("", &[]), ("7,x,-1,,9", &[7, 9])]
        {
            let record = Message { body: Bytes::from(body), ..ours.clone() };
            assert_eq!(ended_by(&record), expected.iter().copied().map(HalfOffset).collect::<Vec<_>>(), "{body:?}");
        }
        let untagged = Message { properties: "TAGS\u{1}x\u{2}".into(), ..ours };
        assert_eq!(ended_by(&untagged), []);
    }
}
