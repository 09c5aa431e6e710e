//! Offsets of broadcast consumers: each reads everything by itself and keeps its own place, in a file if it wants to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mq_protocol::body::MessageQueue;
use mq_protocol::ids::QueueOffset;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::ClientError;

#[derive(Default)]
pub(super) struct LocalOffsets {
    file: Option<PathBuf>,
    offsets: Mutex<BTreeMap<MessageQueue, QueueOffset>>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    queue: MessageQueue,
    offset: QueueOffset,
}

impl LocalOffsets {
    /// A missing file is an empty one; a damaged one is an error, so that nobody reads everything again unasked.
    pub(super) fn open(file: Option<PathBuf>) -> Result<Self, ClientError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let failed = |reason: String| ClientError::LocalOffsets { path: path.display().to_string(), reason };
        let rows: Vec<Row> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let offsets = rows.into_iter().map(|row| (row.queue, row.offset)).collect();
        Ok(Self { file: Some(path), offsets: Mutex::new(offsets) })
    }

    pub(super) fn get(&self, queue: &MessageQueue) -> Option<QueueOffset> {
        self.offsets.lock().get(queue).copied()
    }

    pub(super) fn set(&self, queue: &MessageQueue, offset: QueueOffset) {
        self.offsets.lock().insert(queue.clone(), offset);
    }

    /// After a crash the old file is there or the new one. Waits for the disk.
    pub(super) fn save(&self) -> Result<(), ClientError> {
        let Some(path) = &self.file else { return Ok(()) };
        let rows: Vec<Row> =
            self.offsets.lock().iter().map(|(queue, offset)| Row { queue: queue.clone(), offset: *offset }).collect();
        let failed = |reason: String| ClientError::LocalOffsets { path: path.display().to_string(), reason };
        let text = serde_json::to_vec_pretty(&rows).map_err(|error| failed(error.to_string()))?;
        mq_files::replace(path, &text).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_survive_in_their_file_and_damage_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("offsets.json");
        let queue = MessageQueue { topic: "T".into(), broker_name: "b".into(), queue_id: 1 };
        let offsets = LocalOffsets::open(Some(path.clone())).expect("missing is empty");
        assert_eq!(offsets.get(&queue), None);
        offsets.set(&queue, QueueOffset(7));
        offsets.save().expect("writable");
        assert_eq!(LocalOffsets::open(Some(path.clone())).expect("readable").get(&queue), Some(QueueOffset(7)));
        std::fs::write(&path, "{").expect("writable");
        assert!(matches!(LocalOffsets::open(Some(path)), Err(ClientError::LocalOffsets { .. })));
    }
}
