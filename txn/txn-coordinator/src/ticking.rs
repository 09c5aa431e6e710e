//! What is due: checks to send, halves to park, outcomes to finish.

use mq_protocol::body::TxnEvent;
use mq_protocol::ids::UnixMillis;
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;
use mq_protocol::topic;
use mq_store::ReadError;

use crate::check_journal::{Anchor, Entry};
use crate::coordinator::Check;
use crate::driver::{Inner, State, is_durable};
use crate::engine::{Action, Input, Rules};
use crate::half;
use crate::history::{EventKind, Told, Who};
use crate::parked::parked_copy;
use crate::plan::{self, Messages, Plan, Topics};
use crate::planted::{Bug, planted};
use crate::recovery::{half_at, place_of};
use crate::types::{CheckResult, ClientId, HalfOffset, Halves, Outcome, ParkReason};

/// A check that the engine wants sent.
struct Ask {
    half: HalfOffset,
    client: Option<ClientId>,
    attempt: u32,
}

impl Inner {
    pub(crate) fn tick(&self, now: UnixMillis) -> Vec<Check> {
        let mut asks = Vec::new();
        {
            let mut state = self.state.lock();
            let mut plans = Vec::new();
            for action in state.step(now, Input::Due) {
                match action {
                    Action::Check { half, client, attempt } => asks.push(Ask { half, client, attempt }),
                    Action::Close { copies, ends, outcome } => {
                        plans.extend(self.close(&mut state, &copies, ends, outcome, now));
                    }
                    Action::Park { copies, ends, reason, checks } => {
                        plans.extend(self.park(&mut state, &copies, ends, reason, checks, now));
                    }
                    other => unreachable!("time leads to no {other:?}"),
                }
            }
            self.write_due(&mut state, &plans, now);
        }
        asks.into_iter().filter_map(|ask| self.check(ask, now)).collect()
    }

    /// What is missing of an outcome; `None` when a message that belongs to it cannot be read now.
    fn close(
        &self,
        state: &mut State,
        copies: &[HalfOffset],
        ends: Halves,
        outcome: Outcome,
        now: UnixMillis,
    ) -> Option<Plan> {
        let mut first = Messages::new();
        for half in copies {
            let record = self.read(*half).unwrap_or_else(|lost| state.give_up(*half, &lost, now))?;
            first.push(match outcome {
                Outcome::Parked => parked_copy(&record, 0, None, &state.history.of(&ends)),
                _ => self.placed(half::real_message(&record, 0)?, now),
            });
        }
        Some(Plan { first, ends, outcome, topics: Topics::new() })
    }

    fn park(
        &self,
        state: &mut State,
        copies: &[HalfOffset],
        ends: Halves,
        reason: ParkReason,
        checks: u32,
        now: UnixMillis,
    ) -> Option<Plan> {
        let mut first = Messages::new();
        let told = state.history.of(&ends);
        let client = ends.first().and_then(|half| state.engine.pending_of(*half)?.client);
        for half in copies {
            let record = self.read(*half).unwrap_or_else(|lost| state.give_up(*half, &lost, now))?;
            let told = || {
                let sent = client.iter().map(|client| sent(&record, client));
                sent.chain(told.iter().cloned()).collect::<Vec<_>>()
            };
            let group = record.message.property(name::PRODUCER_GROUP);
            let transaction = record.message.property(name::UNIQ_KEY);
            tracing::warn!(half = half.0, group, transaction, checks, %reason, "half message parked in {}", topic::CHECK_MAX_TIME);
            first.extend((!planted(Bug::ParkWithoutCopy)).then(|| parked_copy(&record, checks, Some(reason), &told())));
            state.history.note(now, *half, EventKind::Parked(reason), Who::Broker);
        }
        Some(Plan { first, ends, outcome: Outcome::Parked, topics: Topics::new() })
    }

    fn check(&self, ask: Ask, now: UnixMillis) -> Option<Check> {
        let record = self.read(ask.half).unwrap_or_else(|lost| self.state.lock().give_up(ask.half, &lost, now))?;
        if !is_durable(&self.store, &record) {
            return None;
        }
        let request = half::check_request(&record, ask.attempt, &self.options.broker_name)?;
        let property = |name| record.message.property(name).unwrap_or_default().into();
        let group = if planted(Bug::OtherGroup) { name::REAL_TOPIC } else { name::PRODUCER_GROUP };
        Some(Check {
            half: ask.half,
            producer_group: property(group),
            topic: property(name::REAL_TOPIC),
            prefer_client: ask.client,
            attempt: ask.attempt,
            request,
        })
    }

