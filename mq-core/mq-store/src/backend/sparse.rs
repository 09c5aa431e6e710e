//! The contents of one file in memory: only the pages that were written take space.

use std::collections::BTreeMap;

pub(super) const PAGE_BYTES: u64 = 4096;

#[derive(Clone, Default)]
pub(super) struct SparseBytes {
    pub(super) len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES as usize]>>,
}

impl SparseBytes {
    /// Bytes that the written pages take.
    pub(super) fn used_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }

    /// Bytes of pages that a write would have to add.
    pub(super) fn missing_bytes(&self, at: u64, bytes: u64) -> u64 {
        let pages = at / PAGE_BYTES..(at + bytes).div_ceil(PAGE_BYTES);
        pages.filter(|page| !self.pages.contains_key(page)).count() as u64 * PAGE_BYTES
    }

    /// False when the range leaves the file.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> bool {
        if at + into.len() as u64 > self.len {
            return false;
        }
        for (page, within, chunk) in pieces(at, into.len()) {
            let into = &mut into[chunk];
            match self.pages.get(&page) {
                Some(bytes) => into.copy_from_slice(&bytes[within..within + into.len()]),
                None => into.fill(0),
            }
        }
        true
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        for (page, within, chunk) in pieces(at, bytes.len()) {
            let bytes = &bytes[chunk];
            let page = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES as usize]));
            page[within..within + bytes.len()].copy_from_slice(bytes);
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub(super) fn zero(&mut self, at: u64, bytes: u64) {
        let end = (at + bytes).min(self.len);
        let first_whole = at.div_ceil(PAGE_BYTES);
        let mut edge = |from: u64, to: u64| {
            if let Some(page) = self.pages.get_mut(&(from / PAGE_BYTES)).filter(|_| from < to) {
                page[(from % PAGE_BYTES) as usize..][..(to - from) as usize].fill(0);
            }
        };
        edge(at, end.min(first_whole * PAGE_BYTES));
        edge((end / PAGE_BYTES * PAGE_BYTES).max(at), end);
        self.pages.retain(|page, _| *page < first_whole || (*page + 1) * PAGE_BYTES > end);
    }

    pub(super) fn resize(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }
}

/// Cuts a range into (page, offset within it, range of the caller's buffer).
fn pieces(at: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = at + done as u64;
        let within = (from % PAGE_BYTES) as usize;
        let chunk = done..bytes.min(done + PAGE_BYTES as usize - within);
        done = chunk.end;
        (!chunk.is_empty()).then_some((from / PAGE_BYTES, within, chunk))
    })
}
