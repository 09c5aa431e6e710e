//! Asking producers what became of their half messages.
//!
//! When to ask is the coordinator's matter; this finds somebody who can know, and reports whether the question was
//! handed to a live connection.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::QueueId;
use mq_protocol::topic;
use mq_store::ReadError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use txn_coordinator::{Check, CheckResult, ClientId};

use crate::broker::Broker;
use crate::clients::SenderTurn;

/// How often the clock is looked at while a half waits: a bound for how late a check is when the clock jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rest after a round that did nothing of what is due (the disk cannot be read, say).
const PAUSE: Duration = Duration::from_millis(200);
/// Rest between two rounds when more is due than one takes: a million halves are asked about within half a minute, and the
/// sends of producers come in between.
const BREATH: Duration = Duration::from_millis(10);
/// The same while clients have more to answer than they can: what waits for them is read again and again.
const LONG_BREATH: Duration = Duration::from_millis(30);

/// Checks that only the sender gets while it is connected; then every other one goes to somebody else of its group.
const SENDER_ALONE: u32 = 3;

/// Bounds how much of the log a restart reads for its transactions.
const SAVE_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    tokio::join!(load(&broker, &stop), ask_when_due(&broker, &stop), save_now_and_then(&broker, &stop));
}

/// Halves that the last run has left pending are read while the broker serves already.
async fn load(broker: &Arc<Broker>, stop: &CancellationToken) {
    loop {
        let (on_lane, stopped) = (broker.clone(), stop.clone());
        let read = tokio::task::spawn_blocking(move || {
            while !stopped.is_cancelled() && on_lane.transactions.load_some()? {
                on_lane.half_learned.notify_one();
            }
            Ok(())
        });
        match read.await {
            Ok(Ok(())) => return broker.half_learned.notify_one(),
            Ok(Err::<(), ReadError>(error)) => warn!(%error, "pending half messages wait to be read"),
            Err(error) => return warn!(%error, "reading the pending half messages ended early"),
        }
        if pause(SAVE_EVERY, stop).await.is_err() {
            return;
        }
    }
}

async fn save_now_and_then(broker: &Arc<Broker>, stop: &CancellationToken) {
    while pause(SAVE_EVERY, stop).await.is_ok() {
        let broker = broker.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || save(&broker)).await {
            warn!(%error, "saving the verdicts ended early");
        }
    }
}

/// Verdicts, for our next start; and how far halves and OP records are settled, for an Apache broker that opens this
/// directory next.
pub(crate) fn save(broker: &Broker) {
    mq_store::failpoint("verdicts-before-save");
    if let Err(error) = broker.transactions.checkpoint() {
        warn!(%error, "the verdicts are not saved; a restart reads more of the log");
    }
    let progress = broker.transactions.progress();
    for (topic, offset) in [(topic::HALF, progress.half), (topic::OP_HALF, progress.op)] {
        if broker.offsets.get(topic::TRANSACTION_GROUP, topic, QueueId(0)) != Some(offset) {
            broker.offsets.reset(topic::TRANSACTION_GROUP, topic, QueueId(0), offset);
        }
    }
    mq_store::failpoint("verdicts-saved");
}

async fn ask_when_due(broker: &Arc<Broker>, stop: &CancellationToken) {
    loop {
        let wait = broker.transactions.next_due().map(|due| due.since(broker.clock.now()).min(LOOK_EVERY));
        match wait {
            Some(Duration::ZERO) => {
                let rest = round(broker).await;
                let is_behind = broker.transactions.next_due().is_some_and(|due| due <= broker.clock.now());
                if is_behind && pause(rest, stop).await.is_err() {
                    return;
                }
            }
            Some(wait) => {
                if pause(wait, stop).await.is_err() {
                    return;
                }
            }
            None => tokio::select! {
                () = broker.half_learned.notified() => {}
                () = stop.cancelled() => return,
            },
        }
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) -> Result<(), ()> {
    tokio::time::timeout(wait, stop.cancelled()).await.map_or(Ok(()), |()| Err(()))
}

/// Halves may be long out of memory, so they are read off the runtime's threads. Says how long to rest behind it.
async fn round(broker: &Arc<Broker>) -> Duration {
    mq_store::failpoint("check-due");
    let on_lane = broker.clone();
    let checks = tokio::task::spawn_blocking(move || on_lane.transactions.tick(on_lane.clock.now())).await;
    match checks {
        Ok(checks) => {
            mq_store::failpoint("check-scanned");
            let asked = checks.iter().map(|check| {
                let (result, by) = ask(broker, check);
                (check.half, result, by)
            });
            let asked: Vec<_> = asked.collect();
            mq_store::failpoint("check-sent");
            let held_back = asked.iter().any(|(_, result, _)| *result == CheckResult::HeldBack);
            let rest = if held_back { LONG_BREATH } else { BREATH };
            let rest = if asked.is_empty() { PAUSE } else { rest };
            broker.transactions.check_results(asked);
            rest
        }
        Err(error) => {
            warn!(%error, "a round of checkbacks failed");
            PAUSE
        }
    }
}

/// The client that sent the half first, then those of its group that declared the topic, then any of the group. Says who
/// was asked. A sender that did not know several times has company: it may have lost its database.
fn ask(broker: &Broker, check: &Check) -> (CheckResult, Option<ClientId>) {
    let sender = check.prefer_client.as_deref();
    let others_first = check.attempt > SENDER_ALONE && !check.attempt.is_multiple_of(2);
    let turn = if others_first { SenderTurn::Last } else { SenderTurn::First };
    let candidates = broker.clients.producers_to_ask(&check.producer_group, &check.topic, sender, turn);
    let mut held_back = false;
    for (client, connection) in candidates {
        match connection.check(check.request.clone()) {
            Ok(true) => return (CheckResult::Delivered, Some(format!("{client} ({})", connection.peer()).into())),
            Ok(false) => held_back = true,
            Err(_) => {}
        }
    }
    if held_back {
        return (CheckResult::HeldBack, None);
    }
    debug!(group = %check.producer_group, half = %check.half, "nobody of the producer group is connected");
    (CheckResult::NobodyToAsk, None)
}
