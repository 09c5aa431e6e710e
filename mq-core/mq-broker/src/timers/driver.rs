//! Links what arrives in the timer topic into the wheel, and appends what is due to its real place.
//!
//! Runs on a thread of its own. Everything that arrived is linked before a slot fires, so that a message and the one
//! that takes it back meet there. A start finds in the log what was delivered after the last save and steps over it, so
//! that a crash delivers nothing twice.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::{java, topic};
use mq_store::timer::{Chain, TimerEntry, TimerError, TimerIndex, TimerProgress, TimerStart};
use mq_store::{AppendError, Clock, DiskError, Poisoned, ReadError, Store};
use tracing::{error, info, warn};

use super::copies::{Copies, Identity};
use super::message::{self, Facts, Times};
use super::plan::slot_in_window;
use super::{Timers, UNLIMITED};
use crate::bell::Bell;
use crate::schedule::scheduled_at;

/// How often the clock is looked at while something waits: a bound for how late a delivery is when the clock jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rest after a failed append (a full disk, say).
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Apache's interval.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Bytes of log after which progress is saved although it stands still: a start reads from there.
const SAVE_EVERY_BYTES: u64 = 256 << 20;
/// Deliveries after which progress is saved within a slot: a start keeps what identifies each in memory.
const SAVE_EVERY_COPIES: u64 = 64 * 1024;
/// Messages, and about how many of their bytes, of one append.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 1 << 20;
/// Surely more than the time from an append until the record is seen here.
const SOON: Duration = Duration::from_secs(10);
/// Arrivals that are linked together.
const LINKS: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TimersError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Index(#[from] TimerError),
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

impl From<DiskError> for TimersError {
    fn from(error: DiskError) -> Self {
        Self::Index(error.into())
    }
}

pub(crate) struct Driver {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timers: Arc<Timers>,
    pub(super) bell: Arc<Bell>,
    pub(super) progress: TimerProgress,
    copies: Copies,
    /// By which the full slots were put down last.
    congestion_limit: u64,
    /// Messages that Apache linked without counting them.
    linked: HashSet<LogOffset>,
    /// The progress counts nothing of the log behind it.
    counted_until: LogOffset,
    unsaved: bool,
    copies_unsaved: u64,
    saved_at: Instant,
    saved_log_offset: LogOffset,
}

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
    pub(crate) fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        timers: Arc<Timers>,
        bell: Arc<Bell>,
        (mut progress, start): (TimerProgress, TimerStart),
    ) -> Self {
        if start == TimerStart::Lost {
            warn!("the timer wheel is unusable and made anew from its topic");
        }
        let linked = if let TimerStart::Apaches { linked } = start { linked } else { HashSet::new() };
        let end = store.end();
        progress.log_offset = progress.log_offset.map(|at| at.min(end));
        let arrived = store.queue_bounds(topic::TIMER, message::QUEUE).max;
        progress.queue_offset = progress.queue_offset.min(arrived);
        if arrived == QueueOffset::ZERO {
            progress.read_time = progress.read_time.max(timers.index.lock().slot_of(clock.now()));
        }
        Self {
            saved_log_offset: progress.log_offset.unwrap_or(end),
            store,
            clock,
            timers,
            bell,
            // None: what the slots hold is not put down yet.
            congestion_limit: UNLIMITED,
            progress,
            copies: Copies::default(),
            linked,
            counted_until: LogOffset::ZERO,
            unsaved: true,
            copies_unsaved: 0,
            saved_at: Instant::now(),
        }
    }

    /// Links and delivers until the bell says stop.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.begin() {
            warn!(%error, "messages for a later time wait: {error}");
        }
        loop {
            let pause = match self.turn() {
                Ok(next) => next.map(|due| due.since(self.clock.now()).min(LOOK_EVERY)),
                Err(error) => {
                    warn!(%error, "messages for a later time wait: {error}");
                    Some(RETRY_AFTER)
                }
            };
            let save = self.save_if_due();
            if !self.bell.wait(pause.into_iter().chain(save).min()) {
                break;
            }
        }
        if let Err(error) = self.save_all() {
            warn!(%error, "the progress of the timers is not saved; the next start finds it in the log");
        }
    }

    /// Finds out where things stand, and puts it down before anyone adds to it.
    pub(super) fn begin(&mut self) -> Result<(), TimersError> {
        self.find_copies();
        self.turn()?;
        self.save_if_durable();
        Ok(())
    }

    /// Everything that was stored for later but was delivered before this start.
    fn find_copies(&mut self) {
        let arrived = self.store.queue_bounds(topic::TIMER, message::QUEUE).max > self.progress.queue_offset;
        let waiting = self.timers.index.lock().next_slot(self.progress.read_time).is_some();
        if let Some(from) = self.progress.log_offset.filter(|from| (arrived || waiting) && *from < self.store.end()) {
            self.copies = Copies::find(&self.store, from);
        }
    }

    /// Does all there is to do now; gives the time of the next delivery, if anything waits.
    pub(super) fn turn(&mut self) -> Result<Option<UnixMillis>, TimersError> {
        if self.store.end().0 - self.saved_log_offset.0.min(self.store.end().0) >= SAVE_EVERY_BYTES {
            self.unsaved = true;
            self.save_if_durable();
        }
        self.note_limit()?;
        loop {
            let blocked = self.link_arrivals()?;
            let (next, precision_ms) = {
                let index = self.timers.index.lock();
                (index.next_slot(self.progress.read_time), index.precision_ms())
            };
            let now = self.clock.now();
            match next.map(|slot| (slot, UnixMillis(slot.0 + precision_ms))) {
                Some((slot, due)) if due <= now => self.fire(slot)?,
                next => {
                    let moved = self.pass_empty_slots(now);
                    if !(blocked && moved) {
                        *self.timers.progress.lock() = self.progress;
                        if !blocked {
                            self.copies.forget_below(self.progress.read_time);
                        }
                        return Ok(next.map(|(_, due)| due));
                    }
                }
            }
        }
    }

    /// No slot before now's has anything in it. False if the time did not go on.
    fn pass_empty_slots(&mut self, now: UnixMillis) -> bool {
        let current = self.timers.index.lock().slot_of(now);
        let moved = current > self.progress.read_time;
        if moved {
            (self.progress.read_time, self.progress.fired) = (current, 0);
        }
        moved
    }

    /// True if the wheel has no place for the next one yet.
    fn link_arrivals(&mut self) -> Result<bool, TimersError> {
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
    fn note_limit(&mut self) -> Result<(), TimersError> {
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
            let linked = {
                let mut index = self.timers.index.lock();
                let linked = index.link(&entries)?;
                self.note_slots(&index, &entries[..linked])?;
                linked
            };
            let now = self.clock.now();
            self.timers.stats.timers_linked(linked as u64);
            for Link { entry, real_topic, ahead, next } in links.drain(..linked) {
                self.timers.counts.lock().linked(&real_topic, weight(&entry), ahead, now);
                self.counted_until = self.counted_until.max(entry.log_offset.plus(entry.size.into()));
                self.count_up_to(next);
            }
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

    fn deliver_late(&mut self, stored: &StoredMessage) -> Result<(), TimersError> {
        let times = Times { linked_at: None, now: self.clock.now() };
        match message::delivered(&stored.message, times) {
            Some(copy) if !self.copies.take(&copy, false) => self.append(vec![[copy]]),
            _ => Ok(()),
        }
    }

    /// Delivers a slot's messages, in the order in which they came.
    fn fire(&mut self, slot: UnixMillis) -> Result<(), TimersError> {
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

    fn save_if_many(&mut self) {
        if self.copies_unsaved >= SAVE_EVERY_COPIES || self.timers.index.lock().wants_save() {
            self.save_if_durable();
        }
    }

    /// Saves now and then; gives the time to come back when something is unsaved.
    fn save_if_due(&mut self) -> Option<Duration> {
        if !self.unsaved {
            return None;
        }
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save_if_durable();
        }
        self.unsaved.then(|| SAVE_EVERY.saturating_sub(self.saved_at.elapsed()).max(LOOK_EVERY))
    }

    /// Keeps the older state while what it counts is not durable: what is lost must be done again.
    fn save_if_durable(&mut self) {
        if self.linked.is_empty()
            && self.store.durable() >= self.counted_until
            && let Err(error) = self.save()
        {
            warn!(%error, "the progress of the timers is not saved: {error}");
            self.saved_at = Instant::now();
        }
    }

    pub(super) fn save(&mut self) -> Result<(), TimersError> {
        if self.copies.is_empty() {
            self.progress.log_offset = Some(self.store.end());
        }
        let mut index = self.timers.index.lock();
        self.timers.counts.lock().save();
        index.save(self.progress, self.clock.now())?;
        index.remove_below(self.store.min())?;
        self.saved_log_offset = self.store.end();
        (self.unsaved, self.copies_unsaved) = (false, 0);
        self.saved_at = Instant::now();
        Ok(())
    }

    fn save_all(&mut self) -> Result<(), TimersError> {
        self.store.flush()?;
        if self.linked.is_empty() {
            self.save()?;
        }
        info!(linked = %self.progress.queue_offset, "timers stopped");
        Ok(())
    }
}

/// A message that takes back another one counts against it.
fn weight(entry: &TimerEntry) -> i64 {
    if entry.deletes { -1 } else { 1 }
}
