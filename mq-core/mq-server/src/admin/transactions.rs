//! `mq admin txn`: half messages without a verdict, and those that were given up.

mod resuming;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use mq_client::{Admin, Master, UnixMillis};
use mq_protocol::body::{TxnDeed, TxnEvent, TxnHalf, TxnName, TxnPage, TxnQuery, TxnShown, TxnState, TxnVerdict};
use serde::Serialize;
use serde_json::Value;

use super::{Sheet, moment, typed};
use resuming::ResumeOptions;

#[derive(Debug, Subcommand)]
pub(super) enum TxnVerb {
    /// Halves that wait for a verdict: their age, who sent them, how often he was asked, and when he is asked next.
    List(ListOptions),
    /// One half: what is known of it, every question and answer, and who gave it.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Has its producer asked now. It counts as any other check.
    Check {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        by: By,
    },
    /// Ends a transaction by hand. The first verdict stands, whoever gives it: look into the producer's database first.
    Resolve {
        #[command(flatten)]
        which: Which,
        verdict: Word,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        by: By,
    },
    /// Has a half that was given up asked about again, with the other messages of its transaction; or all that wait.
    Resume(ResumeOptions),
}

#[derive(Debug, Args)]
pub(super) struct By {
    /// Who you are, for the audit; the broker adds the address that you come from.
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true, default_value = "")]
    by: String,
}

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Those that were given up, instead.
    #[arg(long)]
    parked: bool,
    #[arg(long)]
    group: Option<String>,
    /// Where the message is to be published.
    #[arg(long)]
    topic: Option<String>,
    /// A broker's name or address; all of them when it is left out.
    #[arg(long)]
    broker: Option<String>,
    /// From this half, or copy, on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=TxnQuery::MOST as i64))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Its number of `txn list`; of one that was given up that, or `p` and the number of its copy (`txn list --parked`).
    half: Number,
    /// A broker's name or address, where there are several.
    #[arg(long)]
    broker: Option<String>,
}

/// A half: `7`. A copy of one that was given up: `p7`.
#[derive(Clone, Copy, Debug)]
enum Number {
    Half(u64),
    Parked(u64),
}

impl FromStr for Number {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        match text.strip_prefix('p') {
            Some(copy) => copy.parse().map(Self::Parked),
            None => text.parse().map(Self::Half),
        }
    }
}

