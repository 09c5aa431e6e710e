//! What the broker does by the clock for its tables: drops silent clients and stale locks, saves offsets,
//! samples statistics.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::broker::Broker;

/// How often silent clients are looked for; they have 120 s.
const SCAN: Duration = Duration::from_secs(10);
/// Rates of the last ten seconds need samples that are closer.
const SAMPLE: Duration = Duration::from_secs(1);

pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut scan = interval(SCAN);
    let mut save = interval(broker.config.flush_offsets_interval.max(Duration::from_millis(10)));
    save.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sample = interval(SAMPLE);
    sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = sample.tick() => broker.stats.sample(broker.clock.now()),
            _ = scan.tick() => {
                let now = broker.clock.now();
                broker.locks.expire(now);
                broker.tell(&broker.clients.expire(now));
            }
            _ = save.tick() => {
                let broker = broker.clone();
                let saved = tokio::task::spawn_blocking(move || broker.save_offsets()).await;
                if let Ok(Err(error)) = saved {
                    error!(%error, "consumer offsets are not saved; trying again");
                }
            }
            () = stop.cancelled() => return,
        }
    }
}
