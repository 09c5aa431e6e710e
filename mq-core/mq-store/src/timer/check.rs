//! Reading wheel and log of a stopped store without changing them: every entry of the log that waits has to stand in the
//! chain of its slot, and the wheel has to say so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::UnixMillis;

use super::checkpoint::{self, Left};
use super::entry::{BYTES, TimerEntry};
use super::index::{TimerOptions, with};
use super::log::{self, TimerLog};
use super::wheel::{self, Slot, Wheel};
use crate::backend::{self, Backend};
use crate::error::{AtPath, DiskError};

/// One thing that is wrong, by file and bytes.
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) bytes: Option<Range<u64>>,
    pub(crate) what: String,
    /// Apache may have written it.
    pub(crate) doubt: bool,
}

/// What the log says of a slot.
struct Expected {
    slot: Slot,
    /// After the last entry that the checkpoint counts.
    counted: Option<Slot>,
    /// Some of its entries stood in files that were removed.
    cut: bool,
}

/// `waits`: whether a record waits where the entry says. After an unclean end slots may be emptied, or point further,
/// than the checkpoint counts.
pub(crate) fn check(
    backend: &Arc<dyn Backend>,
    options: &TimerOptions,
    clean: bool,
    mut waits: impl FnMut(&TimerEntry) -> Result<bool, DiskError>,
    mut tell: impl FnMut(Fault),
) -> Result<(), DiskError> {
    let mut fault = |path: &str, bytes, what: String| tell(Fault { path: path.into(), bytes, what, doubt: false });
    let (log_end, read_time) = match checkpoint::read(&**backend)? {
        (Left::Ours(progress, precision_ms), shared) if precision_ms == options.precision_ms => {
            (shared.log_end, progress.read_time)
        }
        (Left::Apaches(_), _) => {
            let what = "it is not what this store wrote last, so timers are not looked at".into();
            tell(Fault { path: checkpoint::PATH.into(), bytes: Some(0..108), what, doubt: true });
            return Ok(());
        }
        (Left::Nothing, _) => {
            // A crash may come between the first wheel and the first checkpoint.
            if clean && backend::open_if_there(&**backend, wheel::PATH).at_path(&**backend, wheel::PATH)?.is_some() {
                fault(checkpoint::PATH, None, "it is missing or empty, and there is a wheel".into());
            }
            return Ok(());
        }
        // Of another precision: a start makes the rest anew.
        (Left::Ours(..), _) => return Ok(()),
    };
    if log_end == 0 {
        return Ok(());
    }
    let Some(mut wheel) = Wheel::open(backend.clone(), options)?.filter(Wheel::is_here) else {
        fault(wheel::PATH, None, "it is missing or of another length".into());
        return Ok(());
    };
    let Some(mut log) = log_as_it_is(backend, options.log_file_bytes, log_end)? else {
        fault(log::DIRECTORY, None, format!("its files are not whole up to {log_end}, where the log ends"));
        return Ok(());
    };
    let mut expected: BTreeMap<UnixMillis, Expected> = BTreeMap::new();
    let (start, mut later, mut failed) = (log.start(), BTreeMap::new(), None);
    log.scan(start, |at, linked| {
        let entry = &linked.entry;
        if entry.slot < read_time || clean && at >= log_end {
            return;
        }
        let before = expected.get(&entry.slot);
        let cut = before.map_or(linked.previous.is_some_and(|previous| previous < start), |before| before.cut);
        // A slot that was fired may begin anew: when the clock went back.
        let before = before.filter(|_| linked.previous.is_some());
        let slot = with(before.map(|before| before.slot), entry, at);
        if at >= log_end {
            // The crash came before the checkpoint, and before or behind the wheel.
            later.insert(at, slot);
            let counted = before.and_then(|before| before.counted);
            expected.insert(entry.slot, Expected { slot, counted, cut });
            return;
        }
        let chained = before.map_or(cut || linked.previous.is_none(), |one| linked.previous == Some(one.slot.last));
        let waiting = waits(entry).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            true
        });
        if !chained || !waiting {
            let what = if waiting { "does not lead to the one before it" } else { "points to no message that waits" };
            let (path, at) = log::place(at, options.log_file_bytes);
            fault(&path, Some(at..at + BYTES as u64), format!("the entry {what}"));
        }
        expected.insert(entry.slot, Expected { slot, counted: Some(slot), cut });
    })?;
    failed.map_or(Ok(()), Err)?;
    if log.end() < log_end {
        let (path, at) = log::place(log.end(), options.log_file_bytes);
        fault(&path, Some(at..at + BYTES as u64), format!("no entry, and the log goes on up to {log_end}"));
    }
    wheel.load(read_time)?;
    let mut found = BTreeMap::new();
    wheel.for_each(|slot| {
        found.insert(slot.time, slot);
    })?;
    for (time, one) in &expected {
        let whole = match found.remove(time) {
            Some(slot) => [one.counted, later.get(&slot.last).copied()].into_iter().flatten().any(|expected| {
                let from_start = (slot.first, slot.count) == (expected.first, expected.count);
                slot.last == expected.last && (from_start || one.cut)
            }),
            None => !clean || one.counted.is_none(),
        };
        if !whole {
            fault(wheel::PATH, Some(wheel.bytes_of(*time)), format!("the slot of {time} is not that of its entries"));
        }
    }
    for time in found.into_keys() {
        fault(wheel::PATH, Some(wheel.bytes_of(time)), format!("the slot of {time} has no entries in the log"));
    }
    Ok(())
}

/// The log, if its files below `end` are there and whole.
fn log_as_it_is(backend: &Arc<dyn Backend>, file_bytes: u64, end: u64) -> Result<Option<TimerLog>, DiskError> {
    let bases = backend::list_bases(&**backend, log::DIRECTORY).at_path(&**backend, log::DIRECTORY)?;
    let mut next = bases.first().copied().unwrap_or(0);
    let mut log = TimerLog::empty(backend.clone(), file_bytes);
    for base in bases {
        // Behind the end a crash may leave anything.
        if base != next || !log.add(base)? {
            break;
        }
        next = base + file_bytes;
    }
    Ok((next >= end && log.has_files()).then_some(log))
}

/// The next start takes all that waits from its topic again.
pub(crate) fn remove_all(backend: &Arc<dyn Backend>) -> Result<(), DiskError> {
    let options = TimerOptions::default();
    // Without the wheel no start believes the log.
    Wheel::empty(backend.clone(), &options).remove()?;
    TimerLog::empty(backend.clone(), options.log_file_bytes).clear()
}
