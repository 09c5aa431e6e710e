//! Settings of pop consumption and of server-side assignment.

use mq_protocol::body::RequestMode;

use super::{ConfigError, Setting};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopConfig {
    /// Pops that may wait for one queue (or any queue) of a topic, of one group; and of all together.
    pub polling_size: usize,
    pub max_polling_size: usize,
    /// In how many of a hundred pops the retry topic comes first.
    pub retry_first_percent: u8,
    /// Whether new retries go to `%RETRY%group+topic`, and whether the old kind of retry topic is still read then.
    pub retry_topic_v2: bool,
    pub read_retry_topic_v1: bool,
    /// A queue of which a group has more unacknowledged messages gives it no more; `None`: no such limit.
    pub queue_threshold: Option<usize>,
    /// Unacknowledged messages of one group and of the broker. Not RocketMQ's: each of them takes some 400 bytes.
    pub max_in_flight_of_group: usize,
    pub max_in_flight: usize,
    /// A group that starts at the last message gets a young queue whole.
    pub start_of_young_queues: bool,
    pub default_mode: RequestMode,
    pub default_share_queues: i32,
    /// `popInflightMessageThreshold`, whether or not it is switched on.
    threshold: usize,
}

impl Default for PopConfig {
    fn default() -> Self {
        Self {
            polling_size: 1024,
            max_polling_size: 100_000,
            retry_first_percent: 20,
            retry_topic_v2: false,
            read_retry_topic_v1: true,
            queue_threshold: None,
            max_in_flight_of_group: 200_000,
            max_in_flight: 500_000,
            start_of_young_queues: true,
            default_mode: RequestMode::Pull,
            default_share_queues: -1,
            threshold: 10_000,
        }
    }
}

impl PopConfig {
    /// Sets one key; false: it is none of these.
    pub(super) fn set(&mut self, setting: &Setting<'_>) -> Result<bool, ConfigError> {
        match setting.key {
            "popPollingSize" => self.polling_size = setting.parse("a number of requests")?,
            "maxPopPollingSize" => self.max_polling_size = setting.parse("a number of requests")?,
            "popFromRetryProbability" => self.retry_first_percent = setting.in_range(0..=100, "a percentage")?,
            "enableRetryTopicV2" => self.retry_topic_v2 = setting.flag()?,
            "retrieveMessageFromPopRetryTopicV1" => self.read_retry_topic_v1 = setting.flag()?,
            "enablePopMessageThreshold" => self.queue_threshold = setting.flag()?.then_some(self.threshold),
            "popInflightMessageThreshold" => {
                self.threshold = setting.parse("a number of messages")?;
                self.queue_threshold = self.queue_threshold.map(|_| self.threshold);
            }
            "initPopOffsetByCheckMsgInMem" => self.start_of_young_queues = setting.flag()?,
            "defaultMessageRequestMode" => {
                self.default_mode = match setting.value {
                    "PULL" => RequestMode::Pull,
                    "POP" => RequestMode::Pop,
                    _ => return Err(setting.wrong("PULL or POP")),
                }
            }
            "defaultPopShareQueueNum" => self.default_share_queues = setting.parse("a number of queues")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The text that sets `key` to what it is.
    pub(super) fn show(&self, key: &str) -> Option<String> {
        Some(match key {
            "popPollingSize" => self.polling_size.to_string(),
            "maxPopPollingSize" => self.max_polling_size.to_string(),
            "popFromRetryProbability" => self.retry_first_percent.to_string(),
            "enableRetryTopicV2" => self.retry_topic_v2.to_string(),
            "retrieveMessageFromPopRetryTopicV1" => self.read_retry_topic_v1.to_string(),
            "enablePopMessageThreshold" => self.queue_threshold.is_some().to_string(),
            "popInflightMessageThreshold" => self.threshold.to_string(),
            "initPopOffsetByCheckMsgInMem" => self.start_of_young_queues.to_string(),
            "defaultMessageRequestMode" => match self.default_mode {
                RequestMode::Pull => "PULL".into(),
                RequestMode::Pop => "POP".into(),
            },
            "defaultPopShareQueueNum" => self.default_share_queues.to_string(),
            _ => return None,
        })
    }
}
