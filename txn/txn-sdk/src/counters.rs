//! What the SDK counts, under the names that a scrape shows. Plain numbers: how they are exported is the service's choice.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use mq_client::Verdict;
use parking_lot::Mutex;

use crate::id::TransactionId;

/// Transactions in doubt that are remembered until a checkback settles them here. Beyond it the gauge stands still.
const MAX_IN_DOUBT: usize = 10_000;

/// Counters of one producer or consumer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) committed: Counter,
    pub(crate) rolled_back: Counter,
    pub(crate) in_doubt: Counter,
    unsettled: Mutex<HashSet<TransactionId>>,
    pub(crate) refused: Counter,
    pub(crate) end_lost: Counter,
    pub(crate) end_refused: Counter,
    pub(crate) check_commit: Counter,
    pub(crate) check_rollback: Counter,
    pub(crate) check_unknown: Counter,
    pub(crate) outbox_stored: Counter,
    pub(crate) outbox_relayed: Counter,
    pub(crate) inbox_handled: Counter,
    pub(crate) inbox_duplicate: Counter,
    pub(crate) inbox_failed: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn checked(&self, answer: Verdict) {
        match answer {
            Verdict::Commit => &self.check_commit,
            Verdict::Rollback => &self.check_rollback,
            Verdict::Unknown => &self.check_unknown,
        }
        .add_one();
    }

    pub(crate) fn left_in_doubt(&self, id: TransactionId) {
        self.in_doubt.add_one();
        let mut unsettled = self.unsettled.lock();
        if unsettled.len() < MAX_IN_DOUBT {
            unsettled.insert(id);
        }
    }

    pub(crate) fn settled(&self, id: TransactionId) {
        self.unsettled.lock().remove(&id);
    }

    pub(crate) fn of_producer(&self) -> Vec<Sample> {
        vec![
            Sample::new("txn_outcome_total", Some(("outcome", "committed")), &self.committed),
            Sample::new("txn_outcome_total", Some(("outcome", "rolled_back")), &self.rolled_back),
            Sample::new("txn_outcome_total", Some(("outcome", "in_doubt")), &self.in_doubt),
            Sample::new("txn_outcome_total", Some(("outcome", "refused")), &self.refused),
            Sample { name: "txn_in_doubt", label: None, value: self.unsettled.lock().len() as u64 },
            Sample::new("txn_end_lost_total", None, &self.end_lost),
            Sample::new("txn_end_refused_total", None, &self.end_refused),
            Sample::new("txn_check_total", Some(("answer", "commit")), &self.check_commit),
            Sample::new("txn_check_total", Some(("answer", "rollback")), &self.check_rollback),
            Sample::new("txn_check_total", Some(("answer", "unknown")), &self.check_unknown),
        ]
    }

    pub(crate) fn of_outbox(&self, waiting: u64) -> [Sample; 3] {
        [
            Sample { name: "outbox_pending", label: None, value: waiting },
            Sample::new("outbox_stored_total", None, &self.outbox_stored),
            Sample::new("outbox_relayed_total", None, &self.outbox_relayed),
        ]
    }

    pub(crate) fn of_consumer(&self) -> Vec<Sample> {
        vec![
            Sample::new("inbox_handled_total", None, &self.inbox_handled),
            Sample::new("inbox_duplicate_total", None, &self.inbox_duplicate),
            Sample::new("inbox_failed_total", None, &self.inbox_failed),
        ]
    }
}

/// One number of a snapshot, as a metrics exporter wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub name: &'static str,
    pub label: Option<(&'static str, &'static str)>,
    pub value: u64,
}

/// The text that Prometheus scrapes, of producers and consumers with the name of their group each.
#[must_use]
pub fn prometheus<'g>(groups: impl IntoIterator<Item = (&'g str, Vec<Sample>)>) -> String {
    let named = groups.into_iter().flat_map(|(group, samples)| samples.into_iter().map(move |sample| (group, sample)));
    let mut samples: Vec<_> = named.collect();
    samples.sort_by_key(|(_, sample)| sample.name);
    let mut text = String::new();
    let mut last = "";
    for (group, Sample { name, label, value }) in samples {
        if name != last {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            text.push_str(&format!("# TYPE {name} {kind}\n"));
            last = name;
        }
        let group = group.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let label = label.map(|(name, value)| format!(",{name}=\"{value}\"")).unwrap_or_default();
        text.push_str(&format!("{name}{{group=\"{group}\"{label}}} {value}\n"));
    }
    text
}

impl Sample {
    fn new(name: &'static str, label: Option<(&'static str, &'static str)>, counter: &Counter) -> Self {
        Self { name, label, value: counter.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_name_once_and_each_group() {
        let counters = Counters::default();
        counters.committed.add_one();
        counters.checked(Verdict::Rollback);
        counters.inbox_duplicate.add_one();
        let text = prometheus([
            ("a\"b", counters.of_producer()),
            ("other", counters.of_producer()),
            ("packets", counters.of_consumer()),
        ]);
        for line in [
            "# TYPE txn_outcome_total counter",
            "# TYPE txn_in_doubt gauge",
            r#"txn_outcome_total{group="a\"b",outcome="committed"} 1"#,
            r#"txn_outcome_total{group="other",outcome="in_doubt"} 0"#,
            r#"txn_check_total{group="other",answer="rollback"} 1"#,
            r#"txn_in_doubt{group="other"} 0"#,
            r#"inbox_duplicate_total{group="packets"} 1"#,
        ] {
            assert_eq!(text.lines().filter(|it| *it == line).count(), 1, "{line} in\n{text}");
        }
    }
}
