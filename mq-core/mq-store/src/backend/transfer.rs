//! Whole transfers out of calls that a signal may interrupt and that may move less than they were asked to. Every backend
//! whose calls can do so goes through here.

use std::io::{self, ErrorKind};

/// Repeats a call until no signal comes in between.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

pub(super) fn write_all(
    mut at: u64,
    mut bytes: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = uninterrupted(|| write(at, bytes))?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        at += written as u64;
        bytes = &bytes[written..];
    }
    Ok(())
}

pub(super) fn read_exact(
    mut at: u64,
    mut into: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while !into.is_empty() {
        let found = uninterrupted(|| read(at, into))?;
        if found == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        at += found as u64;
        into = &mut into[found..];
    }
    Ok(())
}
