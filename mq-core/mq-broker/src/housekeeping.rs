//! What the broker does by the clock for its tables: drops silent clients and stale locks, journals and saves offsets,
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

/// What a kill may take back of committed offsets, beside the time of a save of their table that it interrupts.
const JOURNAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut scan = interval(SCAN);
    let mut save = interval(broker.config.flush_offsets_interval.max(Duration::from_millis(10)));
    save.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut journal = interval(JOURNAL);
    journal.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            _ = journal.tick() => {
                if broker.offsets.has_news() {
                    write_journal(&broker).await;
                }
            }
            _ = save.tick() => save_offsets(&broker).await,
            () = stop.cancelled() => return,
        }
    }
}

async fn write_journal(broker: &Arc<Broker>) {
    let journalling = broker.clone();
    let too_long = tokio::task::spawn_blocking(move || journalling.offsets.write_journal()).await;
    if too_long.unwrap_or(false) {
        save_offsets(broker).await;
    }
}

async fn save_offsets(broker: &Arc<Broker>) {
    let broker = broker.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || broker.save_offsets()).await {
        error!(%error, "consumer offsets are not saved; trying again");
    }
}
