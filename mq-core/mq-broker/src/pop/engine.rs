//! What is in flight: the checkpoints of pops, by the records of the revive topic, and which of them lapsed. Pure: records
//! and the time go in, what is due comes out; it knows no store and no clock.
//!
//! A checkpoint stays until each of its messages is acknowledged. A revival is recorded as an acknowledgement too, beside
//! the message's new copy, so that the records alone say what is open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mq_protocol::body::{AckRecord, CheckpointRecord};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};

use crate::limits::MAX_INVISIBLE;

/// A queue as one group reads it. The topic may be a retry topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) topic: ByteString,
    pub(crate) group: ByteString,
    pub(crate) queue_id: QueueId,
}

/// What a receipt handle names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CheckpointId {
    pub(crate) place: Arc<Place>,
    pub(crate) start: QueueOffset,
    pub(crate) pop_time: UnixMillis,
}

/// Where a record stands in the revive topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordAt {
    pub(crate) queue_id: QueueId,
    pub(crate) offset: QueueOffset,
}

#[derive(Debug)]
struct Checkpoint {
    /// Where a start has to begin to read so that it knows of this: its record, or that of the checkpoint which its
    /// message was taken from.
    needs: RecordAt,
    /// Not acknowledged, ascending.
    open: Vec<QueueOffset>,
    /// When it is looked at next; `None` while its messages are being revived.
    due: Option<UnixMillis>,
    by_consumer: bool,
}

/// Messages that nobody acknowledged in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lapsed {
    pub(crate) id: CheckpointId,
    pub(crate) open: Vec<QueueOffset>,
    /// Where its records stand.
    pub(crate) revive_queue: QueueId,
    /// A consumer chose this time itself (200053), so no retry policy adds to it.
    pub(crate) by_consumer: bool,
}

#[derive(Default)]
pub(crate) struct Engine {
    checkpoints: HashMap<CheckpointId, Checkpoint>,
    due: BTreeSet<(UnixMillis, CheckpointId)>,
    /// How many checkpoints need a record.
    needed: BTreeMap<RecordAt, usize>,
    places: HashMap<Arc<Place>, usize>,
    groups: HashMap<ByteString, usize>,
    messages: usize,
}

impl Engine {
    /// A pop gave messages out, or a consumer asked for another time. One that was taken from a checkpoint which no longer
    /// has the message changes nothing: the message was acknowledged or has come again meanwhile. Nothing is due before
    /// `not_before`: its acknowledgements may be on their way.
    pub(crate) fn checkpoint(&mut self, record: &CheckpointRecord, at: RecordAt, not_before: Option<UnixMillis>) {
        let place = self.place(&record.topic, &record.consumer_group, record.queue_id);
        let id = CheckpointId { place, start: record.start_offset, pop_time: record.pop_time };
        let mut open: Vec<QueueOffset> = record.offsets().collect();
        let mut needs = at;
        if let Some(from) = record.from {
            let old = CheckpointId { place: id.place.clone(), start: from.start_offset, pop_time: from.pop_time };
            needs = self.checkpoints.get(&old).map_or(at, |old| old.needs);
            open.retain(|offset| self.close(&old, *offset));
        }
        if open.is_empty() || self.checkpoints.contains_key(&id) {
            self.forget_if_unused(&id.place);
            return;
        }
        *self.places.entry(id.place.clone()).or_default() += open.len();
        *self.groups.entry(id.place.group.clone()).or_default() += open.len();
        self.messages += open.len();
        *self.needed.entry(needs).or_default() += 1;
        // Another broker may have admitted longer ones.
        let invisible = Duration::from_millis(u64::try_from(record.invisible_time).unwrap_or(0)).min(MAX_INVISIBLE);
        let due = record.pop_time.plus(invisible);
        let due = not_before.map_or(due, |not_before| due.max(not_before));
        self.due.insert((due, id.clone()));
        self.checkpoints.insert(id, Checkpoint { needs, open, due: Some(due), by_consumer: record.from.is_some() });
    }

    pub(crate) fn ack(&mut self, record: &AckRecord) {
        let place = self.place(&record.topic, &record.consumer_group, record.queue_id);
        let id = CheckpointId { place, start: record.start_offset, pop_time: record.pop_time };
        for offset in record.offsets() {
            self.close(&id, offset);
        }
        self.forget_if_unused(&id.place);
    }

