//! What is due is appended to its real place, in the order in which it came, and each of it once.

use std::collections::HashSet;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::timer::{Chain, TimerEntry, TimerError};
use tracing::error;

use super::{Driver, TimersError, weight};
use crate::schedule::scheduled_at;
use crate::timers::copies::Identity;
use crate::timers::message::{self, Facts, Times};

/// Messages, and about how many of their bytes, of one append.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;
/// Surely more than the time from an append until the record is seen here.
const SOON: Duration = Duration::from_secs(10);

/// What an entry comes to.
enum Fired {
    Nothing,
    Taken {
        real_topic: ByteString,
    },
    Copy {
        real_topic: ByteString,
        copy: Message,
    },
    /// It would be due before its new copy could be seen: it goes on to its own slot as it is.
    Again(TimerEntry),
}

/// Entries that are fired by one append.
#[derive(Default)]
struct Batch {
    copies: Vec<[Message; 1]>,
    bytes: usize,
    counts: Vec<(ByteString, i64)>,
    /// So many entries of the slot are in it or were before it.
    position: u64,
}

impl Driver {
    pub(super) fn deliver_late(&mut self, stored: &StoredMessage) -> Result<(), TimersError> {
        let times = Times { linked_at: None, now: self.clock.now() };
        match message::delivered(&stored.message, times) {
            Some(copy) if !self.copies.take(&copy, false) => self.append(vec![[copy]]),
            _ => Ok(()),
        }
    }

    /// Delivers a slot's messages, in the order in which they came.
    pub(super) fn fire(&mut self, slot: UnixMillis) -> Result<(), TimersError> {
        if self.progress.read_time != slot {
            (self.progress.read_time, self.progress.fired) = (slot, 0);
        }
        match self.fire_entries(slot) {
            Err(TimersError::Index(TimerError::Damaged { path, at })) => self.start_again(&path, at),
            Err(error) => Err(error),
            Ok(()) => {
                let mut index = self.timers.index.lock();
                index.clear(slot);
                self.timers.congestion.holds(slot, 0);
                self.progress.read_time = UnixMillis(slot.0 + index.precision_ms());
                self.progress.fired = 0;
                drop(index);
                self.unsaved = true;
                self.save_if_many();
                Ok(())
            }
        }
    }

    fn fire_entries(&mut self, slot: UnixMillis) -> Result<(), TimersError> {
        let Some((chain, deleted)) = self.open_slot(slot)? else { return Ok(()) };
        let mut batch = Batch { position: self.progress.fired, ..Batch::default() };
        let (done, mut position) = (self.progress.fired, 0);
        for piece in 0..chain.pieces() {
            let entries = self.timers.index.lock().piece(&chain, piece)?;
            for entry in entries {
                position += 1;
                if position > done {
                    self.fire_entry(&entry, &deleted, &mut batch)?;
                }
            }
        }
        self.finish(&mut batch)
    }

    fn fire_entry(
        &mut self,
        entry: &TimerEntry,
        deleted: &HashSet<Identity>,
        batch: &mut Batch,
    ) -> Result<(), TimersError> {
        let fired = self.what_becomes_of(entry, deleted)?;
        // What is not appended is done with after all before it, so that it is done once even if that fails first.
        match fired {
            Fired::Copy { real_topic, copy } => {
                if self.copies.has(&copy, entry.rolls) {
                    self.finish(batch)?;
                    self.copies.take(&copy, entry.rolls);
                } else {
                    batch.bytes += copy.record_bytes();
                    batch.copies.push([copy]);
                }
                batch.counts.push((real_topic, -weight(entry)));
            }
            Fired::Taken { real_topic } => {
                self.finish(batch)?;
                batch.counts.push((real_topic, -weight(entry)));
            }
            Fired::Again(entry) => {
                self.finish(batch)?;
                self.timers.index.lock().link(&[entry])?;
            }
            Fired::Nothing => self.finish(batch)?,
        }
        batch.position += 1;
        if batch.copies.is_empty() || batch.copies.len() >= BATCH || batch.bytes >= BATCH_BYTES {
            self.finish(batch)?;
        }
        Ok(())
    }

