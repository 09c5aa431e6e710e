//! What operators ask and do about transactions: 7001 to 7005 and 7007, JSON in and out. The wire and the HTTP port translate to
//! this; what a verdict leads to is the coordinator's. No deed is tried before its audit line is on disk.

mod bulk;
mod rows;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::body::{self, TxnDeed, TxnDone, TxnName, TxnPage, TxnQuery, TxnShown, TxnVerdict};
use mq_protocol::codes::{request, response};
use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_store::WaitError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use txn_coordinator::{
    Answer, HalfOffset, Outcome, Page, ParkedError, ParkedHalf, PendingQuery, Shown, Subject, Told, Verdict,
};

use crate::broker::Broker;
use crate::handlers::error::Refusal;
use rows::{events, parked_row, put_aside, row};

/// A disk that takes longer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Characters of an operator's name that are kept.
const MAX_NAME_CHARS: usize = 64;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Of [`mq_protocol::codes::response`].
    pub code: i32,
    pub reason: String,
}

impl Broker {
    /// Does one of the requests 7001 to 7005 and 7007. Reads the disk, and may wait for it.
    pub fn operate(&self, code: i32, body: &[u8], from: SocketAddr) -> Result<Bytes, Refused> {
        operate(self, code, body, from)
            .map_err(|refusal| Refused { code: refusal.code, reason: refusal.remark.into_owned() })
    }
}

fn operate(broker: &Broker, code: i32, body: &[u8], from: SocketAddr) -> Result<Bytes, Refusal> {
    match code {
        request::TXN_LIST => Ok(body::to_json(&list(broker, read(body)?)?)),
        request::TXN_SHOW => Ok(body::to_json(&show(broker, &read(body)?)?)),
        request::TXN_CHECK => Ok(body::to_json(&check(broker, &Operator::of(&read(body)?, from)?)?)),
        request::TXN_RESOLVE => Ok(body::to_json(&resolve(broker, &Operator::of(&read(body)?, from)?)?)),
        request::TXN_RESUME => Ok(body::to_json(&resume(broker, &Operator::of(&read(body)?, from)?)?)),
        request::TXN_RESUME_ALL => Ok(body::to_json(&bulk::resume_all(broker, &read(body)?, from)?)),
        code => Err(Refusal::unsupported(code)),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    Ok(body::from_json("question about transactions", body)?)
}

fn list(broker: &Broker, query: TxnQuery) -> Result<TxnPage, Refusal> {
    let limit = query.limit.min(TxnQuery::MOST);
    if query.parked {
        let page = parked(broker, &query)?;
        let rows = page.rows.into_iter().map(|half| parked_row(broker, half)).collect();
        return Ok(TxnPage { rows, next: page.next, quarantined: Vec::new() });
    }
    let quarantined = if query.from == 0 { broker.transactions.quarantined() } else { Vec::new() };
    let TxnQuery { from, group, topic, .. } = query;
    let page = broker.transactions.pending(&PendingQuery { from: HalfOffset(from), limit, group, topic });
    let rows = page.rows.into_iter().map(|half| row(broker, half, None)).collect();
    Ok(TxnPage { rows, next: page.next, quarantined: quarantined.into_iter().map(put_aside).collect() })
}

/// Of so many copies of given-up halves those that the filter wants.
fn parked(broker: &Broker, query: &TxnQuery) -> Result<Page<ParkedHalf>, Refusal> {
    let mut page = broker.transactions.parked(QueueOffset(query.from), query.limit.min(TxnQuery::MOST))?;
    page.rows.retain(|half| {
        query.group.as_ref().is_none_or(|group| *group == half.subject.group)
            && query.topic.as_ref().is_none_or(|topic| *topic == half.subject.topic)
    });
    Ok(page)
}

fn show(broker: &Broker, name: &TxnName) -> Result<TxnShown, Refusal> {
    let named = match (name.half, name.parked, &name.group, &name.transaction_id) {
        (None, None, Some(group), Some(id)) => {
            let halves = broker.transactions.find(group, id);
            Named::Half(*halves.first().ok_or_else(|| {
                Refusal::new(response::QUERY_NOT_FOUND, format!("group {group} has no open transaction {id}"))
            })?)
        }
        (half, parked, ..) => Named::of(half, parked)?,
    };
    let named = named.given_up(broker)?;
    if let Named::Copy(copy) = named {
        let (row, told) = shown_parked(broker, copy)?;
        let members = row.half.into_iter().map(|half| half.0).collect();
        return Ok(TxnShown { half: parked_row(broker, row), members, history: events(told) });
    }
    let Named::Half(half) = named else { unreachable!("copies are shown above") };
    let Shown { half: shown, outcome, members, history } = shown(broker, half)?;
    Ok(TxnShown {
        half: row(broker, shown, outcome),
        members: members.into_iter().map(|(half, _)| half.0).collect(),
        history: events(history),
    })
}

/// What an operator names.
#[derive(Clone, Copy, Debug)]
enum Named {
    Half(HalfOffset),
    Copy(QueueOffset),
}

impl Named {
    fn of(half: Option<u64>, parked: Option<u64>) -> Result<Self, Refusal> {
        match (half, parked) {
            (Some(half), None) => Ok(Self::Half(HalfOffset(half))),
            (None, Some(copy)) => Ok(Self::Copy(QueueOffset(copy))),
            _ => {
                let reason = "name a half, or a parked copy, or (to be shown) a group and a transactionId";
                Err(Refusal::new(response::INVALID_PARAMETER, reason))
            }
        }
    }

    /// A half that was given up stands for its copy, if that is found.
    fn given_up(self, broker: &Broker) -> Result<Self, Refusal> {
        match self {
            Self::Half(half) if broker.transactions.outcome(half) == Some(Outcome::Parked) => {
                Ok(broker.transactions.copy_of(half)?.map_or(self, Self::Copy))
            }
            named => Ok(named),
        }
    }
}

fn shown(broker: &Broker, half: HalfOffset) -> Result<Shown, Refusal> {
    let none = || Refusal::new(response::QUERY_NOT_FOUND, format!("there is no half message {half} on disk"));
    broker.transactions.show(half)?.ok_or_else(none)
}

fn shown_parked(broker: &Broker, copy: QueueOffset) -> Result<(ParkedHalf, Vec<Told>), Refusal> {
    Ok(broker.transactions.show_parked(copy)?.ok_or(ParkedError::NotThere(copy))?)
}

/// Who does what.
struct Operator<'d> {
    deed: &'d TxnDeed,
    named: Named,
    /// `name (address)`.
    by: String,
}

