//! Pops in order: a queue that gave messages out gives no more until they are acknowledged or their time is over. Kept in
//! `config/consumerOrderInfo.json`, in Apache's form. Pure but for that form: it is told the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytestring::ByteString;
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use serde::{Deserialize, Serialize};

use super::engine::Place;

/// What nobody has read in order for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What one pop gave out of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OrderInfo {
    #[serde(rename = "popTime")]
    pop_time: UnixMillis,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    invisible_time: Option<i64>,
    /// The first queue offset, then the distances from it.
    #[serde(rename = "o")]
    offsets: Vec<u64>,
    /// By queue offset: times that a consumer changed.
    #[serde(rename = "ot", skip_serializing_if = "BTreeMap::is_empty")]
    visible_at: BTreeMap<u64, UnixMillis>,
    /// By queue offset: how often it was given out before.
    #[serde(rename = "oc", skip_serializing_if = "BTreeMap::is_empty")]
    consumed: BTreeMap<u64, i32>,
    #[serde(rename = "l")]
    last_consumed: UnixMillis,
    /// Bit `i`: the `i`th offset is acknowledged.
    #[serde(rename = "cm")]
    acked: i64,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    attempt_id: Option<String>,
}

impl OrderInfo {
    /// Whether a pop could have left it: each offset has its bit. What a file has of another kind is given out again.
    fn is_of_a_pop(&self) -> bool {
        (1..=i64::BITS as usize).contains(&self.offsets.len())
            && self.offsets.iter().all(|offset| *offset <= i64::MAX as u64)
    }

    fn offsets(&self) -> impl Iterator<Item = QueueOffset> + '_ {
        let first = self.offsets.first().copied().unwrap_or(0);
        self.offsets
            .iter()
            .enumerate()
            .map(move |(at, offset)| QueueOffset(if at == 0 { first } else { first + offset }))
    }

    fn open(&self) -> impl Iterator<Item = QueueOffset> + '_ {
        self.offsets().enumerate().filter(|(at, _)| self.acked >> at & 1 == 0).map(|(_, offset)| offset)
    }

    /// When the last of what is open may be seen again; `None`: nothing is open.
    fn blocked_until(&self) -> Option<UnixMillis> {
        let all = UnixMillis(self.pop_time.0.saturating_add(self.invisible_time.unwrap_or(0)));
        self.open().map(|offset| self.visible_at.get(&offset.0).copied().unwrap_or(all)).max()
    }

    fn held(&self, offset: QueueOffset) -> Option<(UnixMillis, Option<UnixMillis>)> {
        let all = UnixMillis(self.pop_time.0.saturating_add(self.invisible_time.unwrap_or(0)));
        let until = self.visible_at.get(&offset.0).copied().unwrap_or(all);
        self.open().any(|open| open == offset).then_some((self.pop_time, Some(until)))
    }

    fn next_offset(&self) -> Option<QueueOffset> {
        self.open().next().or_else(|| self.offsets().last().map(|last| last.plus(1)))
    }
}

/// How often the messages of a pop were given out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempts {
    /// Only those that were.
    pub(crate) of_offsets: Vec<(QueueOffset, i32)>,
    /// The fewest of all, for clients that know only this.
    pub(crate) least: i32,
}

/// What an acknowledgement means for the group's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    UpTo(QueueOffset),
    /// Of a pop that no longer counts: its messages were given out again or will be (after a crash, or because an
    /// operator sent the group elsewhere).
    Stale,
    /// Not a message of that pop.
    Unknown,
}

#[derive(Default)]
pub(crate) struct Orders {
    table: HashMap<Place, OrderInfo>,
    /// When queues open by themselves.
    expiries: BTreeSet<(UnixMillis, Place)>,
    dirty: bool,
}

/// `config/consumerOrderInfo.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OrdersFile {
    table: BTreeMap<String, BTreeMap<u32, OrderInfo>>,
}

impl Orders {
    pub(crate) fn load(file: OrdersFile) -> Self {
        let mut orders = Self::default();
        for (key, queues) in file.table {
            let Some((topic, group)) = key.split_once('@') else { continue };
            for (queue, info) in queues.into_iter().filter(|(_, info)| info.is_of_a_pop()) {
                let (topic, group) = (ByteString::from(topic), ByteString::from(group));
                orders.put(Place { topic, group, queue_id: QueueId(queue) }, info);
            }
        }
        orders.dirty = false;
        orders
    }

    /// What to write if something changed since the last time; `exists` says whether a place is still there.
    pub(crate) fn take_unsaved(&mut self, now: UnixMillis, exists: impl Fn(&Place) -> bool) -> Option<OrdersFile> {
        let old = |info: &OrderInfo| now.since(info.last_consumed) > FORGOTTEN_AFTER;
        let gone: Vec<Place> = self
            .table
            .iter()
            .filter(|(place, info)| old(info) || !exists(place))
            .map(|(place, _)| place.clone())
            .collect();
        gone.iter().for_each(|place| drop(self.take(place)));
        std::mem::take(&mut self.dirty).then(|| {
            let mut file = OrdersFile::default();
            for (place, info) in &self.table {
                let key = format!("{}@{}", place.topic, place.group);
                file.table.entry(key).or_default().insert(place.queue_id.0, info.clone());
            }
            file
        })
    }