    /// A half that is due; `None` when the disk fails now and may work later, an error when the half is lost for good.
    fn read(&self, half: HalfOffset) -> Result<Option<StoredMessage>, String> {
        match half_at(&self.store, half) {
            Ok(Some(record)) => Ok(Some(record)),
            Ok(None) => Err("it is no longer on disk".into()),
            Err(error @ ReadError::Disk(_)) => {
                tracing::error!(half = half.0, %error, "a due half message cannot be read now; it is tried again");
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// All at once; one by one when that fails, so that one bad plan holds up nobody else.
    fn write_due(&self, state: &mut State, plans: &[Plan], now: UnixMillis) {
        for portion in plan::portions(plans) {
            let written = self.write(state, portion, now).is_ok();
            if portion.iter().any(|plan| plan.outcome == Outcome::Parked) {
                mq_store::failpoint("half-parked");
            }
            if written {
                continue;
            }
            for plan in portion {
                if let Err(error) = self.write(state, std::slice::from_ref(plan), now) {
                    tracing::error!(ends = ?plan.ends, %error, "due halves could not be closed; they are tried again");
                }
            }
        }
    }

    /// What became of these checks, and who got them. Their counts go to the journal.
    pub(crate) fn checked(&self, results: impl IntoIterator<Item = (HalfOffset, CheckResult, Who)>) {
        let now = self.clock.now();
        let mut counts: Vec<Entry> = Vec::new();
        {
            let mut state = self.state.lock();
            let step = unasked_step(state.engine.rules());
            for (half, result, by) in results {
                let before = state.engine.count(half);
                state.tell(now, Input::CheckSent(half, result));
                let Some(after) = state.engine.count(half) else { continue };
                let what = match result {
                    CheckResult::Delivered => EventKind::Asked { attempt: after.checks.into() },
                    CheckResult::NobodyToAsk => EventKind::NobodyToAsk,
                    CheckResult::HeldBack => continue,
                };
                state.history.note(now, half, what, by);
                let is_worth_it = after.unasked.is_multiple_of(step);
                counts.extend(Some((half, after)).filter(|_| is_worth_it && Some(after) != before));
            }
        }
        let anchor = || self.anchor(counts.first()?.0);
        if let Err(error) = self.journal.lock().append(&counts, anchor) {
            tracing::warn!(%error, "counts of checks are not saved; a restart may ask once more");
        }
    }

    fn anchor(&self, half: HalfOffset) -> Option<Anchor> {
        place_of(&self.store, half).ok()?.map(|at| Anchor { half, at })
    }

    /// Keeps the journal of checks no longer than twice what it has to say.
    pub(crate) fn tidy_journal(&self) -> std::io::Result<()> {
        let mut journal = self.journal.lock();
        let (counts, first) = {
            let state = self.state.lock();
            // While a start still reads halves, the journal says more than the engine knows.
            if state.loading.is_some() || !journal.wants_rewrite(state.engine.pending()) {
                return Ok(());
            }
            (state.engine.counts(), state.engine.first_open())
        };
        let Some(first) = first else {
            journal.begin_anew();
            return Ok(());
        };
        // Where the first one lies may not be readable now: then the journal stays as it is.
        self.anchor(first).map_or(Ok(()), |anchor| journal.rewrite(&counts, anchor))
    }
}

/// With nobody to ask, a million halves would write 16 MB every half minute: a restart may forget one part in 256 of the
/// time that they are kept for.
fn unasked_step(rules: &Rules) -> u32 {
    let attempts = rules.reserved.as_millis() / rules.check_interval.as_millis().max(1);
    u32::try_from(attempts / 256).unwrap_or(u32::MAX).max(1)
}

fn sent(half: &StoredMessage, client: &ClientId) -> Told {
    let (at, half) = (half.store_timestamp, half.queue_offset.into());
    Told { at, half, by: client.to_string(), what: TxnEvent::SENT.to_owned() }
}