fn signed(name: &str, from: SocketAddr) -> String {
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(MAX_NAME_CHARS).collect();
    let name = if name.trim().is_empty() { "somebody" } else { name.trim() };
    format!("{name} ({from})")
}

/// A line of the audit file.
#[derive(Serialize)]
struct Line<'l> {
    at: i64,
    by: &'l str,
    deed: &'l str,
    half: Option<u64>,
    parked: Option<u64>,
    group: &'l str,
    transaction: &'l str,
    outcome: &'l str,
}

impl<'d> Operator<'d> {
    fn of(deed: &'d TxnDeed, from: SocketAddr) -> Result<Self, Refusal> {
        Ok(Self { deed, named: Named::of(deed.half, deed.parked)?, by: signed(&deed.by, from) })
    }

    /// The id once more, so that nobody settles another transaction by a slip.
    fn confirmed(&self, Subject { transaction_id: id, shared_id, .. }: &Subject) -> Result<(), Refusal> {
        let confirm = self.deed.confirm.as_str();
        if confirm == id || shared_id.as_ref().is_some_and(|shared| shared == confirm) {
            return Ok(());
        }
        let reason = format!("that half belongs to transaction {id}, not to {confirm:?}: nothing was done");
        Err(Refusal::new(response::INVALID_PARAMETER, reason))
    }

    /// Audits, does it, and audits what came of it.
    fn does<T>(
        &self,
        broker: &Broker,
        (deed, of): (&str, &Subject),
        act: impl FnOnce() -> Result<T, Refusal>,
        said: impl FnOnce(&T) -> String,
    ) -> Result<(TxnDone, T), Refusal> {
        let audit = |outcome: &str| {
            let (at, TxnDeed { half, parked, .. }) = (broker.clock.now().0, self.deed);
            let (group, transaction) = (&*of.group, &*of.transaction_id);
            broker.audit.write(&Line {
                at,
                by: &self.by,
                deed,
                half: *half,
                parked: *parked,
                group,
                transaction,
                outcome,
            })
        };
        audit("asked for").map_err(unaudited)?;
        let done = act();
        let outcome = match &done {
            Ok(done) => said(done),
            Err(refusal) => format!("refused: {}", refusal.remark),
        };
        if let Err(error) = audit(&outcome) {
            tracing::error!(%error, by = self.by, deed, named = ?self.named, outcome, "what came of a deed is not audited");
        }
        done.map(|came_of_it| (TxnDone { done: outcome }, came_of_it))
    }
}

fn unaudited(error: io::Error) -> Refusal {
    let reason = format!("nothing was done: the audit line cannot be written to checkback/audit.jsonl: {error}");
    Refusal::new(response::SERVICE_NOT_AVAILABLE, reason)
}

