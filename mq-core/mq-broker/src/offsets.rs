//! How far each group has consumed each queue, in `config/consumerOffset.json` and a journal of what changed since.
//!
//! Offsets only grow, so that a late commit of a queue's former owner cannot take the new owner back; an explicit reset
//! may set them anywhere, and then no commit counts until the consumer heard of it. One beyond its queue's end (a power cut took messages that were consumed but not on disk) may
//! go back: else the group would pass over the messages that come to stand there.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mq_protocol::body::{ConsumerOffsetTable, DataVersion};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_store::Backend;
use parking_lot::Mutex;
use serde::Deserialize;
use tracing::info;

use crate::config::BrokerConfig;
use crate::config_file::{ConfigFile, SaveError};
use crate::offset_journal::{Change, Journal, Waiting};
use crate::topics::next_version;

type Queues = BTreeMap<QueueId, QueueOffset>;

pub(crate) struct OffsetTable {
    file: ConfigFile,
    table: Mutex<Table>,
    /// How many queues an operator reset whose consumers have not heard of it: mostly none, and then no pull looks.
    unheard: AtomicUsize,
    /// Held through a write to disk, so that an older table never replaces a newer one.
    saving: Mutex<Saving>,
}

struct Saving {
    journal: Journal,
    /// Room for what waits; empty in between.
    changes: Vec<u8>,
}

#[derive(Default)]
struct Table {
    version: DataVersion,
    /// By group, then topic.
    offsets: HashMap<String, HashMap<String, Queues>>,
    /// Reset by an operator, their consumers have not heard of it.
    resets: HashMap<String, HashMap<String, Queues>>,
    /// For the journal.
    waiting: Waiting,
    dirty: bool,
}

/// The file as it may be: negative offsets and keys of other shapes are passed over.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    data_version: DataVersion,
    offset_table: BTreeMap<String, BTreeMap<String, i64>>,
}

