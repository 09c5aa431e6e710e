//! What the coordinator knows of a half, as the answers of 7001 and 7002 say it.

use mq_protocol::body::{QuarantinedRecord, TxnHalf, TxnState};
use mq_protocol::message_id::offset_id;
use txn_coordinator::{Outcome, ParkedHalf, ParkedNow, PendingHalf, QuarantinedHalf};

use crate::broker::Broker;

fn state(outcome: Outcome) -> TxnState {
    match outcome {
        Outcome::Committed => TxnState::Committed,
        Outcome::RolledBack => TxnState::RolledBack,
        Outcome::Parked => TxnState::Parked,
    }
}

pub(super) fn row(broker: &Broker, half: PendingHalf, outcome: Option<Outcome>) -> TxnHalf {
    TxnHalf {
        half: half.half.0,
        state: outcome.or(half.decided).map_or(TxnState::Open, state),
        transaction_id: half.transaction_id,
        shared_id: half.shared_id,
        part: half.part.number.into(),
        parts: half.part.of.into(),
        group: half.group,
        topic: half.topic,
        queue_id: half.queue_id.0,
        keys: half.keys,
        client: half.client.map(|client| client.to_string()),
        born_at: half.born_at.0,
        stored_at: half.stored_at.0,
        checks: half.checks,
        max_checks: (half.max_checks > 0).then_some(half.max_checks),
        unasked: half.unasked,
        next_check_at: half.next_check_at.map(|at| at.0),
        reason: None,
        resumed_as: None,
        offset_id: Some(offset_id(broker.store_host, half.log_offset)),
    }
}

pub(super) fn parked_row(broker: &Broker, half: ParkedHalf) -> TxnHalf {
    let (state, resumed_as) = match half.now {
        ParkedNow::Parked => (TxnState::Parked, None),
        ParkedNow::OpenAgain(half) => (TxnState::Resumed, Some(half.0)),
        ParkedNow::Ended(outcome) => (state(outcome), None),
    };
    TxnHalf {
        half: half.offset.0,
        state,
        transaction_id: half.transaction_id,
        shared_id: half.shared_id,
        part: half.part.number.into(),
        parts: half.part.of.into(),
        group: half.group,
        topic: half.topic,
        queue_id: half.queue_id.0,
        keys: half.keys,
        client: None,
        born_at: half.born_at.0,
        stored_at: half.parked_at.0,
        checks: half.checks,
        max_checks: None,
        unasked: 0,
        next_check_at: None,
        reason: half.reason,
        resumed_as,
        offset_id: Some(offset_id(broker.store_host, half.log_offset)),
    }
}

pub(super) fn put_aside(bad: QuarantinedHalf) -> QuarantinedRecord {
    let QuarantinedHalf { half, log_offset, reason, at } = bad;
    QuarantinedRecord { half: half.0, log_offset: log_offset.map(|at| at.0), reason, at: at.0 }
}
