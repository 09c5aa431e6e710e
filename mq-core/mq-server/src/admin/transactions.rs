//! `mq admin txn`: half messages without a verdict, and those that were given up.

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use mq_client::{Admin, Master, UnixMillis};
use mq_protocol::body::{TxnDeed, TxnHalf, TxnName, TxnQuery, TxnShown, TxnState, TxnVerdict};
use serde_json::Value;

use super::{Sheet, moment, type_again};

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
    },
    /// Ends a transaction by hand. The first verdict stands, whoever gives it: look into the producer's database first.
    Resolve {
        #[command(flatten)]
        which: Which,
        verdict: Word,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Has a half that was given up asked about again.
    Resume {
        /// Its number of `txn list --parked`.
        parked: u64,
        /// A broker's name or address, where there are several.
        #[arg(long)]
        broker: Option<String>,
        #[command(flatten)]
        confirm: Confirm,
    },
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
    /// From this half on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=TxnQuery::MOST as i64))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Its number of `txn list`.
    half: u64,
    /// A broker's name or address, where there are several.
    #[arg(long)]
    broker: Option<String>,
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
    fn of(&self, deed: &str, id: &str) -> Result<String> {
        match &self.confirm {
            Some(id) => Ok(id.clone()),
            None => type_again(deed, id, "--confirm does not ask").map(|()| id.to_owned()),
        }
    }
}

impl TxnVerb {
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Check { .. } | Self::Resolve { .. } | Self::Resume { .. })
    }
}

pub(super) async fn txn(admin: &Admin, verb: &TxnVerb) -> Result<Sheet> {
    match verb {
        TxnVerb::List(options) => list(admin, options).await,
        TxnVerb::Show { which } => {
            let (_, shown) = which.find(admin).await?;
            Ok(whole(&shown)?.document(serde_json::to_value(&shown)?))
        }
        TxnVerb::Check { which } => {
            let (broker, shown) = which.find(admin).await?;
            let deed = TxnDeed { half: shown.half.half, by: operator(), ..TxnDeed::default() };
            Ok(Sheet::done(admin.check_transaction(&broker, &deed).await?))
        }
        TxnVerb::Resolve { which, verdict, confirm } => {
            let (broker, TxnShown { half, members, .. }) = which.find(admin).await?;
            let (verdict, will) = match verdict {
                Word::Commit => (TxnVerdict::Commit, "be published"),
                Word::Rollback => (TxnVerdict::Rollback, "never be published"),
            };
            let all = if members.len() > 1 { format!(" and {} others", members.len() - 1) } else { String::new() };
            let what = format!("half {}{all} of group {} for {} will {will}", half.half, half.group, half.topic);
            let confirm = confirm.of(&what, &half.transaction_id)?;
            let deed = TxnDeed { half: half.half, confirm, verdict: Some(verdict), by: operator() };
            Ok(Sheet::done(admin.resolve_transaction(&broker, &deed).await?))
        }
        TxnVerb::Resume { parked, broker, confirm } => {
            let broker = one(admin, broker.as_deref()).await?;
            let query = TxnQuery { parked: true, from: *parked, limit: 1, ..TxnQuery::default() };
            let found = admin.transactions(&broker, &query).await?.rows.into_iter().find(|half| half.half == *parked);
            let Some(half) = found else { anyhow::bail!("{} has no given-up half {parked}", broker.name) };
            let what = format!("group {} will be asked again about a message for {}", half.group, half.topic);
            let confirm = confirm.of(&what, &half.transaction_id)?;
            let deed = TxnDeed { half: *parked, confirm, verdict: None, by: operator() };
            Ok(Sheet::done(admin.resume_transaction(&broker, &deed).await?))
        }
    }
}

impl Which {
    async fn find(&self, admin: &Admin) -> Result<(Master, TxnShown)> {
        let broker = one(admin, self.broker.as_deref()).await?;
        let name = TxnName { half: Some(self.half), ..TxnName::default() };
        match admin.transaction(&broker, &name).await? {
            Some(shown) => Ok((broker, shown)),
            None => anyhow::bail!("{} has no half message {}, or not any more", broker.name, self.half),
        }
    }
}

/// Halves are numbered by each broker for itself.
async fn one(admin: &Admin, broker: Option<&str>) -> Result<Master> {
    let mut masters = admin.masters_named(broker).await?;
    let names: Vec<&str> = masters.iter().map(|master| master.name.as_str()).collect();
    ensure!(names.len() == 1, "there are several brokers ({}): say which by --broker", names.join(", "));
    Ok(masters.remove(0))
}

/// For the audit. The broker adds the address.
fn operator() -> String {
    ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default()
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
    let (now, mut remarks) = (moment::now(), Vec::new());
    for master in admin.masters_named(options.broker.as_deref()).await? {
        let page = admin.transactions(&master, &query).await?;
        page.rows.into_iter().for_each(|half| sheet.row(row(&master.name, half, now)));
        if let Some(next) = page.next {
            remarks.push(format!("{}: go on with --from {next}", master.name));
        }
        for bad in page.quarantined {
            remarks
                .push(format!("{}: record {} of the half topic is put aside: {}", master.name, bad.half, bad.reason));
        }
    }
    Ok(sheet.remark(remarks.join("\n")))
}

fn row(broker: &str, half: TxnHalf, now: UnixMillis) -> [Value; 14] {
    let state = match half.resumed_as {
        Some(again) => format!("resumed as {again}"),
        None => word(half.state).to_owned(),
    };
    [
        broker.into(),
        half.half.into(),
        state.into(),
        (now.0.saturating_sub(half.stored_at).max(0) / 1000).into(),
        half.group.into(),
        half.topic.into(),
        half.transaction_id.into(),
        half.keys.into(),
        half.client.into(),
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
    sheet.row(["openHalves".into(), members.join(" ").into()]);
    for event in history {
        let by = event.by.as_ref().map(|by| format!("{by}: ")).unwrap_or_default();
        sheet.row([moment::show(UnixMillis(event.at)), format!("{by}{}", event.what).into()]);
    }
    Ok(sheet)
}
