//! Records of the half topic that cannot be asked about or ended: named for an operator, and in nobody's way.

use std::collections::BTreeMap;

use mq_protocol::ids::{LogOffset, UnixMillis};

use crate::types::HalfOffset;

/// So many are named one by one; the others are counted.
const MAX_NAMED: usize = 1_000;

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
    pub(crate) count: u64,
}

impl Quarantine {
    /// False: it was there already.
    pub(crate) fn add(&mut self, bad: QuarantinedHalf) -> bool {
        if self.named.contains_key(&bad.half) {
            return false;
        }
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            let QuarantinedHalf { half, log_offset, reason, .. } = &bad;
            tracing::error!(
                half = half.0,
                ?log_offset,
                reason,
                "a record of the half topic is put aside; the others go on"
            );
            self.named.insert(bad.half, bad);
        }
        true
    }

    pub(crate) fn named(&self) -> Vec<QuarantinedHalf> {
        self.named.values().cloned().collect()
    }

    /// They are no longer on disk.
    pub(crate) fn forget_below(&mut self, first: HalfOffset) {
        self.named = self.named.split_off(&first);
    }
}