    /// Appends what a batch has; its entries are fired then.
    fn finish(&mut self, batch: &mut Batch) -> Result<(), TimersError> {
        if batch.position == self.progress.fired {
            return Ok(());
        }
        let appends = !batch.copies.is_empty();
        self.append(std::mem::take(&mut batch.copies))?;
        self.progress.fired = batch.position;
        self.unsaved = true;
        let now = self.clock.now();
        self.timers.stats.timers_fired(batch.counts.len() as u64);
        for (topic, messages) in batch.counts.drain(..) {
            self.timers.counts.lock().fired(&topic, messages, now);
        }
        batch.bytes = 0;
        if appends {
            self.save_if_many();
        }
        Ok(())
    }

    /// A slot's entries, and which messages others of them take back.
    fn open_slot(&self, slot: UnixMillis) -> Result<Option<(Chain, HashSet<Identity>)>, TimersError> {
        let mut deleting = Vec::new();
        let chain = self.timers.index.lock().walk(slot, |entry| {
            if entry.deletes && !entry.rolls {
                deleting.push(entry.log_offset);
            }
        })?;
        let mut deleted = HashSet::new();
        for at in deleting {
            if let Some(stored) = scheduled_at(&self.store, at)? {
                deleted.extend(message::deleted_by(&stored.message));
            }
        }
        Ok(chain.map(|chain| (chain, deleted)))
    }

    fn what_becomes_of(&self, entry: &TimerEntry, deleted: &HashSet<Identity>) -> Result<Fired, TimersError> {
        let Some(stored) = scheduled_at(&self.store, entry.log_offset)? else { return Ok(Fired::Nothing) };
        let waiting = &stored.message;
        let Some(Facts { due, real_topic, .. }) = message::facts(waiting).filter(|_| waiting.topic == topic::TIMER)
        else {
            error!(at = %entry.log_offset, "the record of a timer entry is another message; the entry is dropped");
            return Ok(Fired::Nothing);
        };
        let now = self.clock.now();
        let times = Times { linked_at: Some(entry.written_at), now };
        if entry.rolls {
            let copy = message::rolled(waiting, times);
            let again = self.own_slot(entry, due).filter(|_| due <= now.plus(SOON) && !self.copies.has(&copy, true));
            return Ok(again.map_or(Fired::Copy { real_topic, copy }, Fired::Again));
        }
        let taken_back = message::deletable_as(waiting).is_some_and(|key| deleted.contains(&key));
        Ok(match message::delivered(waiting, times).filter(|_| !entry.deletes && !taken_back) {
            Some(copy) => Fired::Copy { real_topic, copy },
            None => Fired::Taken { real_topic },
        })
    }

    /// The entry in the slot of its own time, if the wheel has a place for it.
    fn own_slot(&self, entry: &TimerEntry, due: UnixMillis) -> Option<TimerEntry> {
        let index = self.timers.index.lock();
        let slot = index.slot_of(due);
        let free = slot > entry.slot && index.fits(slot, entry.slot);
        free.then_some(TimerEntry { slot, rolls: false, ..*entry })
    }

    /// A message that the store refuses for its own sake can never be delivered and does not hold up the others.
    fn append(&mut self, mut batch: Vec<[Message; 1]>) -> Result<(), TimersError> {
        while !batch.is_empty() {
            match self.store.append(&batch) {
                Ok(appended) => {
                    let end = appended.last().expect("a group each").end;
                    self.counted_until = self.counted_until.max(end);
                    self.copies_unsaved += batch.len() as u64;
                    self.unsaved = true;
                    return Ok(());
                }
                Err(error) => match error.culprit() {
                    Some(group) => {
                        let [message] = batch.remove(group);
                        error!(%error, topic = %message.topic, "a message that was due cannot be stored and is dropped");
                    }
                    None => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// The log of the timers is damaged: everything is linked again from the topic.
    fn start_again(&mut self, path: &str, at: u64) -> Result<(), TimersError> {
        error!(path, at, "the timer log is damaged; the timer wheel is made anew from its topic");
        self.progress = self.timers.index.lock().reset(self.progress, self.clock.now())?;
        self.timers.counts.lock().clear();
        self.timers.congestion.forget_all();
        self.unsaved = true;
        Ok(())
    }
}
