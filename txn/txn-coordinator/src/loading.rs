//! After a start: halves without a verdict are read a few at a time while the broker serves already. Until then what
//! asks about one of them reads it first.

use std::collections::HashMap;

use mq_protocol::ids::UnixMillis;
use mq_protocol::record::StoredMessage;
use mq_store::ReadError;

use crate::driver::{Inner, State};
use crate::engine::Count;
use crate::recovery::half_at;
use crate::types::HalfOffset;

/// Halves that are told under one lock.
const BATCH: usize = 512;

/// Halves below `end` that the verdict file covers and has no verdict for.
#[derive(Debug)]
pub(crate) struct Loading {
    /// All below are read.
    pub(crate) next: HalfOffset,
    pub(crate) end: HalfOffset,
    /// Halves that are not read yet.
    pub(crate) left: usize,
    /// How often they were asked about.
    pub(crate) counts: HashMap<HalfOffset, Count>,
}

impl Loading {
    /// Some halves without a verdict, and where to go on.
    fn batch(&self, state: &State) -> (Vec<HalfOffset>, HalfOffset) {
        let (mut halves, mut next) = (Vec::with_capacity(BATCH), self.next);
        while halves.len() < BATCH && next < self.end {
            next = state.engine.verdicts().next_without(next, self.end);
            if next < self.end {
                halves.push(next);
                next.0 += 1;
            }
        }
        (halves, next)
    }
}

impl Inner {
    /// Reads some more. False: there are no more.
    pub(crate) fn load_some(&self) -> Result<bool, ReadError> {
        let Some((halves, next)) = ({
            let state = self.state.lock();
            state.loading.as_ref().map(|loading| loading.batch(&state))
        }) else {
            return Ok(false);
        };
        let mut read = Vec::with_capacity(halves.len());
        for half in halves {
            match half_at(&self.store, half) {
                Err(error @ ReadError::Disk(_)) => return Err(error),
                found => read.push((half, found)),
            }
        }
        let (now, mut state) = (self.clock.now(), self.state.lock());
        for (half, found) in read {
            state.load(half, found, now);
        }
        let Some(loading) = &mut state.loading else { return Ok(false) };
        loading.next = loading.next.max(next);
        if loading.next < loading.end {
            return Ok(true);
        }
        state.loaded();
        Ok(false)
    }
}

impl State {
    fn load(&mut self, half: HalfOffset, found: Result<Option<StoredMessage>, ReadError>, now: UnixMillis) {
        if self.engine.is_open(half) || self.engine.outcome(half).is_some() {
            return;
        }
        match found {
            Ok(Some(record)) => _ = self.learn(&record, now),
            Ok(None) => self.is_read(half),
            Err(error) => {
                self.is_read(half);
                self.put_aside(half, error.damaged_at(), error.to_string(), now);
            }
        }
    }

    /// One half less to read, if it is one of those.
    pub(crate) fn is_read(&mut self, half: HalfOffset) {
        if let Some(loading) = self.loading.as_mut().filter(|loading| (loading.next..loading.end).contains(&half)) {
            loading.left = loading.left.saturating_sub(1);
        }
    }

    pub(crate) fn loaded(&mut self) {
        self.loading = None;
        let settled_max = self.engine.rules().settled_max;
        self.engine.remember(settled_max);
    }

    /// Halves without a verdict, with those that were not read yet.
    pub(crate) fn pending(&self) -> usize {
        self.engine.pending() + self.unread()
    }

    pub(crate) fn unread(&self) -> usize {
        self.loading.as_ref().map_or(0, |loading| loading.left)
    }
}
