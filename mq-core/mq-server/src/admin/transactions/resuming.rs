//! `mq admin txn resume`: one half that was given up, or all that wait, page by page.

use anyhow::{Result, ensure};
use clap::Args;
use mq_client::{Admin, Master};
use mq_protocol::body::{TxnHalf, TxnQuery, TxnResumeAll, TxnShown, TxnState};

use super::{By, Confirm, Number, Sheet, Which};

/// Copies of one request: a broker answers within a second, whatever its disk.
const PAGE: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct ResumeOptions {
    /// Its number, or `p` and the number of its copy (`txn list --parked`).
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    half: Option<Number>,
    /// All that wait, on all brokers.
    #[arg(long)]
    all: bool,
    /// Of this producer group.
    #[arg(long, requires = "all")]
    group: Option<String>,
    /// Whose messages are for this topic.
    #[arg(long, requires = "all")]
    topic: Option<String>,
    /// A broker's name or address, where there are several.
    #[arg(long)]
    broker: Option<String>,
    /// Does not ask: the transaction's id, once more; with --all the number of halves.
    #[arg(long, value_name = "TRANSACTION ID")]
    confirm: Option<String>,
    #[command(flatten)]
    by: By,
}

pub(super) async fn resume(admin: &Admin, options: &ResumeOptions) -> Result<Sheet> {
    match options.half {
        Some(half) => one(admin, half, options).await,
        None => all(admin, options).await,
    }
}

async fn one(admin: &Admin, half: Number, options: &ResumeOptions) -> Result<Sheet> {
    let which = Which { half, broker: options.broker.clone() };
    let (broker, TxnShown { half, .. }) = which.find(admin).await?;
    let what = format!("group {} will be asked again about a message for {}", half.group, half.topic);
    let confirm = Confirm { confirm: options.confirm.clone() };
    let confirm = confirm.of(&what, &half.transaction_id, || which.may_be_resumed(&half))?;
    Ok(Sheet::done(admin.resume_transaction(&broker, &which.deed(confirm, None, &options.by)).await?))
}

/// Those that wait when it begins. Each page says how many it resumes, as it was read a moment before: where somebody else
/// resumes, too, the broker refuses it, and whoever asks again goes on with the rest.
async fn all(admin: &Admin, options: &ResumeOptions) -> Result<Sheet> {
    let masters = admin.masters_named(options.broker.as_deref()).await?;
    let mut found = Vec::new();
    for master in &masters {
        let (mut from, mut count, mut end) = (Some(0), 0, 0);
        while let Some(first) = from {
            let page = page(admin, master, options, first, TxnQuery::MOST).await?;
            count += page.waiting.len();
            end = page.waiting.last().map_or(end, |last| last + 1);
            from = page.next;
        }
        found.push((master, count, end));
    }
    let count = found.iter().map(|(_, count, _)| count).sum::<usize>();
    if count == 0 {
        return Ok(Sheet::done("no given-up half waits"));
    }
    let whose = options.group.as_ref().map_or("their producer groups".to_owned(), |group| format!("group {group}"));
    let text = count.to_string();
    let what = format!("{whose} will be asked again about all that were given up and wait: {text}");
    ensure!(
        Confirm { confirm: options.confirm.clone() }.of(&what, &text, || Ok(()))? == text,
        "nothing was done: {text} given-up {} say --confirm {text}",
        if count == 1 { "half waits," } else { "halves wait," }
    );
    let (mut resumed, mut refused) = (0, Vec::new());
    for (master, _, end) in found {
        let mut from = Some(0);
        while let Some(first) = from.filter(|first| *first < end) {
            // Not beyond those that were counted.
            let limit = PAGE.min((end - first) as usize);
            let page = page(admin, master, options, first, limit).await?;
            if page.waiting.is_empty() {
                from = page.next;
                continue;
            }
            let deed = TxnResumeAll {
                group: options.group.clone(),
                topic: options.topic.clone(),
                from: first,
                limit,
                confirm: page.waiting.len().to_string(),
                by: options.by.by.clone(),
            };
            let done = admin.resume_transactions(master, &deed).await?;
            resumed += done.resumed;
            refused.extend(
                done.refused.into_iter().map(|one| format!("{}: p{}: {}", master.name, one.parked, one.reason)),
            );
            from = done.next;
        }
    }
    let done = match resumed {
        1 => "1 half is asked about again".to_owned(),
        resumed => format!("{resumed} halves are asked about again"),
    };
    ensure!(refused.is_empty(), "{done}, and these are not: {}", refused.join("; "));
    Ok(Sheet::done(done))
}

struct Page {
    /// Numbers of copies.
    waiting: Vec<u64>,
    next: Option<u64>,
}

async fn page(admin: &Admin, master: &Master, options: &ResumeOptions, from: u64, limit: usize) -> Result<Page> {
    let (group, topic) = (options.group.clone(), options.topic.clone());
    let page = admin.transactions(master, &TxnQuery { parked: true, from, limit, group, topic }).await?;
    let waits = |half: TxnHalf| half.parked.filter(|_| half.state == TxnState::Parked);
    Ok(Page { waiting: page.rows.into_iter().filter_map(waits).collect(), next: page.next })
}
