//! Places where a test kills the process, by the feature `failpoints` only; nothing is left of them without it.
//!
//! Armed by `FAILPOINTS="store-before-flush=return(kill)"`. `return(kill)` ends the process at the point;
//! `return(power-cut)` first drops every byte above the durable mark, as if power had failed. Counts of the crate `fail`
//! apply: `3*off->return(kill)` spares the first three.
//!
//! | point | where |
//! |---|---|
//! | `store-after-append` | the group is written, neither synced nor answered |
//! | `store-before-flush` | the flusher is about to sync |
//! | `store-after-flush` | synced, the durable mark has moved, nobody was told |
//! | `store-torn-group` | of a group of several records only the first is on disk; both modes do the same |

use crate::append::Appended;
use crate::core::Core;
use crate::segments::Segments;

/// Arms the points that the environment names, of all crates of the process. For the start of a `main`; does nothing
/// without the feature.
pub fn arm_failpoints() {
    points::arm();
}

/// A point of whoever stores through this crate: `return` ends the process there. Does nothing without the feature.
#[inline]
pub fn failpoint(name: &str) {
    points::reach(name);
}

#[cfg(not(feature = "failpoints"))]
mod points {
    use super::{Appended, Core, Segments};

    pub(super) fn arm() {}
    #[inline]
    pub(super) fn reach(_name: &str) {}
    pub(crate) fn hit(_name: &str, _core: &Core) {}
    pub(crate) fn torn_group(_segments: &Segments, _from: u64, _end: u64, _groups: &[Appended]) {}
}

#[cfg(feature = "failpoints")]
mod points {
    use super::{Appended, Core, Segments};

    enum Mode {
        Kill,
        PowerCut,
    }

    pub(super) fn arm() {
        // The points stay armed as long as the scenario lives: as long as the process.
        std::mem::forget(fail::FailScenario::setup());
    }

    pub(super) fn reach(name: &str) {
        if armed(name).is_some() {
            std::process::abort();
        }
    }

    fn armed(name: &str) -> Option<Mode> {
        fail::fail_point!(name, |mode| Some(match mode.as_deref() {
            Some("power-cut") => Mode::PowerCut,
            _ => Mode::Kill,
        }));
        None
    }

    pub(crate) fn hit(name: &str, core: &Core) {
        match armed(name) {
            None => return,
            Some(Mode::Kill) => {}
            Some(Mode::PowerCut) => core.cut_power(),
        }
        std::process::abort();
    }

    /// Called under the append lock, so that nothing follows in the log.
    pub(crate) fn torn_group(segments: &Segments, from: u64, end: u64, groups: &[Appended]) {
        let Some(group) = groups.iter().find(|group| group.records.len() > 1) else { return };
        if armed("store-torn-group").is_some() {
            let second = group.records[1].0.0;
            segments.zero(second, end).expect("the failpoint can cut the log");
            segments.sync(from, end).expect("the failpoint can sync the log");
            std::process::abort();
        }
    }
}

pub(crate) use points::{hit, torn_group};
