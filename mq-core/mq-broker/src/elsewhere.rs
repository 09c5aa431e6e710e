//! Requests of one connection that are worked on elsewhere: on the blocking lane, or by another client that has to answer
//! first. While they take up their room the socket is not read, and the peer feels it through TCP.

use crate::limits::{MAX_ASKED, MAX_BLOCKING_PER_CONNECTION, MAX_ELSEWHERE_BYTES};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// On the blocking lane.
    Lane,
    /// With another client.
    Client,
}

#[derive(Debug, Default)]
pub(crate) struct Away {
    on_lane: usize,
    with_clients: usize,
    /// Of their bodies.
    bytes: usize,
}

impl Away {
    pub(crate) fn goes(&mut self, to: Elsewhere, bytes: usize) {
        *self.count(to) += 1;
        self.bytes += bytes;
    }

    pub(crate) fn comes_back(&mut self, from: Elsewhere, bytes: usize) {
        *self.count(from) -= 1;
        self.bytes -= bytes;
    }

    pub(crate) fn has_room(&self) -> bool {
        self.lane_has_room() && self.with_clients < MAX_ASKED && self.bytes < MAX_ELSEWHERE_BYTES
    }

    pub(crate) fn lane_has_room(&self) -> bool {
        self.on_lane < MAX_BLOCKING_PER_CONNECTION
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.on_lane + self.with_clients == 0
    }

    fn count(&mut self, of: Elsewhere) -> &mut usize {
        match of {
            Elsewhere::Lane => &mut self.on_lane,
            Elsewhere::Client => &mut self.with_clients,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_away_are_limited_by_number_and_by_bytes() {
        for (to, most, bytes) in [
            (Elsewhere::Lane, MAX_BLOCKING_PER_CONNECTION, 0),
            (Elsewhere::Client, MAX_ASKED, 0),
            (Elsewhere::Client, 4, MAX_ELSEWHERE_BYTES / 4),
            (Elsewhere::Client, 1, MAX_ELSEWHERE_BYTES * 3),
        ] {
            let mut away = Away::default();
            for nth in 0..most {
                assert!(away.has_room(), "{nth} of {most} to {to:?}");
                away.goes(to, bytes);
            }
            assert!(!away.has_room() && !away.is_empty(), "{most} to {to:?}");
            away.comes_back(to, bytes);
            assert!(away.has_room(), "one of {most} came back from {to:?}");
            (1..most).for_each(|_| away.comes_back(to, bytes));
            assert!(away.is_empty());
        }
    }
}