    /// Checkpoints whose time is over, of at least one and about `messages` messages. They wait for their closing records
    /// from now on, or for `postpone`.
    pub(crate) fn lapsed(&mut self, now: UnixMillis, messages: usize) -> Vec<Lapsed> {
        let (mut lapsed, mut count) = (Vec::new(), 0);
        while count < messages
            && let Some((due, _)) = self.due.first()
            && *due <= now
        {
            let (_, id) = self.due.pop_first().expect("looked at above");
            let checkpoint = self.checkpoints.get_mut(&id).expect("what is due is open");
            checkpoint.due = None;
            count += checkpoint.open.len();
            let (open, by_consumer) = (checkpoint.open.clone(), checkpoint.by_consumer);
            lapsed.push(Lapsed { id, open, revive_queue: checkpoint.needs.queue_id, by_consumer });
        }
        lapsed
    }

    /// Whether messages are on their way to be revived, with all that are due until `until`. (Once a message is, its
    /// checkpoint no longer has it.)
    pub(crate) fn is_lapsed(&self, id: &CheckpointId, until: Option<UnixMillis>) -> bool {
        self.checkpoints.get(id).is_some_and(|checkpoint| checkpoint.due.is_none_or(|due| Some(due) <= until))
    }

    /// What is still open of a lapsed checkpoint is due again at `until`.
    pub(crate) fn postpone(&mut self, id: &CheckpointId, until: UnixMillis) {
        if let Some(checkpoint) = self.checkpoints.get_mut(id) {
            if let Some(before) = checkpoint.due.replace(until) {
                self.due.remove(&(before, id.clone()));
            }
            self.due.insert((until, id.clone()));
        }
    }

    pub(crate) fn next_due(&self) -> Option<UnixMillis> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The first record of a revive queue that is still needed.
    pub(crate) fn first_open(&self, queue_id: QueueId) -> Option<QueueOffset> {
        let from = RecordAt { queue_id, offset: QueueOffset::ZERO };
        let first = self.needed.range(from..).next().map(|(first, _)| first);
        first.filter(|first| first.queue_id == queue_id).map(|first| first.offset)
    }

    pub(crate) fn in_flight(&self, place: &Place) -> usize {
        self.places.get(place).copied().unwrap_or(0)
    }

    /// When a message was given out that is not acknowledged, and when its time is over. Looks at every checkpoint, where
    /// the place has some.
    pub(crate) fn held(&self, place: &Place, offset: QueueOffset) -> Option<(UnixMillis, Option<UnixMillis>)> {
        let (known, _) = self.places.get_key_value(place)?;
        let holds = |(id, checkpoint): &(&CheckpointId, &Checkpoint)| {
            Arc::ptr_eq(&id.place, known) && checkpoint.open.contains(&offset)
        };
        self.checkpoints.iter().find(holds).map(|(id, checkpoint)| (id.pop_time, checkpoint.due))
    }

    pub(crate) fn in_flight_of_group(&self, group: &str) -> usize {
        self.groups.get(group).copied().unwrap_or(0)
    }

    pub(crate) fn open_checkpoints(&self) -> usize {
        self.checkpoints.len()
    }

    pub(crate) fn in_flight_in_total(&self) -> usize {
        self.messages
    }

    /// Whether it was open, and so is closed now.
    fn close(&mut self, id: &CheckpointId, offset: QueueOffset) -> bool {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return false };
        let Some(index) = checkpoint.open.iter().position(|open| *open == offset) else { return false };
        checkpoint.open.remove(index);
        if checkpoint.open.is_empty() {
            let checkpoint = self.checkpoints.remove(id).expect("found above");
            let count = self.needed.get_mut(&checkpoint.needs).expect("counted when it was opened");
            *count -= 1;
            if *count == 0 {
                self.needed.remove(&checkpoint.needs);
            }
            if let Some(due) = checkpoint.due {
                self.due.remove(&(due, id.clone()));
            }
        }
        self.messages -= 1;
        *self.places.get_mut(&id.place).expect("counted when it was opened") -= 1;
        let group = self.groups.get_mut(&id.place.group).expect("counted when it was opened");
        *group -= 1;
        if *group == 0 {
            self.groups.remove(&id.place.group);
        }
        true
    }

    /// One copy of each place's names, however many checkpoints it has.
    fn place(&mut self, topic: &str, group: &str, queue_id: QueueId) -> Arc<Place> {
        let place = Place { topic: topic.into(), group: group.into(), queue_id };
        match self.places.get_key_value(&place) {
            Some((known, _)) => known.clone(),
            None => Arc::new(place),
        }
    }

    fn forget_if_unused(&mut self, place: &Arc<Place>) {
        if self.places.get(place) == Some(&0) {
            self.places.remove(place);
        }
    }
}

#[cfg(test)]
#[path = "engine_cases.rs"]
mod cases;
