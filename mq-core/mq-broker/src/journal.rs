//! A journal beside a table whose file is written whole: what changed since, so that a killed process takes hardly
//! anything back. Knows nothing of what the changes are.
//!
//! ```text
//! 0 magic, 8 bytes      frames: 0 length u32    4 CRC-32 of what follows, u32    8 kind u8    9 …
//!
//! 1 table     stamp u32      all before it stands in the file with this stamp, which is about to be written
//! 5 written                  that file is on disk: an older one is not the journal's table any more
//! others                     changes, see their owner
//! ```
//!
//! It belongs to the table that it names last, and goes on from there. Beside another one (Apache wrote it, somebody put
//! a copy back or removed it) it is ignored, with a warning; so is one that cannot be read, and what stands behind damage.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use mq_store::Backend;
use mq_store::backend::{File, Space, open_if_there, replace_file};
use tracing::warn;

use crate::config_file::Origin;

const FRAME_HEAD_BYTES: usize = 8;
/// Begun anew with the next table that is written.
const LONG_BYTES: u64 = 1 << 20;
/// A table is written before its time.
const VERY_LONG_BYTES: u64 = 16 << 20;
/// Nothing is added any more, should tables not be written.
const MAX_BYTES: u64 = 64 << 20;
/// Of one addition, which may begin below that limit and end behind it.
const MAX_ADDED_BYTES: u64 = 8 << 20;

const TABLE: u8 = 1;
const WRITTEN: u8 = 5;

/// Where a journal stands, and how it begins.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: &'static str,
    pub(crate) magic: &'static [u8; 8],
}

/// The file and what stands in it.
type Found = (Arc<dyn File>, Vec<u8>);

pub(crate) struct Journal {
    backend: Arc<dyn Backend>,
    place: &'static Place,
    /// `None`: it could not be begun; the next table tries again.
    file: Option<Arc<dyn File>>,
    end: u64,
    frame: Vec<u8>,
    is_synced: bool,
    failed: bool,
}

impl Journal {
    /// Calls `apply` with the changes since the table that was found, oldest first.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        place: &'static Place,
        table: Origin,
        apply: impl FnMut(&[u8]),
    ) -> Self {
        let mut journal =
            Self { backend, place, file: None, end: 0, frame: Vec::new(), is_synced: true, failed: false };
        match journal.take_up(table, apply) {
            Ok(true) => {}
            Ok(false) => journal.begin(table.stamp),
            Err(error) => {
                warn!(%error, path = place.path, "the journal cannot be used and is begun anew; the table counts alone");
                journal.begin(table.stamp);
            }
        }
        journal
    }

    /// True: it goes on where it ended.
    fn take_up(&mut self, table: Origin, apply: impl FnMut(&[u8])) -> io::Result<bool> {
        let path = self.place.path;
        let Some((file, bytes)) = self.read()? else { return Ok(false) };
        let (frames, end) = whole_frames(&bytes, self.place.magic);
        let behind = bytes.len() as u64 - end;
        if behind > 0 {
            warn!(path, bytes = behind, "the journal ends with a torn or damaged part, which is passed over");
        }
        let Some(changes) = since_table(&frames, table) else {
            warn!(path, "the journal belongs to another table than the one on disk: ignored");
            return Ok(false);
        };
        // What stands behind a torn frame must not follow the next one.
        file.resize(end, Space::Sparse)?;
        (self.file, self.end, self.is_synced) = (Some(file), end, false);
        changes.for_each(apply);
        Ok(true)
    }

    fn read(&self) -> io::Result<Option<Found>> {
        let Some(file) = open_if_there(&*self.backend, self.place.path)? else { return Ok(None) };
        let mut bytes = vec![0; file.bytes()?.min(MAX_BYTES + MAX_ADDED_BYTES) as usize];
        file.read_at(0, &mut bytes)?;
        Ok(Some((file, bytes)))
    }

    /// Whether a table should be written, so that this may begin anew.
    pub(crate) fn is_very_long(&self) -> bool {
        self.end >= VERY_LONG_BYTES
    }

    /// Adds changes, the first byte of which is their kind. What cannot be written is in the next table.
    pub(crate) fn add(&mut self, changes: &[u8]) {
        if !changes.is_empty() {
            self.write(changes);
        }
    }

    /// What was added outlives a power cut.
    pub(crate) fn sync(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| !self.is_synced && !self.failed) else { return };
        match file.sync() {
            Ok(()) => self.is_synced = true,
            Err(error) => self.fail(&error),
        }
    }

    /// The table with this stamp, which is about to be written, has all that was added.
    pub(crate) fn note_table(&mut self, stamp: u32) {
        self.write(&table_mark(stamp));
    }

    /// The table with this stamp is on disk.
    pub(crate) fn table_is_written(&mut self, stamp: u32) {
        if self.end >= LONG_BYTES || self.failed || self.file.is_none() {
            self.begin(stamp);
        } else {
            self.write(&[WRITTEN]);
        }
    }

    /// One frame at the end. After a failure no more until it begins anew: what stands behind a gap would not be read.
    fn write(&mut self, payload: &[u8]) {
        let Some(file) = &self.file else { return };
        if self.failed || self.end >= MAX_BYTES {
            return;
        }
        put_frame(&mut self.frame, payload);
        match file.write_at(self.end, &self.frame) {
            Ok(()) => (self.end, self.is_synced) = (self.end + self.frame.len() as u64, false),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed = true;
        warn!(%error, path = self.place.path, "nothing is journalled until the table is saved: a crash takes it back");
    }

    fn begin(&mut self, stamp: u32) {
        let mut bytes = self.place.magic.to_vec();
        put_frame(&mut self.frame, &table_mark(stamp));
        bytes.extend_from_slice(&self.frame);
        match replace_file(&*self.backend, self.place.path, &bytes) {
            Ok(file) => {
                (self.file, self.end, self.is_synced, self.failed) = (Some(file), bytes.len() as u64, true, false)
            }
            Err(error) => {
                self.file = None;
                warn!(%error, path = self.place.path, "the journal cannot be made: a crash takes back what is not saved");
            }
        }
    }
}

