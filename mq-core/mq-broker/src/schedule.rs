//! Delayed messages: waits in `SCHEDULE_TOPIC_XXXX`, one queue a level, and appends each to its real place when due.
//!
//! Runs on a thread of its own, because what is due may be long out of memory. Progress is an offset per level; how it
//! survives a crash is `schedule_progress`'s matter.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::{AppendError, Clock, ReadError, Store};
use tracing::{error, warn};

use crate::bell::Bell;
use crate::delay_levels::{DelayLevels, queue_of};
use crate::schedule_progress::{Delivered, Progress, ProgressFile};

/// How often the clock is looked at while something waits: a bound for how late a delivery is when the clock jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rest after a failed append (a full disk, say).
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Messages of one append, and about how many of their bytes: what is read for it is in memory.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

pub(crate) struct Schedule {
    store: Store,
    clock: Arc<dyn Clock>,
    levels: DelayLevels,
    progress: Progress,
    file: ProgressFile,
    delivered: Arc<Delivered>,
    bell: Arc<Bell>,
}

impl Schedule {
    pub(crate) fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        levels: DelayLevels,
        mut file: ProgressFile,
        bell: Arc<Bell>,
    ) -> Result<Self, ReadError> {
        let progress = file.recover(&store, &levels)?;
        let delivered = Arc::new(Delivered::default());
        delivered.show(&progress);
        Ok(Self { store, clock, levels, progress, file, delivered, bell })
    }

    pub(crate) fn delivered(&self) -> Arc<Delivered> {
        self.delivered.clone()
    }

    /// Delivers until the bell says stop.
    pub(crate) fn run(mut self) {
        loop {
            let pause = match self.deliver_due() {
                Ok(next) => next.map(|due| due.since(self.clock.now()).min(LOOK_EVERY)),
                Err(error) => {
                    warn!(%error, "delayed messages wait: {error}");
                    Some(RETRY_AFTER)
                }
            };
            self.delivered.show(&self.progress);
            let unsaved = self.file.save_if_due(&self.progress, &self.store);
            if !self.bell.wait(pause.or(unsaved)) {
                break;
            }
        }
        self.file.save(&self.progress, &self.store);
    }

    /// Delivers what is due now; gives the time of the next delivery, if anything waits. A level that fails holds up no
    /// other one.
    fn deliver_due(&mut self) -> Result<Option<UnixMillis>, DeliveryError> {
        let (mut next, mut failed) = (None, None);
        for (level, queue_id) in self.levels.queues() {
            match self.deliver_level(level, queue_id) {
                Ok(due) => next = next.into_iter().chain(due).min(),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(next), Err)
    }

    fn deliver_level(&mut self, level: u32, queue_id: QueueId) -> Result<Option<UnixMillis>, DeliveryError> {
        while let Some(due) = self.due_of(level, queue_id)? {
            if due > self.clock.now() {
                return Ok(Some(due));
            }
            self.deliver_some(level, queue_id)?;
        }
        Ok(None)
    }

    /// When the first message of a level is due.
    fn due_of(&self, level: u32, queue_id: QueueId) -> Result<Option<UnixMillis>, ReadError> {
        let entry = self.store.entry(topic::SCHEDULE, queue_id, self.progress.offset(level))?;
        Ok(entry.map(|entry| self.due(level, entry.tags_code)))
    }

    /// A time further away than the level's delay was made under another configuration or another clock: due now.
    fn due(&self, level: u32, tags_code: i64) -> UnixMillis {
        let now = self.clock.now();
        let latest = now.plus(self.levels.delay(level));
        if tags_code > latest.0 { now } else { UnixMillis(tags_code) }
    }

    fn deliver_some(&mut self, level: u32, queue_id: QueueId) -> Result<(), DeliveryError> {
        let now = self.clock.now();
        let first = self.progress.offset(level);
        let mut groups: Vec<[Message; 1]> = Vec::new();
        let (mut next, mut bytes) = (first, 0);
        while groups.len() < BATCH
            && bytes < BATCH_BYTES
            && let Some(entry) = self.store.entry(topic::SCHEDULE, queue_id, next)?
            && self.due(level, entry.tags_code) <= now
        {
            next = next.plus(1);
            match scheduled_at(&self.store, entry.log_offset)?.map(real_message) {
                Some(Some(message)) => {
                    bytes += message.record_bytes();
                    groups.push([message]);
                }
                Some(None) => {
                    error!(level, at = %entry.log_offset, "a delayed message without its real topic is dropped")
                }
                None => {}
            }
        }
        while !groups.is_empty() {
            match self.store.append(&groups) {
                Ok(appended) => {
                    self.progress.delivered_up_to(appended.last().expect("not empty").end);
                    break;
                }
                // It never will be possible, and must not hold up those behind it.
                Err(error) if let Some(group) = error.culprit() => {
                    let [message] = groups.remove(group);
                    error!(level, topic = %message.topic, %error, "a delayed message is dropped");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.advance(level, next);
        Ok(())
    }
}

/// A scheduled message; `None`, and said so, when it is gone for good: it must not hold up those behind it.
pub(crate) fn scheduled_at(store: &Store, at: LogOffset) -> Result<Option<StoredMessage>, ReadError> {
    match store.read(at) {
        Ok(None) => error!(%at, "a delayed message is no longer in the log"),
        Err(error) if error.damaged_at().is_some() => {
            error!(%error, "a delayed message is damaged and dropped");
        }
        found => return found,
    }
    Ok(None)
}

/// The message as it was meant. Like Apache it keeps DELAY, REAL_TOPIC and REAL_QID, by which a copy is recognised.
fn real_message(scheduled: StoredMessage) -> Option<Message> {
    let message = scheduled.message;
    let properties = message.parsed_properties();
    let real_topic = properties.get(name::REAL_TOPIC).filter(|real| *real != topic::HALF)?;
    let queue_id = QueueId(properties.get(name::REAL_QUEUE_ID)?.parse().ok()?);
    Some(Message { topic: real_topic.clone(), queue_id, prepared_transaction_offset: LogOffset::ZERO, ..message })
}

/// What makes a delivered copy and its scheduled message the same.
pub(crate) fn identity(message: &Message, real_topic: &str, real_queue: &str) -> String {
    let key = message.property(name::UNIQ_KEY).unwrap_or_default();
    format!("{key}\u{1}{real_topic}\u{1}{real_queue}\u{1}{}\u{1}{}", message.reconsume_times, message.born_timestamp)
}

/// The queue entry's tags code of a record: of a delayed message its time.
pub(crate) fn tags_code(levels: &DelayLevels, message: &Message, store_timestamp: UnixMillis) -> i64 {
    let asked = || message.property(name::DELAY)?.parse::<u32>().ok();
    if message.topic != topic::SCHEDULE {
        return message.tags_code();
    }
    match asked().and_then(|level| levels.clamp(level)) {
        Some(level) => store_timestamp.plus(levels.delay(level)).0,
        None => message.tags_code(),
    }
}

/// The first offset of a level that is still on disk, or `offset` when that is further on.
pub(crate) fn corrected(store: &Store, level: u32, offset: QueueOffset) -> QueueOffset {
    let bounds = store.queue_bounds(topic::SCHEDULE, queue_of(level));
    offset.clamp(bounds.min, bounds.max)
}
