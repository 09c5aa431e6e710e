//! What Apache's broker has no names for.

use std::sync::atomic::Ordering::Relaxed;

use super::{counter, gauge};
use crate::broker::Broker;
use crate::disk_space::DiskSpace;
use crate::metrics::{Family, Kind};

pub(super) fn own(broker: &Broker) -> Vec<Family> {
    let stats = broker.transactions.stats();
    let counts = stats.counters;
    let (end, durable) = (broker.store.end(), broker.store.durable());
    let waiting = broker.instruments.waiting_for_disk.load(Relaxed);
    let on_lane = broker.instruments.on_lane.load(Relaxed);
    let syncs = Family::new(Kind::Histogram, "checkback_log_sync_latency_milliseconds", "Syncs of the commit log");
    let mut families = vec![
        gauge("checkback_pending_halves", "Half messages that wait for their verdict", stats.pending_halves as u64),
        counter("checkback_parked_messages", "Half messages that were given up", counts.parked),
        gauge(
            "checkback_parked_waiting",
            "Half messages that were given up and wait for an operator",
            stats.waiting_copies as u64,
        ),
        counter("checkback_checks_sent", "Questions about half messages that reached a client", counts.checks_sent),
        counter(
            "checkback_nobody_to_ask",
            "Questions about half messages that nobody was there for",
            counts.nobody_to_ask,
        ),
        counter(
            "checkback_held_back_checks",
            "Questions about half messages that waited for a client with too many",
            counts.held_back,
        ),
        counter("checkback_contrary_verdicts", "Verdicts that contradicted the first one", counts.contrary),
        counter("checkback_repeated_verdicts", "Verdicts that said the same again", counts.repeated),
        counter("checkback_mismatched_verdicts", "Verdicts that matched no half message", counts.mismatched),
        counter("checkback_lost_halves", "Half messages that vanished from the disk without a verdict", counts.gone),
        counter("checkback_incomplete_commits", "Commits of transactions that lacked a message", counts.incomplete),
        counter("checkback_quarantined_halves", "Records of the half topic that can never be ended", stats.quarantined),
        gauge("checkback_unread_halves", "Pending half messages that a start has yet to read", stats.unread as u64),
        gauge("checkback_durable_lag_bytes", "Bytes of the log that are not on disk yet", end.0 - durable.0.min(end.0)),
        syncs.with(Vec::new(), broker.instruments.log_syncs.distribution()),
        gauge("checkback_requests_waiting_for_disk", "Requests whose answers wait for the disk", waiting as u64),
        gauge("checkback_blocking_requests", "Requests that may have to read the disk, under way", on_lane as u64),
        gauge(
            "checkback_popped_messages",
            "Messages that pops gave out and nobody acknowledged",
            broker.pops.in_flight_in_total() as u64,
        ),
    ];
    if let Ok(space) = DiskSpace::of(&broker.config.store_root) {
        families.push(gauge("checkback_disk_free_bytes", "Free bytes of the store's file system", space.free_bytes));
        families.push(gauge("checkback_disk_size_bytes", "Bytes of the store's file system", space.total_bytes));
    }
    families
}