    /// The file could not be written.
    pub(crate) fn not_saved(&mut self) {
        self.dirty = true;
    }

    /// A repeated attempt is let through: its first answer may be lost.
    pub(crate) fn is_blocked(&self, place: &Place, attempt_id: Option<&str>, now: UnixMillis) -> bool {
        self.table.get(place).is_some_and(|info| {
            let again = attempt_id.is_some() && info.attempt_id.as_deref() == attempt_id;
            !again && info.blocked_until().is_some_and(|until| now < until)
        })
    }

    pub(crate) fn popped(
        &mut self,
        place: &Place,
        attempt_id: Option<&str>,
        offsets: &[QueueOffset],
        pop_time: UnixMillis,
        invisible_time: i64,
    ) -> Attempts {
        let before = self.take(place);
        let first = offsets.first().map_or(0, |first| first.0);
        let distances = offsets.iter().skip(1).map(|offset| offset.0 - first);
        let mut info = OrderInfo {
            pop_time,
            invisible_time: Some(invisible_time),
            offsets: std::iter::once(first).chain(distances).collect(),
            last_consumed: pop_time,
            attempt_id: attempt_id.map(str::to_owned),
            ..OrderInfo::default()
        };
        if let Some(before) = before {
            let again = attempt_id.is_some() && before.attempt_id.as_deref() == attempt_id;
            info.consumed = if again { before.consumed } else { counted(&before, offsets) };
        }
        let attempts = Attempts {
            of_offsets: info.consumed.iter().map(|(offset, times)| (QueueOffset(*offset), *times)).collect(),
            least: offsets.iter().map(|offset| info.consumed.get(&offset.0).copied().unwrap_or(0)).min().unwrap_or(0),
        };
        self.put(place.clone(), info);
        attempts
    }

    pub(crate) fn ack(&mut self, place: &Place, offset: QueueOffset, pop_time: UnixMillis) -> Acked {
        let Some(info) = self.table.get(place).filter(|info| info.pop_time == pop_time) else { return Acked::Stale };
        let Some(index) = info.offsets().position(|known| known == offset) else { return Acked::Unknown };
        let mut info = self.take(place).expect("looked at above");
        info.acked |= 1 << index;
        let next = info.next_offset();
        self.put(place.clone(), info);
        next.map_or(Acked::Unknown, Acked::UpTo)
    }

    /// A consumer wants to see the message at another time.
    pub(crate) fn change(&mut self, place: &Place, offset: QueueOffset, pop_time: UnixMillis, visible_at: UnixMillis) {
        if self.table.get(place).is_some_and(|info| info.pop_time == pop_time && info.offsets().any(|o| o == offset)) {
            let mut info = self.take(place).expect("looked at above");
            info.visible_at.insert(offset.0, visible_at);
            self.put(place.clone(), info);
        }
    }

    /// The group starts elsewhere: nothing is waited for.
    pub(crate) fn forget(&mut self, place: &Place) {
        self.take(place);
    }

    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Queues whose messages may be seen again since the last call.
    pub(crate) fn expired(&mut self, now: UnixMillis) -> Vec<Place> {
        let mut open = Vec::new();
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            open.extend(self.expiries.pop_first().map(|(_, place)| place));
        }
        open
    }

    /// What is given out and not acknowledged.
    pub(crate) fn in_flight(&self, place: &Place) -> usize {
        self.table.get(place).map_or(0, |info| info.open().count())
    }

    /// When a message was given out that is not acknowledged, and when its time is over.
    pub(crate) fn held(&self, place: &Place, offset: QueueOffset) -> Option<(UnixMillis, Option<UnixMillis>)> {
        self.table.get(place)?.held(offset)
    }

    fn take(&mut self, place: &Place) -> Option<OrderInfo> {
        let info = self.table.remove(place)?;
        if let Some(until) = info.blocked_until() {
            self.expiries.remove(&(until, place.clone()));
        }
        self.dirty = true;
        Some(info)
    }

    fn put(&mut self, place: Place, info: OrderInfo) {
        if let Some(until) = info.blocked_until() {
            self.expiries.insert((until, place.clone()));
        }
        self.table.insert(place, info);
        self.dirty = true;
    }
}

/// One more for each message that was given out before, too.
fn counted(before: &OrderInfo, offsets: &[QueueOffset]) -> BTreeMap<u64, i32> {
    let known: BTreeSet<QueueOffset> = before.offsets().collect();
    let again = offsets.iter().filter(|offset| known.contains(offset));
    again.map(|offset| (offset.0, before.consumed.get(&offset.0).copied().unwrap_or(0) + 1)).collect()
}

#[cfg(test)]
#[path = "order_cases.rs"]
mod cases;
