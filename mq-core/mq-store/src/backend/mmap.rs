//! The crate's only `unsafe`: a file mapped for reading, and what of it is in memory.
#![allow(unsafe_code, reason = "memory-mapped reads; the argument for each block stands beside it")]

use std::fs;
use std::io;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

/// Maps the whole file. Clones and slices of the result share the map and keep it alive.
///
/// The caller promises what the commit log's life guarantees: the file is never made shorter while it is mapped (its
/// full length is allocated before it is mapped, so that reading inside it cannot raise SIGBUS for want of space), and
/// only slices of bytes that will not change any more are looked at: those below the written end.
pub(super) fn map(file: &fs::File) -> io::Result<Bytes> {
    // SAFETY: the map is shared and read-only. Other bytes of the file change (appends are `pwrite`s), but a slice is
    // only handed out below the visible mark, where the log is append-only: no byte under a live slice changes.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

/// Whether all of these bytes are in memory, so that reading them waits for no disk. A moment later they may be gone.
pub(crate) fn is_resident(bytes: &[u8]) -> bool {
    let page = rustix::param::page_size();
    let within = bytes.as_ptr().addr() % page;
    let length = within + bytes.len();
    let mut pages: SmallVec<[u8; 128]> = smallvec![0; length.div_ceil(page)];
    // SAFETY: the kernel reads no memory of `bytes`, whose pages are mapped for as long as the borrow lives, and writes
    // one byte for each of these pages.
    let told =
        unsafe { libc::mincore(bytes.as_ptr().wrapping_sub(within).cast_mut().cast(), length, pages.as_mut_ptr()) };
    told == 0 && pages.iter().all(|page| page & 1 == 1)
}