impl OffsetTable {
    pub(crate) fn open(config: &BrokerConfig, backend: Arc<dyn Backend>, now: UnixMillis) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "consumerOffset.json");
        let (stored, stamp): (Stored, u32) = file.load_stamped()?.unwrap_or_default();
        let first = DataVersion { timestamp: now.0, ..DataVersion::default() };
        let version = if stored.data_version == DataVersion::default() { first } else { stored.data_version };
        let mut table = Table { version, ..Table::default() };
        for (key, queues) in stored.offset_table {
            let Some((topic, group)) = key.split_once('@') else { continue };
            table.queues(group, topic).extend(queues.into_iter().filter_map(|(queue, offset)| {
                Some((QueueId(queue.parse().ok()?), QueueOffset(u64::try_from(offset).ok()?)))
            }));
        }
        let (journal, changes) = Journal::open(backend, stamp, |change| table.apply(change))?;
        if changes > 0 {
            info!(changes, "offsets that were committed since the last save are taken from their journal");
        }
        table.dirty = changes > 0;
        let saving = Mutex::new(Saving { journal, changes: Vec::new() });
        Ok(Self { file, table: Mutex::new(table), unheard: AtomicUsize::new(0), saving })
    }

    pub(crate) fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.table.lock().offsets.get(group)?.get(topic)?.get(&queue).copied()
    }

    /// A consumer's progress in a queue that ends at `end`. An offset below the one that is held changes nothing.
    pub(crate) fn commit(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset, end: QueueOffset) {
        let mut table = self.table.lock();
        if table.reset_of(group, topic, queue).is_some() {
            return;
        }
        let held = table.offsets.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(&queue));
        match held {
            Some(held) if (offset..=end.max(offset)).contains(held) => return,
            Some(held) => *held = offset,
            None => {
                table.queues(group, topic).insert(queue, offset);
            }
        }
        table.note(Change::Offset { group, topic, queue, offset });
    }

    /// Where the group is in this queue: at `start` for good, if it was nowhere.
    pub(crate) fn begin(&self, group: &str, topic: &str, queue: QueueId, start: QueueOffset) -> QueueOffset {
        let mut table = self.table.lock();
        let held = table.offsets.get(group).and_then(|topics| topics.get(topic)?.get(&queue).copied());
        held.unwrap_or_else(|| {
            table.change(Change::Offset { group, topic, queue, offset: start });
            start
        })
    }

    /// Sets an offset wherever an operator wants it. Consumers that are still to hear of an older wish hear of this one.
    pub(crate) fn reset(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock();
        if let Some(unheard) = table.resets.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(&queue)) {
            *unheard = offset;
        }
        table.change(Change::Offset { group, topic, queue, offset });
    }

    /// Sets an offset that the group's consumers are to go to: their next pull of the queue hears of it.
    pub(crate) fn redirect(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock();
        table.change(Change::Offset { group, topic, queue, offset });
        let resets = table.resets.entry(group.to_owned()).or_default().entry(topic.to_owned()).or_default();
        if resets.insert(queue, offset).is_none() {
            self.unheard.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where an operator wants the group in this queue, asked once: from then on it is as if they were told.
    pub(crate) fn take_redirection(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        if self.unheard.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut table = self.table.lock();
        let topics = table.resets.get_mut(group)?;
        let queues = topics.get_mut(topic)?;
        let offset = queues.remove(&queue)?;
        if queues.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            table.resets.remove(group);
        }
        self.unheard.fetch_sub(1, Ordering::Relaxed);
        Some(offset)
    }

    /// After a crash: takes back to its queue's end what stands beyond it. Says how many offsets that were.
    pub(crate) fn take_back(&self, end_of: impl Fn(&str, QueueId) -> QueueOffset) -> usize {
        let mut table = self.table.lock();
        let Table { offsets, waiting, dirty, .. } = &mut *table;
        let mut taken_back = 0;
        for (group, topics) in offsets {
            for (topic, queues) in topics {
                for (queue, offset) in queues {
                    let end = end_of(topic, *queue);
                    if *offset > end {
                        *offset = end;
                        waiting.add(Change::Offset { group, topic, queue: *queue, offset: end });
                        taken_back += 1;
                    }
                }
            }
        }
        *dirty |= taken_back > 0;
        taken_back
    }

    pub(crate) fn topics_of(&self, group: &str) -> Vec<String> {
        self.table.lock().offsets.get(group).map(|topics| topics.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn groups_of(&self, topic: &str) -> Vec<String> {
        let table = self.table.lock();
        table.offsets.iter().filter(|(_, topics)| topics.contains_key(topic)).map(|(group, _)| group.clone()).collect()
    }

    /// All offsets of a group in a topic.
    pub(crate) fn of(&self, group: &str, topic: &str) -> BTreeMap<QueueId, QueueOffset> {
        self.table.lock().offsets.get(group).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default()
    }

    /// Sets the target's offsets in a topic to those of the source.
    pub(crate) fn copy(&self, source: &str, target: &str, topic: &str) {
        let mut table = self.table.lock();
        let Some(queues) = table.offsets.get(source).and_then(|topics| topics.get(topic)).cloned() else { return };
        for (queue, offset) in queues {
            table.change(Change::Offset { group: target, topic, queue, offset });
        }
    }

    pub(crate) fn forget_topic(&self, topic: &str) {
        let mut table = self.table.lock();
        table.change(Change::TopicGone(topic));
        table.resets.values_mut().for_each(|topics| drop(topics.remove(topic)));
        self.recount(&table);
    }

    pub(crate) fn forget_group(&self, group: &str) {
        let mut table = self.table.lock();
        table.change(Change::GroupGone(group));
        table.resets.remove(group);
        self.recount(&table);
    }

    fn recount(&self, table: &Table) {
        let count = table.resets.values().flat_map(HashMap::values).map(BTreeMap::len).sum();
        self.unheard.store(count, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ConsumerOffsetTable {
        self.table.lock().as_body()
    }

    /// Whether something waits for the journal.
    pub(crate) fn has_news(&self) -> bool {
        !self.table.lock().waiting.is_empty()
    }

    /// Writes what changed since the last time to the journal, without waiting for the disk. A table that is being saved
    /// has it, or the next call. True: the journal is so long that the table should be saved.
    pub(crate) fn write_journal(&self) -> bool {
        let Some(mut saving) = self.saving.try_lock() else { return false };
        let Saving { journal, changes } = &mut *saving;
        self.table.lock().waiting.swap(changes);
        journal.add(changes);
        journal.is_very_long()
    }

    /// Writes the table if it changed since the last time.
    pub(crate) fn save(&self, now: UnixMillis) -> Result<(), SaveError> {
        let mut saving = self.saving.lock();
        let Saving { journal, changes } = &mut *saving;
        let body = {
            let mut table = self.table.lock();
            if !table.dirty {
                return Ok(());
            }
            table.dirty = false;
            table.version = next_version(table.version, now);
            table.waiting.swap(changes);
            table.as_body()
        };
        // In the table as well; but should it not be written, only the journal has them.
        journal.add(changes);
        let saved = self.file.render(&body).and_then(|rendered| {
            journal.note_table(rendered.stamp());
            self.file.write(&rendered)?;
            journal.table_is_written(rendered.stamp());
            Ok(())
        });
        saved.inspect_err(|_| self.table.lock().dirty = true)
    }
}

impl Table {
    fn queues(&mut self, group: &str, topic: &str) -> &mut Queues {
        self.offsets.entry(group.to_owned()).or_default().entry(topic.to_owned()).or_default()
    }

    fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Offset { group, topic, queue, offset } => {
                self.queues(group, topic).insert(queue, offset);
            }
            Change::TopicGone(topic) => self.offsets.retain(|_, topics| {
                topics.remove(topic);
                !topics.is_empty()
            }),
            Change::GroupGone(group) => drop(self.offsets.remove(group)),
        }
    }

    /// Is to be saved.
    fn note(&mut self, change: Change<'_>) {
        self.waiting.add(change);
        self.dirty = true;
    }

    fn change(&mut self, change: Change<'_>) {
        self.apply(change);
        self.note(change);
    }

    fn reset_of(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.resets.get(group)?.get(topic)?.get(&queue).copied()
    }

    fn as_body(&self) -> ConsumerOffsetTable {
        let entries = self.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().map(move |(topic, queues)| {
                (format!("{topic}@{group}"), queues.iter().map(|(queue, offset)| (queue.0, offset.0)).collect())
            })
        });
        ConsumerOffsetTable { data_version: self.version, offset_table: entries.collect() }
    }
}

