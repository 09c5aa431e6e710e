//! The crate's only `unsafe`: a file mapped for reading.
#![allow(unsafe_code, reason = "memory-mapped reads; the argument for each block stands beside it")]

use std::fs;
use std::io;

use bytes::Bytes;

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
