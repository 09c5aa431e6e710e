//! What a tool may ask of a topic, and what becomes of its settings.

use std::collections::BTreeMap;

use mq_protocol::body::{TopicConfig, perm};

use super::TopicError;
use crate::config::MAX_QUEUES_PER_TOPIC;

/// Attributes that Apache knows, and so that a tool may set.
pub(super) const ATTRIBUTES: [&str; 4] = ["message.type", "queue.type", "cleanup.policy", "reserve.time"];
/// Of these, what has but one value here: another one would change how messages are stored.
const FIXED: [(&str, &str); 2] = [("queue.type", "SimpleCQ"), ("cleanup.policy", "DELETE")];

/// What a tool asks of a topic (17).
#[derive(Clone, Debug)]
pub(crate) struct TopicRequest<'r> {
    pub(crate) topic: &'r str,
    pub(crate) read_queues: i64,
    pub(crate) write_queues: i64,
    pub(crate) perm: i64,
    pub(crate) filter_type: Option<&'r str>,
    pub(crate) sys_flag: i32,
    pub(crate) order: bool,
    /// `+key=value,-key`.
    pub(crate) attributes: &'r str,
}

impl TopicRequest<'_> {
    /// As it is to be, in the place of what it was.
    pub(super) fn over(&self, held: Option<&TopicConfig>) -> Result<TopicConfig, TopicError> {
        let queues = |field, value: i64| {
            let within = u32::try_from(value).ok().filter(|queues| (1..=MAX_QUEUES_PER_TOPIC).contains(queues));
            within.ok_or_else(|| TopicError::Queues { topic: self.topic.to_owned(), field, value })
        };
        let bits = perm::PRIORITY | perm::READ_WRITE | perm::INHERIT;
        let perm = u32::try_from(self.perm).ok().filter(|perm| perm & !bits == 0);
        Ok(TopicConfig {
            attributes: self.attributes(held)?,
            order: self.order,
            perm: perm.ok_or_else(|| TopicError::Permission { topic: self.topic.to_owned(), value: self.perm })?,
            read_queue_nums: queues("readQueueNums", self.read_queues)?,
            topic_filter_type: self.filter_type.filter(|kind| !kind.is_empty()).unwrap_or("SINGLE_TAG").to_owned(),
            topic_name: self.topic.to_owned(),
            topic_sys_flag: self.sys_flag,
            write_queue_nums: queues("writeQueueNums", self.write_queues)?,
        })
    }

    fn attributes(&self, held: Option<&TopicConfig>) -> Result<BTreeMap<String, String>, TopicError> {
        let mut attributes = held.map(|held| held.attributes.clone()).unwrap_or_default();
        for attribute in self.attributes.split(',').map(str::trim).filter(|attribute| !attribute.is_empty()) {
            let wrong = || TopicError::Attribute { topic: self.topic.to_owned(), attribute: attribute.to_owned() };
            let known = |key: &&str| ATTRIBUTES.contains(key);
            if let Some(key) = attribute.strip_prefix('-') {
                attributes.remove(Some(key).filter(known).ok_or_else(wrong)?);
            } else {
                let (key, value) =
                    attribute.strip_prefix('+').and_then(|pair| pair.split_once('=')).ok_or_else(wrong)?;
                // A blank would break the compressed form of a registration.
                if !known(&key) || value.is_empty() || value.contains(char::is_whitespace) {
                    return Err(wrong());
                }
                if let Some(&(key, offered)) = FIXED.iter().find(|(fixed, only)| *fixed == key && *only != value) {
                    let (topic, value) = (self.topic.to_owned(), value.to_owned());
                    return Err(TopicError::NotOffered { topic, key, value, offered });
                }
                attributes.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(attributes)
    }
}
