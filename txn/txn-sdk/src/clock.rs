//! The clocks. The wall's only decides how soon a slow transaction is fenced off and old rows go, never who is right.

use std::time::SystemTime;

use mq_protocol::ids::UnixMillis;
use tokio::time::Instant;

pub(crate) fn now() -> UnixMillis {
    #[cfg(feature = "simulation")]
    if let Some(now) = crate::simulation::time() {
        return now;
    }
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Of the clock that nobody sets.
pub(crate) fn instant() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some(instant) = crate::simulation::instant() {
        return instant;
    }
    Instant::now()
}