fn check(broker: &Broker, operator: &Operator<'_>) -> Result<TxnDone, Refusal> {
    let Named::Half(half) = operator.named else {
        let reason = "a half that was given up is not asked about: resume it";
        return Err(Refusal::new(response::ILLEGAL_OPERATION, reason));
    };
    let pending = shown(broker, half)?.half;
    let (found, is_open) = (pending.subject, pending.next_check_at.is_some());
    let act = || {
        let group = &found.group;
        if is_open && broker.clients.producers(group).is_empty() {
            let reason =
                format!("no client of producer group {group} is connected to this broker: nobody can be asked");
            return Err(Refusal::new(response::CONSUMER_NOT_ONLINE, reason));
        }
        broker
            .transactions
            .check_now(half, &operator.by)
            .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
        broker.half_learned.notify_one();
        Ok(())
    };
    let said = |(): &()| format!("half {half} is asked about now; `show` tells what comes of it");
    operator.does(broker, ("check", &found), act, said).map(|(done, ())| done)
}

fn resolve(broker: &Broker, operator: &Operator<'_>) -> Result<TxnDone, Refusal> {
    let named = operator.named.given_up(broker)?;
    let found = match named {
        Named::Half(half) => shown(broker, half)?.half.subject,
        Named::Copy(copy) => shown_parked(broker, copy)?.0.subject,
    };
    let (verdict, deed) = match operator.deed.verdict {
        Some(TxnVerdict::Commit) => (Verdict::Commit, "resolve commit"),
        Some(TxnVerdict::Rollback) => (Verdict::Rollback, "resolve rollback"),
        None => return Err(Refusal::new(response::INVALID_PARAMETER, "the verdict is missing: commit or rollback")),
    };
    let act = || {
        operator.confirmed(&found)?;
        let ended = match named {
            Named::Half(half) => broker.transactions.resolve(half, verdict, &operator.by)?,
            Named::Copy(copy) => broker.transactions.resolve_parked(copy, verdict, &operator.by)?,
        };
        wait_durable(broker, ended.durable_at)?;
        Ok(ended.answer)
    };
    let id = &found.transaction_id;
    let said = |answer: &Answer| match answer {
        Answer::Now(outcome) => format!("transaction {id} is {outcome}"),
        Answer::Before(outcome) => format!("transaction {id} was {outcome} before; nothing changed"),
        Answer::Unknown => format!("transaction {id} is as it was"),
    };
    operator.does(broker, (deed, &found), act, said).map(|(done, _)| done)
}

fn resume(broker: &Broker, operator: &Operator<'_>) -> Result<TxnDone, Refusal> {
    let copy = match operator.named.given_up(broker)? {
        Named::Copy(copy) => copy,
        Named::Half(half) => {
            let reason = format!("half {half} has no copy among the given-up ones; list those");
            return Err(Refusal::new(response::QUERY_NOT_FOUND, reason));
        }
    };
    let found = shown_parked(broker, copy)?.0.subject;
    reopen(broker, operator, copy, &found).map(|(done, _)| done)
}

/// For a request that names the copy and no transaction: `mqadmin`'s.
pub(crate) fn resume_unconfirmed(broker: &Broker, copy: QueueOffset, from: SocketAddr) -> Result<(), Refusal> {
    let found = shown_parked(broker, copy)?.0.subject;
    let confirm = found.transaction_id.clone();
    let deed = TxnDeed { parked: Some(copy.0), by: "mqadmin".into(), confirm, ..TxnDeed::default() };
    reopen(broker, &Operator::of(&deed, from)?, copy, &found).map(drop)
}

/// The transaction's checks begin once all of its halves are durable. Says how many these are.
fn reopen(
    broker: &Broker,
    operator: &Operator<'_>,
    copy: QueueOffset,
    found: &Subject,
) -> Result<(TxnDone, usize), Refusal> {
    let act = || {
        operator.confirmed(found)?;
        let reopened = broker.transactions.resume(copy, &operator.by)?;
        wait_durable(broker, reopened.durable_at)?;
        let halves: Vec<String> = reopened.halves.iter().map(|half| half.offset().to_string()).collect();
        broker.learn(reopened.halves);
        Ok(halves)
    };
    let id = &found.transaction_id;
    let said = |halves: &Vec<String>| format!("transaction {id} is asked about again, as half {}", halves.join(", "));
    let (done, halves) = operator.does(broker, ("resume", found), act, said)?;
    Ok((done, halves.len()))
}

/// Also with ASYNC_FLUSH: an operator's word is not given again by a producer.
fn wait_durable(broker: &Broker, until: LogOffset) -> Result<(), Refusal> {
    broker.hurry();
    broker.store.wait_durable(until, PATIENCE).map_err(|error| match error {
        WaitError::Poisoned(_) => Refusal::new(response::SERVICE_NOT_AVAILABLE, error.to_string()),
        WaitError::TimedOut(_) => Refusal::new(response::FLUSH_DISK_TIMEOUT, error.to_string()),
    })
}
