//! Resuming many given-up transactions: a page of the parked list in one request, each of them as if it were named alone,
//! with audit lines of its own. Whoever asks again, after a crash too, finds fewer that wait: none is resumed twice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mq_protocol::body::{TxnDeed, TxnQuery, TxnRefused, TxnResumeAll, TxnResumedAll};
use mq_protocol::codes::response;
use mq_protocol::ids::QueueOffset;
use txn_coordinator::{ParkedHalf, ParkedNow};

use super::{Line, Operator, parked, reopen, shown_parked, signed, unaudited};
use crate::broker::Broker;
use crate::handlers::error::Refusal;

/// Clients wait three seconds for an answer.
const MOST_TIME: Duration = Duration::from_secs(1);

pub(super) fn resume_all(broker: &Broker, deed: &TxnResumeAll, from: SocketAddr) -> Result<TxnResumedAll, Refusal> {
    let TxnResumeAll { group, topic, from: first, limit, confirm, by } = deed;
    let query = TxnQuery { parked: true, from: *first, limit: *limit, group: group.clone(), topic: topic.clone() };
    let page = parked(broker, &query)?;
    let waiting: Vec<ParkedHalf> = page.rows.into_iter().filter(|half| half.now == ParkedNow::Parked).collect();
    let count = waiting.len();
    if confirm.trim().parse() != Ok(count) {
        let wait = if count == 1 { "half message waits" } else { "half messages wait" };
        let reason = format!("{count} given-up {wait} there, not {confirm:?}: nothing was done");
        let (group, outcome) = (group.as_deref().unwrap_or_default(), format!("refused: {reason}"));
        let line = Line {
            at: broker.clock.now().0,
            by: &signed(by, from),
            deed: "resume all",
            half: None,
            parked: None,
            group,
            transaction: "",
            outcome: &outcome,
        };
        broker.audit.write(&line).map_err(unaudited)?;
        return Err(Refusal::new(response::INVALID_PARAMETER, reason));
    }
    let (started, mut answer) = (Instant::now(), TxnResumedAll { next: page.next, ..TxnResumedAll::default() });
    for half in waiting {
        if started.elapsed() > MOST_TIME {
            answer.next = Some(half.copy.0);
            break;
        }
        match one(broker, half.copy, by, from) {
            Ok(halves) => answer.resumed += halves as u64,
            Err(refusal) if is_its_own(&refusal) => {
                answer.refused.push(TxnRefused { parked: half.copy.0, reason: refusal.remark.into_owned() });
            }
            Err(refusal) => {
                let reason = format!("{}, then not p{}: {}", said(&answer), half.copy, refusal.remark);
                return Err(Refusal::new(refusal.code, reason));
            }
        }
    }
    answer.done = said(&answer);
    Ok(answer)
}

/// How many halves it made: none, if the messages that it shares a verdict with took it along.
fn one(broker: &Broker, copy: QueueOffset, by: &str, from: SocketAddr) -> Result<usize, Refusal> {
    let half = shown_parked(broker, copy)?.0;
    if half.now != ParkedNow::Parked {
        return Ok(0);
    }
    let confirm = half.subject.transaction_id.clone();
    let deed = TxnDeed { parked: Some(copy.0), confirm, by: by.to_owned(), ..TxnDeed::default() };
    Ok(reopen(broker, &Operator::of(&deed, from)?, copy, &half.subject)?.1)
}

/// What is wrong with this one, and not with the broker: the others may do.
fn is_its_own(refusal: &Refusal) -> bool {
    [response::ILLEGAL_OPERATION, response::QUERY_NOT_FOUND, response::SYSTEM_ERROR].contains(&refusal.code)
}

fn said(so_far: &TxnResumedAll) -> String {
    let refused = match so_far.refused.len() {
        0 => String::new(),
        1 => "; 1 stays as it was".to_owned(),
        refused => format!("; {refused} stay as they were"),
    };
    match so_far.resumed {
        1 => format!("1 half message is asked about again{refused}"),
        resumed => format!("{resumed} half messages are asked about again{refused}"),
    }
}