fn table_mark(stamp: u32) -> Vec<u8> {
    let mut mark = vec![TABLE];
    mark.put_u32(stamp);
    mark
}

fn put_frame(frame: &mut Vec<u8>, payload: &[u8]) {
    frame.clear();
    frame.put_u32(payload.len() as u32);
    frame.put_u32(crc32fast::hash(payload));
    frame.put_slice(payload);
}

/// The payloads of all frames up to the first that is not whole, and where that one stands.
fn whole_frames<'b>(bytes: &'b [u8], magic: &[u8]) -> (Vec<&'b [u8]>, u64) {
    let mut frames = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(magic) else { return (frames, 0) };
    while let Some((head, behind)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
        let mut head = &head[..];
        let (length, crc) = (head.get_u32() as usize, head.get_u32());
        let Some((payload, behind)) = behind.split_at_checked(length).filter(|_| length > 0) else { break };
        if crc32fast::hash(payload) != crc {
            break;
        }
        frames.push(payload);
        rest = behind;
    }
    (frames, (bytes.len() - rest.len()) as u64)
}

/// The changes since the table, if the journal is of that table: no newer one is known to be on disk, unless this one
/// stands in for it.
fn since_table<'f>(frames: &'f [&'f [u8]], table: Origin) -> Option<impl Iterator<Item = &'f [u8]>> {
    let (mut newest, mut since, mut is_outdated) = (None, None, false);
    for (index, frame) in frames.iter().enumerate() {
        match frame {
            [TABLE, stamp @ ..] => {
                newest = stamp.try_into().ok().map(u32::from_be_bytes);
                if newest == Some(table.stamp) {
                    (since, is_outdated) = (Some(index), false);
                }
            }
            [WRITTEN] => is_outdated |= newest != Some(table.stamp),
            _ => {}
        }
    }
    let since = since.filter(|_| !is_outdated || table.stands_in)?;
    Some(frames[since..].iter().copied().filter(|frame| !matches!(frame, [TABLE, ..] | [WRITTEN])))
}
