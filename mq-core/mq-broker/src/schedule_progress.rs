//! How far each delay level is delivered, and how that survives a crash.
//!
//! `config/delayOffset.json` is Apache's file with one key of ours, `logOffset`: every delivery that the offsets do not
//! count lies at or behind it. A start reads the log from there and steps over scheduled messages whose copy it finds, so
//! that a crash delivers nothing twice. Apache drops the key when it writes the file, and then only the offsets count.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use mq_protocol::body::{DataVersion, DelayOffsetTable};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;
use mq_protocol::topic;
use mq_store::{ReadError, Store};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::config_file::ConfigFile;
use crate::delay_levels::DelayLevels;
use crate::schedule::{corrected, identity, scheduled_at};

const FILE: &str = "delayOffset.json";
/// Bounds what a start after a crash reads again.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// The same for a log that moves while no delayed message does.
const SAVE_EVERY_BYTES: u64 = 256 << 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    offsets: BTreeMap<u32, QueueOffset>,
    /// The end of the last copy: the offsets count only once the log is durable up to here.
    delivered: LogOffset,
}

impl Progress {
    pub(crate) fn offset(&self, level: u32) -> QueueOffset {
        self.offsets.get(&level).copied().unwrap_or(QueueOffset::ZERO)
    }

    pub(crate) fn advance(&mut self, level: u32, next: QueueOffset) {
        self.offsets.insert(level, next);
    }

    pub(crate) fn delivered_up_to(&mut self, end: LogOffset) {
        self.delivered = end;
    }
}

/// The progress as others may look at it.
#[derive(Debug, Default)]
pub(crate) struct Delivered(Mutex<BTreeMap<u32, QueueOffset>>);

impl Delivered {
    pub(crate) fn show(&self, progress: &Progress) {
        let mut shown = self.0.lock();
        if *shown != progress.offsets {
            shown.clone_from(&progress.offsets);
        }
    }

    /// The first message of each level that is still to be delivered.
    pub(crate) fn waiting(&self, levels: &DelayLevels) -> Vec<(QueueId, QueueOffset)> {
        let shown = self.0.lock();
        let first = |(level, queue)| (queue, shown.get(&level).copied().unwrap_or(QueueOffset::ZERO));
        levels.queues().map(first).collect()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Saved {
    data_version: DataVersion,
    log_offset: Option<LogOffset>,
    offset_table: BTreeMap<u32, u64>,
}

pub(crate) struct ProgressFile {
    file: ConfigFile,
    version: DataVersion,
    saved: BTreeMap<u32, QueueOffset>,
    saved_log_offset: LogOffset,
    saved_at: Instant,
}

impl ProgressFile {
    pub(crate) fn in_directory(config_directory: &Path) -> Self {
        Self {
            file: ConfigFile::new(config_directory, FILE),
            version: DataVersion::default(),
            saved: BTreeMap::new(),
            saved_log_offset: LogOffset::ZERO,
            saved_at: Instant::now(),
        }
    }

    /// The progress at start: what the file says, and what the log shows beyond it.
    pub(crate) fn recover(&mut self, store: &Store, levels: &DelayLevels) -> Result<Progress, ReadError> {
        let saved = self.read();
        let mut progress = Progress::default();
        for (level, _) in levels.queues() {
            let offset = QueueOffset(saved.offset_table.get(&level).copied().unwrap_or(0));
            progress.advance(level, corrected(store, level, offset));
        }
        self.version = saved.data_version;
        if let Some(from) = saved.log_offset
            && levels
                .queues()
                .any(|(level, queue)| store.queue_bounds(topic::SCHEDULE, queue).max > progress.offset(level))
        {
            step_over_delivered(store, levels, from, &mut progress)?;
        }
        progress.delivered_up_to(store.end());
        self.save(&progress, store);
        Ok(progress)
    }

    /// A missing file is a store that never saved: all of its log counts.
    fn read(&self) -> Saved {
        let saved = self.file.load().unwrap_or_else(|error| {
            error!(%error, "the delay offsets are not readable; the log tells them");
            None
        });
        saved.unwrap_or_else(|| Saved { log_offset: Some(LogOffset::ZERO), ..Saved::default() })
    }

    /// Saves now and then; gives the time to come back when something is unsaved.
    pub(crate) fn save_if_due(&mut self, progress: &Progress, store: &Store) -> Option<Duration> {
        if progress.offsets == self.saved && store.end().0 - self.saved_log_offset.0 < SAVE_EVERY_BYTES {
            return None;
        }
        let since = self.saved_at.elapsed();
        if since >= SAVE_EVERY {
            self.save(progress, store);
        }
        Some(SAVE_EVERY.saturating_sub(since).max(Duration::from_millis(100)))
    }

    /// Keeps the older state while copies are not durable: a lost copy must be delivered again.
    pub(crate) fn save(&mut self, progress: &Progress, store: &Store) {
        let log_offset = store.end();
        if store.durable() < progress.delivered {
            return;
        }
        self.version.counter += 1;
        let saved = Saved {
            data_version: self.version,
            log_offset: Some(log_offset),
            offset_table: progress.offsets.iter().map(|(level, offset)| (*level, offset.0)).collect(),
        };
        match self.file.save(&saved) {
            Ok(()) => {
                self.saved.clone_from(&progress.offsets);
                self.saved_log_offset = log_offset;
                self.saved_at = Instant::now();
            }
            Err(error) => warn!(%error, "the delay offsets are not saved; trying again"),
        }
    }
}

/// The offsets that were saved last, for tools; empty before the first time.
pub(crate) fn saved(config_directory: &Path) -> DelayOffsetTable {
    let Saved { data_version, offset_table, .. } = ProgressFile::in_directory(config_directory).read();
    DelayOffsetTable { data_version, offset_table }
}

/// Finds the copies behind `from` and steps over what they were made of. A level delivers in order, so its delivered
/// messages are the next ones.
fn step_over_delivered(
    store: &Store,
    levels: &DelayLevels,
    from: LogOffset,
    progress: &mut Progress,
) -> Result<(), ReadError> {
    let mut copies: HashMap<String, usize> = HashMap::new();
    for stored in store.scan(from) {
        // Our mark may lie within a record that replaced a tail which a crash cut: then nothing behind it is ours.
        let Ok(StoredMessage { message, .. }) = stored else {
            warn!(%from, "the log is not readable from the mark of the delay offsets; some may be delivered twice");
            break;
        };
        if message.topic != topic::SCHEDULE
            && message.property(name::DELAY).is_some()
            && message.property(name::REAL_TOPIC) == Some(&message.topic)
        {
            *copies.entry(identity(&message, &message.topic, &message.queue_id.to_string())).or_default() += 1;
        }
    }
    let mut stepped = 0u64;
    for (level, queue_id) in levels.queues() {
        while let Some(entry) = store.entry(topic::SCHEDULE, queue_id, progress.offset(level))? {
            let Some(scheduled) = scheduled_at(store, entry.log_offset)? else {
                progress.advance(level, progress.offset(level).plus(1));
                continue;
            };
            let message = &scheduled.message;
            let place = message.property(name::REAL_TOPIC).zip(message.property(name::REAL_QUEUE_ID));
            let Some((real_topic, real_queue)) = place else { break };
            match copies.get_mut(&identity(message, real_topic, real_queue)) {
                Some(left) if *left > 0 => *left -= 1,
                _ => break,
            }
            progress.advance(level, progress.offset(level).plus(1));
            stepped += 1;
        }
    }
    if stepped > 0 {
        info!(stepped, "delayed messages were delivered before the last stop and are not delivered again");
    }
    Ok(())
}
