//! Reading a broker's registration: the checksum, and the JSON or the compressed form of its topic table.
//!
//! Compressed form: one zlib stream of i32 length + data version JSON; i32 topic count, each i32 length + the text
//! `name readQueues writeQueues perm filterType attributesJson`; then filter servers and static-topic data, which are
//! not used here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, Bytes};
use mq_protocol::body::{self, BodyError, DataVersion, RegisterBrokerBody, TopicConfig};
use mq_protocol::compression;
use mq_protocol::header::RegisterBroker;

use crate::routes::{Identity, Registration};

/// A broker with 100,000 topics sends some 20 MB; more is not a topic table.
const MAX_INFLATED_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("crc32 not match: the body has {actual:#x}, the header says {expected:#x}")]
    Checksum { expected: u32, actual: u32 },
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the registration cannot be inflated: {0}")]
    Inflate(String),
    #[error("the compressed registration ends too early")]
    Truncated,
    #[error("not a topic in a compressed registration: {0:?}")]
    Topic(String),
}

pub(crate) fn read(header: &RegisterBroker, body: &Bytes) -> Result<Registration, RegistrationError> {
    check(header.body_crc32.unwrap_or(0), body)?;
    let (version, topics) = match (body.is_empty(), header.compressed.unwrap_or(false)) {
        (true, _) => (DataVersion::default(), BTreeMap::new()),
        (false, true) => inflate(body)?,
        (false, false) => {
            let body: RegisterBrokerBody = body::from_json("broker registration", body)?;
            let table = body.topic_config_serialize_wrapper;
            (table.data_version, table.topic_config_table)
        }
    };
    Ok(Registration {
        broker: Identity {
            cluster: header.cluster_name.to_string(),
            name: header.broker_name.to_string(),
            id: header.broker_id,
            addr: header.broker_addr.to_string(),
        },
        ha_addr: header.ha_server_addr.as_ref().map(ToString::to_string),
        zone: header.zone_name.as_ref().map(ToString::to_string),
        acting_master: header.enable_acting_master.unwrap_or(false),
        timeout: millis(header.heartbeat_timeout_millis),
        version,
        topics,
    })
}

fn check(expected: u32, body: &[u8]) -> Result<(), RegistrationError> {
    let actual = crc32fast::hash(body) & 0x7FFF_FFFF;
    if expected == 0 || expected == actual { Ok(()) } else { Err(RegistrationError::Checksum { expected, actual }) }
}

fn millis(value: Option<i64>) -> Option<Duration> {
    value.and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0).map(Duration::from_millis)
}

fn inflate(body: &[u8]) -> Result<(DataVersion, BTreeMap<String, TopicConfig>), RegistrationError> {
    let mut bytes = compression::inflate_zlib(body, MAX_INFLATED_BYTES)
        .map_err(|error| RegistrationError::Inflate(error.to_string()))?;
    let version = body::from_json("data version", &field(&mut bytes)?)?;
    let count = number(&mut bytes)?;
    let mut topics = BTreeMap::new();
    for _ in 0..count {
        let text = field(&mut bytes)?;
        let text = String::from_utf8_lossy(&text);
        let config = topic(&text).ok_or_else(|| RegistrationError::Topic(text.to_string()))?;
        topics.insert(config.topic_name.clone(), config);
    }
    Ok((version, topics))
}

fn number(bytes: &mut Bytes) -> Result<usize, RegistrationError> {
    let value = bytes.try_get_i32().map_err(|_| RegistrationError::Truncated)?;
    usize::try_from(value).map_err(|_| RegistrationError::Truncated)
}

fn field(bytes: &mut Bytes) -> Result<Bytes, RegistrationError> {
    let length = number(bytes)?;
    if length > bytes.len() { Err(RegistrationError::Truncated) } else { Ok(bytes.split_to(length)) }
}

fn topic(text: &str) -> Option<TopicConfig> {
    let mut parts = text.splitn(6, ' ');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut next = || parts.next()?.parse::<u32>().ok();
    let (read, write, perm) = (next()?, next()?, next()?);
    let filter = parts.next().unwrap_or("SINGLE_TAG");
    let attributes = parts.next().filter(|text| !text.is_empty());
    Some(TopicConfig {
        read_queue_nums: read,
        write_queue_nums: write,
        perm,
        topic_filter_type: filter.to_owned(),
        attributes: attributes.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        ..TopicConfig::new(name, 0, perm)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_of_a_topic_is_read() {
        let order = topic(r#"order 4 8 6 SINGLE_TAG {"message.type":"FIFO"}"#).expect("a topic");
        assert_eq!((order.read_queue_nums, order.write_queue_nums, order.perm), (4, 8, 6));
        assert_eq!(order.attributes["message.type"], "FIFO");
        assert!(topic("order 4 8 6 SINGLE_TAG").expect("4.9 sends no attributes").attributes.is_empty());
        for bad in ["", "order", "order 4", "order x 8 6 SINGLE_TAG"] {
            assert!(topic(bad).is_none(), "{bad:?}");
        }
    }
}
