//! What arrives in the timer topic gets its place in the wheel.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::StoredMessage;
use mq_protocol::{java, topic};
use mq_store::timer::{TimerEntry, TimerIndex};
use tracing::{error, warn};

use super::{Driver, TimersError, weight};
use crate::schedule::scheduled_at;
use crate::timers::plan::slot_in_window;
use crate::timers::{UNLIMITED, message};

/// Arrivals that are linked together.
const LINKS: usize = 1024;

/// An arrival on its way into the wheel.
struct Link {
    entry: TimerEntry,
    real_topic: ByteString,
    /// From its sending to its time.
    ahead: Duration,
    /// The queue offset behind it.
    next: QueueOffset,
}

/// What becomes of an arrival.
enum Arrived {
    Link(Link),
    /// Due before its slot could be there.
    Late(StoredMessage),
    Skip,
    /// The wheel has no place for it before time has gone on.
    Blocked,
}

impl Driver {
    /// True if the wheel has no place for the next one yet.
    pub(super) fn link_arrivals(&mut self) -> Result<bool, TimersError> {
        let bounds = self.store.queue_bounds(topic::TIMER, message::QUEUE);
        if self.progress.queue_offset < bounds.min {
            warn!(from = %self.progress.queue_offset, to = %bounds.min, "messages for a later time are no longer on disk");
            self.count_up_to(bounds.min);
        }
        let mut links = Vec::new();
        let mut at = self.progress.queue_offset;
        while let Some(queued) = self.store.entry(topic::TIMER, message::QUEUE, at)? {
            match self.look_at(at, queued.log_offset)? {
                Arrived::Link(link) => links.push(link),
                Arrived::Late(stored) => {
                    self.link(&mut links)?;
                    self.deliver_late(&stored)?;
                }
                Arrived::Skip => {}
                Arrived::Blocked => {
                    self.link(&mut links)?;
                    self.count_up_to(at);
                    return Ok(true);
                }
            }
            at = at.plus(1);
            if links.is_empty() || links.len() >= LINKS {
                self.link(&mut links)?;
                self.count_up_to(at);
                self.save_if_many();
            }
        }
        self.link(&mut links)?;
        self.count_up_to(at);
        self.linked.clear();
        Ok(false)
    }

    fn look_at(&mut self, at: QueueOffset, log_offset: LogOffset) -> Result<Arrived, TimersError> {
        let Some(stored) = scheduled_at(&self.store, log_offset)? else { return Ok(Arrived::Skip) };
        let Some(facts) = message::facts(&stored.message) else {
            error!(at = %log_offset, "a message for a later time without its time or real topic is dropped");
            return Ok(Arrived::Skip);
        };
        if self.linked.remove(&log_offset) {
            return Ok(Arrived::Skip);
        }
        let index = self.timers.index.lock();
        let (now, precision_ms) = (self.clock.now(), index.precision_ms());
        let (slot, now_slot) = (index.slot_of(facts.due), index.slot_of(now));
        if slot < self.progress.read_time {
            if slot.0 + precision_ms > now.0 {
                // The clock went back: slots behind the read time are empty, and their time comes again.
                if self.progress.fired > 0 || !index.fits(slot, slot) {
                    return Ok(Arrived::Blocked);
                }
                self.progress.read_time = slot;
            } else if at < self.progress.seen || facts.deletes {
                return Ok(Arrived::Skip);
            } else {
                return Ok(Arrived::Late(stored));
            }
        }
        let window_ms = self.timers.window_ms.load(Relaxed);
        let target = slot_in_window(slot, now_slot, window_ms, precision_ms).max(self.progress.read_time);
        if !index.fits(target, self.progress.read_time) {
            return Ok(Arrived::Blocked);
        }
        let entry = TimerEntry {
            slot: target,
            written_at: now_slot,
            log_offset,
            size: stored.size,
            rolls: target != slot,
            deletes: facts.deletes,
            topic_hash: java::string_hash(&facts.real_topic),
        };
        let ahead = facts.due.since(stored.message.born_timestamp);
        Ok(Arrived::Link(Link { entry, real_topic: facts.real_topic, ahead, next: at.plus(1) }))
    }

    /// The limit of a slot is another one: all slots are looked at once.
    pub(super) fn note_limit(&mut self) -> Result<(), TimersError> {
        let limit = self.timers.congestion.limit();
        if limit != self.congestion_limit {
            self.timers.congestion.forget_all();
            let index = self.timers.index.lock();
            index.counts(|count| self.timers.congestion.holds(count.slot, count.messages))?;
            self.congestion_limit = limit;
        }
        Ok(())
    }

    /// Puts down how full the slots of these entries are, where that is limited.
    fn note_slots(&self, index: &TimerIndex, entries: &[TimerEntry]) -> Result<(), TimersError> {
        if self.congestion_limit >= UNLIMITED {
            return Ok(());
        }
        let slots: BTreeSet<UnixMillis> = entries.iter().map(|entry| entry.slot).collect();
        for slot in slots {
            self.timers.congestion.holds(slot, index.messages_in(slot)?);
        }
        Ok(())
    }

    fn link(&mut self, links: &mut Vec<Link>) -> Result<(), TimersError> {
        while !links.is_empty() {
            let entries: Vec<TimerEntry> = links.iter().map(|link| link.entry).collect();
            let (linked, noted) = {
                let mut index = self.timers.index.lock();
                let linked = index.link(&entries)?;
                (linked, self.note_slots(&index, &entries[..linked]))
            };
            let now = self.clock.now();
            self.timers.stats.timers_linked(linked as u64);
            for Link { entry, real_topic, ahead, next } in links.drain(..linked) {
                self.timers.counts.lock().linked(&real_topic, weight(&entry), ahead, now);
                self.counted_until = self.counted_until.max(entry.log_offset.plus(entry.size.into()));
                self.count_up_to(next);
            }
            // They are linked, and must not be once more.
            noted?;
        }
        Ok(())
    }

    fn count_up_to(&mut self, next: QueueOffset) {
        if self.progress.queue_offset != next {
            self.progress.queue_offset = next;
            self.progress.seen = self.progress.seen.max(next);
            self.unsaved = true;
        }
    }
}