impl Number {
    /// As the requests have it: half, copy.
    fn split(self) -> (Option<u64>, Option<u64>) {
        match self {
            Self::Half(half) => (Some(half), None),
            Self::Parked(copy) => (None, Some(copy)),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Half(half) => half.fmt(f),
            Self::Parked(copy) => write!(f, "p{copy}"),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Confirm {
    /// Does not ask: the transaction's id, once more.
    #[arg(long, value_name = "TRANSACTION ID")]
    confirm: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Word {
    Commit,
    Rollback,
}

impl Confirm {
    /// Nobody is asked to confirm what is known to be refused. A slip is the broker's to refuse: its audit has it then.
    fn of(&self, deed: &str, id: &str, look: impl FnOnce() -> Result<()>) -> Result<String> {
        if let Some(id) = &self.confirm {
            return Ok(id.clone());
        }
        look()?;
        let typed = typed(deed, id)?;
        ensure!(!typed.is_empty(), "nothing was done: {id} was not typed (--confirm does not ask)");
        Ok(typed)
    }
}

impl TxnVerb {
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Check { .. } | Self::Resolve { .. } | Self::Resume(_))
    }
}

pub(super) async fn txn(admin: &Admin, verb: &TxnVerb) -> Result<Sheet> {
    match verb {
        TxnVerb::List(options) => list(admin, options).await,
        TxnVerb::Show { which } => {
            let (_, shown) = which.find(admin).await?;
            Ok(whole(&shown)?.document(serde_json::to_value(&shown)?))
        }
        TxnVerb::Check { which, by } => {
            let (broker, _) = which.find(admin).await?;
            let deed = which.deed(String::new(), None, by);
            Ok(Sheet::done(admin.check_transaction(&broker, &deed).await?))
        }
        TxnVerb::Resolve { which, verdict, confirm, by } => {
            let (broker, TxnShown { half, members, .. }) = which.find(admin).await?;
            let (verdict, will) = match verdict {
                Word::Commit => (TxnVerdict::Commit, "be published"),
                Word::Rollback => (TxnVerdict::Rollback, "never be published"),
            };
            let all = match (members.len().saturating_sub(1), half.parts) {
                (0, 0 | 1) => String::new(),
                (0, parts) => format!(" with all of its {parts} messages"),
                (others, _) => format!(" and {others} others"),
            };
            let what = format!("half {}{all} of group {} for {} will {will}", which.half, half.group, half.topic);
            let confirm = confirm.of(&what, &half.transaction_id, || which.may_be_resolved(&half))?;
            Ok(Sheet::done(admin.resolve_transaction(&broker, &which.deed(confirm, Some(verdict), by)).await?))
        }
        TxnVerb::Resume(options) => resuming::resume(admin, options).await,
    }
}

impl Which {
    async fn find(&self, admin: &Admin) -> Result<(Master, TxnShown)> {
        let broker = one(admin, self.broker.as_deref()).await?;
        let (half, parked) = self.half.split();
        match admin.transaction(&broker, &TxnName { half, parked, ..TxnName::default() }).await? {
            Some(shown) => Ok((broker, shown)),
            None => anyhow::bail!("{} has no half message {}, or not any more", broker.name, self.half),
        }
    }

    fn may_be_resolved(&self, half: &TxnHalf) -> Result<()> {
        ensure!(matches!(half.state, TxnState::Open | TxnState::Parked), self.over(half));
        Ok(())
    }

    fn may_be_resumed(&self, half: &TxnHalf) -> Result<()> {
        ensure!(half.state != TxnState::Open, "half {} is open: only what was given up is resumed", self.half);
        ensure!(half.state == TxnState::Parked, self.over(half));
        Ok(())
    }

    /// Of one that was ended, or resumed.
    fn over(&self, half: &TxnHalf) -> String {
        let again = half.resumed_as.map(|again| format!(", as half {again}")).unwrap_or_default();
        format!("half {} is {} already{again}: nothing was done", self.half, word(half.state))
    }

    fn deed(&self, confirm: String, verdict: Option<TxnVerdict>, By { by }: &By) -> TxnDeed {
        let (half, parked) = self.half.split();
        TxnDeed { half, parked, confirm, verdict, by: by.clone() }
    }
}

/// Halves are numbered by each broker for itself.
async fn one(admin: &Admin, broker: Option<&str>) -> Result<Master> {
    let mut masters = admin.masters_named(broker).await?;
    let names: Vec<&str> = masters.iter().map(|master| master.name.as_str()).collect();
    ensure!(names.len() == 1, "there are several brokers ({}): say which by --broker", names.join(", "));
    Ok(masters.remove(0))
}

async fn list(admin: &Admin, options: &ListOptions) -> Result<Sheet> {
    let query = TxnQuery {
        parked: options.parked,
        from: options.from,
        limit: options.limit as usize,
        group: options.group.clone(),
        topic: options.topic.clone(),
    };
    let mut sheet = Sheet::new(&[
        "broker",
        "half",
        "parked",
        "state",
        "age s",
        "group",
        "topic",
        "transaction",
        "keys",
        "client",
        "checks",
        "of",
        "unasked",
        "next check",
        "reason",
    ]);
    let (now, mut remarks, mut pages) = (moment::now(), Vec::new(), Vec::new());
    for master in admin.masters_named(options.broker.as_deref()).await? {
        let page = admin.transactions(&master, &query).await?;
        pages.push(OfBroker { broker: master.name.clone(), page: page.clone() });
        page.rows.into_iter().for_each(|half| sheet.row(row(&master.name, half, now)));
        if let Some(next) = page.next {
            remarks.push(format!("{}: go on with --from {next}", master.name));
        }
        for bad in page.quarantined {
            remarks
                .push(format!("{}: record {} of the half topic is put aside: {}", master.name, bad.half, bad.reason));
        }
    }
    Ok(sheet.remark(remarks.join("\n")).document(serde_json::to_value(pages)?))
}

/// For programs: what the JSON API answers, of each broker.
#[derive(Serialize)]
struct OfBroker {
    broker: String,
    #[serde(flatten)]
    page: TxnPage,
}

fn row(broker: &str, half: TxnHalf, now: UnixMillis) -> [Value; 15] {
    let state = match half.resumed_as {
        Some(again) => format!("resumed as {again}"),
        None => word(half.state).to_owned(),
    };
    [
        broker.into(),
        half.half.into(),
        half.parked.map(|copy| Number::Parked(copy).to_string()).into(),
        state.into(),
        (now.0.saturating_sub(half.stored_at).max(0) / 1000).into(),
        half.group.into(),
        half.topic.into(),
        half.transaction_id.into(),
        half.keys.into(),
        half.client.or(half.born_host).into(),
        half.checks.into(),
        half.max_checks.into(),
        half.unasked.into(),
        half.next_check_at.map_or(Value::Null, |at| moment::show(UnixMillis(at))),
        half.reason.into(),
    ]
}

fn word(state: TxnState) -> &'static str {
    match state {
        TxnState::Open => "open",
        TxnState::Committed => "committed",
        TxnState::RolledBack => "rolled back",
        TxnState::Parked => "parked",
        TxnState::Resumed => "resumed",
    }
}

/// Its fields, then what happened to it.
fn whole(TxnShown { half, members, history }: &TxnShown) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["field", "value"]);
    let Value::Object(fields) = serde_json::to_value(half)? else { unreachable!("a struct is an object") };
    for (name, value) in fields {
        let value = match (name.ends_with("At"), value.as_i64()) {
            (true, Some(at)) => moment::show(UnixMillis(at)),
            _ => value,
        };
        sheet.row([name.into(), value]);
    }
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    sheet.row(["members".into(), members.join(" ").into()]);
    for event in history {
        let by = event.by.as_ref().filter(|by| *by != TxnEvent::THE_BROKER);
        let by = by.map(|by| format!("{by}: ")).unwrap_or_default();
        sheet.row([moment::show(UnixMillis(event.at)), format!("{by}{}", event.what).into()]);
    }
    Ok(sheet)
}
