//! How many messages wait for each topic, as tools ask for it and as it is kept in `config/timermetrics`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use mq_protocol::body::TimerMetrics;
use mq_protocol::ids::UnixMillis;
use tracing::warn;

use crate::histogram::{Distribution, Histogram, Scale};

/// Topics whose flow is counted each for itself.
const MAX_FLOWS: usize = 20_000;
/// Apache's bounds of how far ahead messages are sent.
static AHEAD_SECONDS: Scale<6> = Scale { bounds: [60, 600, 3600, 43_200, 86_400, 259_200], per_unit: 1 };

pub(crate) struct TopicCounts {
    path: PathBuf,
    metrics: TimerMetrics,
    unsaved: bool,
    /// Since the start; not kept.
    flows: HashMap<String, Flow>,
}

/// What came and went of one topic.
struct Flow {
    linked: u64,
    fired: u64,
    ahead: Histogram<6>,
}

pub(crate) struct ToldFlow {
    pub(crate) linked: u64,
    pub(crate) fired: u64,
    pub(crate) ahead: Distribution,
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
        Self { path, metrics, unsaved: false, flows: HashMap::new() }
    }

    pub(crate) fn metrics(&self) -> &TimerMetrics {
        &self.metrics
    }

    /// A message begins to wait. One that takes back another one counts -1, as at Apache.
    pub(crate) fn linked(&mut self, topic: &str, weight: i64, ahead: Duration, now: UnixMillis) {
        self.add(topic, weight, now);
        if let Some(flow) = self.flow(topic) {
            flow.linked += 1;
            flow.ahead.add(ahead.as_secs(), 1);
        }
    }

    /// A message's time came.
    pub(crate) fn fired(&mut self, topic: &str, weight: i64, now: UnixMillis) {
        self.add(topic, weight, now);
        if let Some(flow) = self.flow(topic) {
            flow.fired += 1;
        }
    }

    fn flow(&mut self, topic: &str) -> Option<&mut Flow> {
        if !self.flows.contains_key(topic) {
            if self.flows.len() >= MAX_FLOWS {
                return None;
            }
            let flow = Flow { linked: 0, fired: 0, ahead: Histogram::new(&AHEAD_SECONDS) };
            self.flows.insert(topic.to_owned(), flow);
        }
        self.flows.get_mut(topic)
    }

    pub(crate) fn flows(&self) -> Vec<(String, ToldFlow)> {
        let told = |flow: &Flow| ToldFlow { linked: flow.linked, fired: flow.fired, ahead: flow.ahead.distribution() };
        self.flows.iter().map(|(topic, flow)| (topic.clone(), told(flow))).collect()
    }

    fn add(&mut self, topic: &str, messages: i64, now: UnixMillis) {
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
            match mq_files::replace(&self.path, &bytes) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "cannot save the counts of waiting messages")
                }
            }
        }
    }
}
