//! What the coordinator knows of a half, as the answers of 7001 and 7002 say it.

use mq_protocol::body::{QuarantinedRecord, TxnEvent, TxnHalf, TxnState};
use mq_protocol::message_id::offset_id;
use txn_coordinator::{Outcome, ParkedHalf, ParkedNow, PendingHalf, QuarantinedHalf, Subject, Told};

use crate::broker::Broker;

fn state(outcome: Outcome) -> TxnState {
    match outcome {
        Outcome::Committed => TxnState::Committed,
        Outcome::RolledBack => TxnState::RolledBack,
        Outcome::Parked => TxnState::Parked,
    }
}

/// What a half and its copy have in common.
fn subject(broker: &Broker, of: Subject) -> TxnHalf {
    TxnHalf {
        transaction_id: of.transaction_id,
        shared_id: of.shared_id,
        part: of.part.number.into(),
        parts: of.part.of.into(),
        group: of.group,
        topic: of.topic,
        queue_id: of.queue_id.0,
        keys: of.keys,
        client: of.client,
        born_host: Some(of.born_host),
        born_at: of.born_at.0,
        stored_at: of.stored_at.0,
        offset_id: Some(offset_id(broker.store_host, of.log_offset)),
        ..TxnHalf::default()
    }
}

pub(super) fn row(broker: &Broker, half: PendingHalf, outcome: Option<Outcome>) -> TxnHalf {
    TxnHalf {
        half: Some(half.half.0),
        state: outcome.or(half.decided).map_or(TxnState::Open, state),
        checks: half.checks,
        max_checks: (half.max_checks > 0).then_some(half.max_checks),
        unasked: half.unasked,
        next_check_at: half.next_check_at.map(|at| at.0),
        ..subject(broker, half.subject)
    }
}

pub(super) fn parked_row(broker: &Broker, half: ParkedHalf) -> TxnHalf {
    let (state, resumed_as) = match half.now {
        ParkedNow::Parked => (TxnState::Parked, None),
        ParkedNow::OpenAgain(half) => (TxnState::Resumed, Some(half.0)),
        ParkedNow::Resumed => (TxnState::Resumed, None),
        ParkedNow::Ended(outcome) => (state(outcome), None),
    };
    TxnHalf {
        half: half.half.map(|half| half.0),
        parked: Some(half.copy.0),
        state,
        checks: Some(half.checks),
        max_checks: Some(half.max_checks),
        reason: half.reason,
        resumed_as,
        ..subject(broker, half.subject)
    }
}

pub(super) fn put_aside(bad: QuarantinedHalf) -> QuarantinedRecord {
    let QuarantinedHalf { half, log_offset, reason, at } = bad;
    QuarantinedRecord { half: half.0, log_offset: log_offset.map(|at| at.0), reason, at: at.0 }
}

pub(super) fn events(told: Vec<Told>) -> Vec<TxnEvent> {
    let event = |Told { at, half, by, what }| TxnEvent { at: at.0, half: half.0, what, by: Some(by) };
    told.into_iter().map(event).collect()
}
