//! The engine's time: it begins at what the wall clock says and then goes on as time passes, whoever sets that clock. A leap of
//! three days makes no half due, and none waits longer because the clock was set back.

use std::fmt;
use std::sync::Arc;

use mq_protocol::ids::UnixMillis;
use mq_store::Clock;

pub(crate) struct SteadyTime {
    clock: Arc<dyn Clock>,
    /// What the wall clock said when `uptime` was zero, as of the start.
    origin: UnixMillis,
    /// What the wall clock said last, and what time it was then.
    wall: UnixMillis,
    steady: UnixMillis,
}

impl SteadyTime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let (wall, uptime) = (clock.now(), clock.uptime());
        let origin = UnixMillis(wall.0 - UnixMillis(0).plus(uptime).0);
        Self { clock, origin, wall, steady: wall }
    }

    /// What time it is while the wall clock says `now`. As long as that says the same, nobody is asked.
    pub(crate) fn at(&mut self, now: UnixMillis) -> UnixMillis {
        if now != self.wall {
            (self.wall, self.steady) = (now, self.origin.plus(self.clock.uptime()));
        }
        self.steady
    }

    /// The steady time of a moment that the wall clock called `then`: as long ago as it is by that clock.
    pub(crate) fn of(&self, then: UnixMillis) -> UnixMillis {
        UnixMillis(then.0 + self.steady.0 - self.wall.0)
    }

    /// What the wall clock will say then, if nobody sets it.
    pub(crate) fn wall(&self, steady: UnixMillis) -> UnixMillis {
        UnixMillis(steady.0 + self.wall.0 - self.steady.0)
    }
}

impl fmt::Debug for SteadyTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteadyTime").field("wall", &self.wall).field("steady", &self.steady).finish_non_exhaustive()
    }
}
