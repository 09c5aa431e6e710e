//! How many messages wait for each topic, as tools ask for it and as it is kept in `config/timermetrics`.

use std::path::PathBuf;

use mq_protocol::body::TimerMetrics;
use mq_protocol::ids::UnixMillis;
use mq_store::write_file_atomically;
use tracing::warn;

pub(crate) struct TopicCounts {
    path: PathBuf,
    metrics: TimerMetrics,
    unsaved: bool,
}

impl TopicCounts {
    /// A file that cannot be read counts from zero: these are figures for people.
    pub(crate) fn open(path: PathBuf) -> Self {
        let metrics = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "the counts of waiting messages are not readable");
                TimerMetrics::default()
            }),
            Err(_) => TimerMetrics::default(),
        };
        Self { path, metrics, unsaved: false }
    }

    pub(crate) fn metrics(&self) -> &TimerMetrics {
        &self.metrics
    }

    pub(crate) fn add(&mut self, topic: &str, messages: i64, now: UnixMillis) {
        let known = &mut self.metrics.timing_count;
        match known.get_mut(topic) {
            Some(counted) => {
                counted.count += messages;
                counted.time_stamp = now.0;
                if counted.count == 0 {
                    known.remove(topic);
                }
            }
            None => {
                let counted = known.entry(topic.to_owned()).or_default();
                (counted.count, counted.time_stamp) = (messages, now.0);
            }
        }
        self.metrics.data_version.counter += 1;
        self.metrics.data_version.timestamp = now.0;
        self.unsaved = true;
    }

    pub(crate) fn clear(&mut self) {
        self.metrics.timing_count.clear();
        self.unsaved = true;
    }

    pub(crate) fn save(&mut self) {
        if self.unsaved {
            let bytes = serde_json::to_vec(&self.metrics).expect("texts and numbers are printable");
            match write_file_atomically(&self.path, &bytes) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "cannot save the counts of waiting messages")
                }
            }
        }
    }
}