#[cfg(test)]
mod tests {
    use mq_store::FileBackend;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);
    const Q0: QueueId = QueueId(0);

    fn in_directory(directory: &tempfile::TempDir) -> OffsetTable {
        let config = BrokerConfig { store_root: directory.path().into(), ..BrokerConfig::default() };
        let backend = Arc::new(FileBackend::new(directory.path()).expect("a directory"));
        OffsetTable::open(&config, backend, NOW).expect("opens")
    }

    #[test]
    fn a_commit_never_goes_back_and_a_reset_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let offsets = in_directory(&directory);
        for (commit, end, held) in
            [(5, 9, 5), (3, 9, 5), (8, 9, 8), (8, 8, 8), (6, 8, 8), (6, 7, 6), (9, 7, 9), (7, 7, 7)]
        {
            offsets.commit("g", "t", Q0, QueueOffset(commit), QueueOffset(end));
            assert_eq!(offsets.get("g", "t", Q0), Some(QueueOffset(held)), "{commit} of {end}");
        }
        offsets.reset("g", "t", Q0, QueueOffset(2));
        assert_eq!(offsets.get("g", "t", Q0), Some(QueueOffset(2)));
        assert_eq!(offsets.get("g", "t", QueueId(1)), None);
        assert_eq!(offsets.get("other", "t", Q0), None);
    }

    #[test]
    fn a_redirection_is_heard_once_and_until_then_no_commit_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let offsets = in_directory(&directory);
        let commit = |offset| offsets.commit("g", "t", Q0, QueueOffset(offset), QueueOffset(9));
        let held = || offsets.get("g", "t", Q0);
        commit(5);
        offsets.redirect("g", "t", Q0, QueueOffset(3));
        offsets.redirect("g", "t", Q0, QueueOffset(2));
        commit(7);
        assert_eq!(held(), Some(QueueOffset(2)));
        for (group, topic, queue) in [("h", "t", 0), ("g", "u", 0), ("g", "t", 1)] {
            assert_eq!(offsets.take_redirection(group, topic, QueueId(queue)), None);
        }
        offsets.reset("g", "t", Q0, QueueOffset(1));
        assert_eq!(offsets.take_redirection("g", "t", Q0), Some(QueueOffset(1)), "the newest wish");
        assert_eq!(offsets.take_redirection("g", "t", Q0), None);
        commit(4);
        assert_eq!(held(), Some(QueueOffset(4)));
        let forgets: [fn(&OffsetTable); 2] = [|offsets| offsets.forget_topic("t"), |offsets| offsets.forget_group("g")];
        for forget in forgets {
            offsets.redirect("g", "t", Q0, QueueOffset(1));
            forget(&offsets);
            assert_eq!(offsets.take_redirection("g", "t", Q0), None);
        }
    }

    #[test]
    fn what_stands_behind_the_end_after_a_crash_is_taken_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let offsets = in_directory(&directory);
        for (topic, offset) in [("short", 7), ("long", 7), ("gone", 7)] {
            offsets.reset("g", topic, Q0, QueueOffset(offset));
        }
        let end_of = |topic: &str, _| {
            QueueOffset(match topic {
                "short" => 4,
                "long" => 9,
                _ => 0,
            })
        };
        assert_eq!((offsets.take_back(end_of), offsets.take_back(end_of)), (2, 0));
        for (topic, held) in [("short", 4), ("long", 7), ("gone", 0)] {
            assert_eq!(offsets.get("g", topic, Q0), Some(QueueOffset(held)), "{topic}");
        }
    }

    #[test]
    fn saved_offsets_survive_a_restart_and_forgotten_ones_do_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let offsets = in_directory(&directory);
        for (group, topic) in [("g", "t"), ("g", "%RETRY%g"), ("h", "t")] {
            offsets.commit(group, topic, QueueId(3), QueueOffset(7), QueueOffset(7));
        }
        offsets.save(NOW).expect("saved");
        let again = in_directory(&directory);
        assert_eq!(again.snapshot(), offsets.snapshot());
        again.forget_topic("t");
        assert_eq!(again.topics_of("g"), ["%RETRY%g"]);
        again.forget_group("g");
        again.save(NOW).expect("saved");
        assert!(in_directory(&directory).snapshot().offset_table.is_empty());
    }

    #[test]
    fn a_killed_process_takes_back_only_what_was_not_journalled() {
        let directory = tempfile::tempdir().expect("a directory");
        let table = directory.path().join("config/consumerOffset.json");
        let offsets = in_directory(&directory);
        let commit = |offsets: &OffsetTable, group, offset| {
            offsets.commit(group, "t", Q0, QueueOffset(offset), QueueOffset(offset));
            assert!(offsets.has_news());
        };
        commit(&offsets, "g", 1);
        commit(&offsets, "gone", 1);
        offsets.write_journal();
        let before = offsets.snapshot().offset_table;
        commit(&offsets, "g", 2);
        assert_eq!(in_directory(&directory).snapshot().offset_table, before, "without a table");
        offsets.save(NOW).expect("saved");
        for offset in 3..9 {
            commit(&offsets, "g", offset);
            offsets.write_journal();
        }
        offsets.reset("g", "t", Q0, QueueOffset(4));
        offsets.forget_group("gone");
        offsets.copy("g", "h", "t");
        offsets.write_journal();
        let again = in_directory(&directory);
        assert_eq!(again.snapshot().offset_table, offsets.snapshot().offset_table, "with a table");
        assert_eq!((again.get("h", "t", Q0), again.get("gone", "t", Q0)), (Some(QueueOffset(4)), None));

        let saved = std::fs::read(&table).expect("a table");
        commit(&again, "g", 7);
        again.save(NOW).expect("saved");
        commit(&again, "g", 8);
        again.write_journal();
        std::fs::write(&table, &saved).expect("the write of the table was cut short");
        assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(8)), "from the table before");

        std::fs::write(&table, r#"{"offsetTable":{"t@g":{0:3}}}"#).expect("Apache wrote it");
        assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(3)));
    }

    #[test]
    fn a_damaged_journal_counts_up_to_its_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = directory.path().join("checkback/offset-journal");
        let offsets = in_directory(&directory);
        let mut ends = Vec::new();
        for offset in 1..6 {
            offsets.commit("g", "t", Q0, QueueOffset(offset), QueueOffset(offset));
            offsets.write_journal();
            ends.push(std::fs::metadata(&journal).expect("a journal").len());
        }
        let whole = std::fs::read(&journal).expect("a journal");
        for at in 0..whole.len() {
            for cut in [false, true] {
                let mut bytes = whole.clone();
                if cut {
                    bytes.truncate(at)
                } else {
                    bytes[at] ^= 0x10
                }
                std::fs::write(&journal, &bytes).expect("written");
                let held = ends.iter().take_while(|end| **end <= at as u64).count() as u64;
                let again = in_directory(&directory);
                let found = again.get("g", "t", Q0);
                assert_eq!(found, (held > 0).then_some(QueueOffset(held)), "byte {at}, cut {cut}");
                again.commit("g", "t", Q0, QueueOffset(9), QueueOffset(9));
                again.write_journal();
                assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(9)), "it goes on");
            }
        }
    }

    #[test]
    fn a_journal_does_not_outgrow_its_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = directory.path().join("checkback/offset-journal");
        let offsets = in_directory(&directory);
        let bytes = || std::fs::metadata(&journal).expect("a journal").len();
        let group = "g".repeat(200);
        let mut longest = Vec::new();
        for offset in 1..160_000 {
            offsets.commit(&group, "t", Q0, QueueOffset(offset), QueueOffset(offset));
            if offset % 1000 == 0 && offsets.write_journal() {
                longest.push(bytes());
                offsets.save(NOW).expect("saved");
                assert!(bytes() < 100, "begun anew");
            }
        }
        assert!(!longest.is_empty() && longest.iter().all(|bytes| *bytes < 17 << 20), "{longest:?}");
    }

    #[test]
    fn files_of_apache_and_torn_files_are_tolerated() {
        let unquoted =
            r#"{"dataVersion":{"counter":3},"groupTopicMap":{"g":["t"]},"offsetTable":{"t@g":{0:250,1:-1}}}"#;
        let quoted = r#"{"offsetTable":{"t@g":{"0":250},"no separator":{"0":1}}}"#;
        for (main, bak, held) in [
            (Some(unquoted), None, Some(250)),
            (Some(quoted), None, Some(250)),
            (Some(&unquoted[..60]), Some(quoted), Some(250)),
            (Some(""), Some(quoted), Some(250)),
            (None, Some(quoted), Some(250)),
            (None, None, None),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("config/consumerOffset.json");
            std::fs::create_dir_all(path.parent().expect("config")).expect("made");
            main.iter().for_each(|text| std::fs::write(&path, text).expect("written"));
            bak.iter().for_each(|text| std::fs::write(path.with_extension("json.bak"), text).expect("written"));
            let offsets = in_directory(&directory);
            assert_eq!(offsets.get("g", "t", Q0), held.map(QueueOffset), "{main:?} {bak:?}");
        }
    }
}
