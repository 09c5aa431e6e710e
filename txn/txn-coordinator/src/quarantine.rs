//! Records of the half topic that cannot be asked about or ended: named for an operator, and in nobody's way.

use std::collections::{BTreeMap, BTreeSet};

use mq_protocol::ids::{LogOffset, UnixMillis};

use crate::types::HalfOffset;

/// So many are named one by one; the others are counted.
const MAX_NAMED: usize = 1_000;
/// So many of the others are known, so that none is counted twice.
const MAX_KNOWN: usize = 100_000;

/// A half message that has no outcome and never gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedHalf {
    pub half: HalfOffset,
    /// Where it lies, if that is known.
    pub log_offset: Option<LogOffset>,
    pub reason: String,
    /// When it was found.
    pub at: UnixMillis,
}

#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    named: BTreeMap<HalfOffset, QuarantinedHalf>,
    others: BTreeSet<HalfOffset>,
}

impl Quarantine {
    /// False: it was there already.
    pub(crate) fn add(&mut self, bad: QuarantinedHalf) -> bool {
        if self.named.contains_key(&bad.half) || self.others.contains(&bad.half) {
            return false;
        }
        if self.named.len() < MAX_NAMED {
            let QuarantinedHalf { half, log_offset, reason, .. } = &bad;
            tracing::error!(
                half = half.0,
                ?log_offset,
                reason,
                "a record of the half topic is put aside; the others go on"
            );
            self.named.insert(bad.half, bad);
        } else if self.others.len() < MAX_KNOWN {
            self.others.insert(bad.half);
        }
        true
    }

    /// On disk; a hundred thousand or more are told as that.
    pub(crate) fn count(&self) -> u64 {
        (self.named.len() + self.others.len()) as u64
    }

    pub(crate) fn named(&self) -> Vec<QuarantinedHalf> {
        self.named.values().cloned().collect()
    }

    /// They are no longer on disk.
    pub(crate) fn forget_below(&mut self, first: HalfOffset) {
        self.named = self.named.split_off(&first);
        self.others = self.others.split_off(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_record_counts_once_for_as_long_as_it_is_on_disk() {
        let mut quarantine = Quarantine::default();
        let bad = |half| QuarantinedHalf {
            half: HalfOffset(half),
            log_offset: None,
            reason: "bad".into(),
            at: UnixMillis(0),
        };
        for half in (0..1_500).chain(0..1_500) {
            quarantine.add(bad(half));
        }
        assert_eq!((quarantine.count(), quarantine.named().len()), (1_500, MAX_NAMED));
        quarantine.forget_below(HalfOffset(1_200));
        assert_eq!((quarantine.count(), quarantine.named().len()), (300, 0));
    }
}
