//! A time that never runs backwards: what a clock loses is added from then on. Due times are kept in it, so that a clock
//! set back by three days delays no check.

use mq_protocol::ids::UnixMillis;

#[derive(Clone, Debug, Default)]
pub(super) struct SteadyTime {
    lost_ms: i64,
    latest: UnixMillis,
}

impl SteadyTime {
    pub(super) fn steady(&mut self, now: UnixMillis) -> UnixMillis {
        self.lost_ms += (self.latest.0 - now.0 - self.lost_ms).max(0);
        self.latest = UnixMillis(now.0 + self.lost_ms);
        self.latest
    }

    pub(super) fn wall(&self, steady: UnixMillis) -> UnixMillis {
        UnixMillis(steady.0 - self.lost_ms)
    }
}
