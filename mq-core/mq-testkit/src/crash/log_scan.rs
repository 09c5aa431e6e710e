//! Reads the commit log's bytes without mq-store: which half messages there are and how each ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::Bytes;
use mq_protocol::record::{MAGIC_BLANK, StoredMessage};
use mq_protocol::{sys_flag, topic};

use super::plan::{MessageId, Plan, TOPIC};

#[derive(Clone, Debug, Default)]
pub struct LogFacts {
    /// By their offset in the half queue.
    pub halves: BTreeMap<u64, MessageId>,
    /// Half-queue offsets that an OP record ends.
    pub ended: BTreeSet<u64>,
    /// How often each transaction's real message stands in the log.
    pub committed: BTreeMap<MessageId, u32>,
    pub parked: BTreeMap<MessageId, u32>,
    pub records: u64,
}

impl LogFacts {
    /// From the segment files of a store directory.
    pub fn of_directory(store: &Path) -> io::Result<Self> {
        let mut names: Vec<_> =
            std::fs::read_dir(store.join("commitlog"))?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        names.sort();
        let mut facts = Self::default();
        for path in names {
            facts.read_segment(&std::fs::read(path)?.into());
        }
        Ok(facts)
    }

    /// Takes in one segment; the caller hands them over in order. Reading stops at what is not a record: the end.
    pub fn read_segment(&mut self, segment: &Bytes) {
        let mut rest = segment.clone();
        while rest.get(4..8).is_some_and(|magic| magic != MAGIC_BLANK.to_be_bytes()) {
            let Ok(record) = StoredMessage::decode(&rest) else { return };
            rest = rest.slice(record.size as usize..);
            self.note(&record);
        }
    }

    fn note(&mut self, record: &StoredMessage) {
        self.records += 1;
        let message = &record.message;
        let id = Plan::id_of(&message.body);
        match (&*message.topic, id) {
            (topic::HALF, Some(id)) => drop(self.halves.insert(record.queue_offset.0, id)),
            (topic::OP_HALF, _) => self.ended.extend(op_offsets(&message.body)),
            (topic::CHECK_MAX_TIME, Some(id)) => *self.parked.entry(id).or_default() += 1,
            (TOPIC, Some(id)) if sys_flag::transaction_bits(message.sys_flag) == sys_flag::TRANSACTION_COMMIT => {
                *self.committed.entry(id).or_default() += 1;
            }
            _ => {}
        }
    }

    /// Half messages without an OP record.
    #[must_use]
    pub fn open_halves(&self) -> Vec<MessageId> {
        self.halves.iter().filter(|(offset, _)| !self.ended.contains(offset)).map(|(_, id)| *id).collect()
    }
}

fn op_offsets(body: &[u8]) -> impl Iterator<Item = u64> {
    std::str::from_utf8(body).unwrap_or_default().split(',').filter_map(|offset| offset.parse().ok())
}
