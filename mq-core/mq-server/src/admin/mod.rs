//! `mq admin`: what an operator asks and changes, on our brokers and on Apache's. A noun, a verb, a table or JSON.
//!
//! The files beside this one turn a verb into calls of `mq-client`'s `Admin` and a [`Sheet`]; nothing else speaks to a
//! socket, and only `sheet` knows how an answer looks.

mod brokers;
mod dead_letters;
mod explain;
mod groups;
mod health;
mod kv;
mod messages;
mod moment;
mod name_servers;
mod offsets;
mod rates;
mod reading;
mod sending;
mod sheet;
mod status;
mod topics;
mod transactions;

use std::fs;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use mq_client::{Admin, CallError, ClientError, ClientOptions, RequestError};
use mq_protocol::body;
use mq_protocol::codes::response;
use serde::de::DeserializeOwned;

use crate::output::Output;
pub(crate) use explain::{ExplainOptions, explain};
pub(crate) use health::{Lag, lags};
use sheet::Sheet;

#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    #[command(flatten)]
    reach: Reach,
    /// Asks again every so many seconds, until Ctrl-C.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    #[command(subcommand)]
    noun: Noun,
}

/// Whom to ask, and how to answer.
#[derive(Debug, Args)]
struct Reach {
    /// Name servers, `host:port` each, separated by `;`.
    #[arg(
        short,
        long,
        global = true,
        value_name = "ADDRESSES",
        env = "NAMESRV_ADDR",
        default_value = "127.0.0.1:9876"
    )]
    namesrv: String,
    #[arg(long, value_enum, global = true, default_value = "table")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Clusters and their brokers, with what they take in and hand out.
    #[command(subcommand)]
    Cluster(brokers::ClusterVerb),
    /// One broker: run-time figures and settings.
    #[command(subcommand)]
    Broker(brokers::BrokerVerb),
    /// Topics: their queues, permissions, routes and rates.
    #[command(subcommand)]
    Topic(topics::TopicVerb),
    /// Consumer groups: settings, progress, members.
    #[command(subcommand)]
    Group(groups::GroupVerb),
    /// Where a group reads on.
    #[command(subcommand)]
    Offset(offsets::OffsetVerb),
    /// Producer groups.
    #[command(subcommand)]
    Producer(groups::ProducerVerb),
    /// Messages: send, read, look up by id or key, trace.
    #[command(subcommand)]
    Message(messages::MessageVerb),
    /// Key-value configuration of the name servers.
    #[command(subcommand)]
    Kv(kv::KvVerb),
    /// Transactions: halves without a verdict, and those that were given up.
    #[command(subcommand)]
    Txn(transactions::TxnVerb),
    /// The name servers' own settings.
    #[command(subcommand)]
    Namesrv(name_servers::NamesrvVerb),
}

impl Reach {
    /// Whoever names a broker where a name server is meant is told so, and who names nobody.
    fn hinted(&self, error: anyhow::Error) -> anyhow::Error {
        let names_it = |name: &str| self.namesrv.split(';').any(|address| address.trim() == name);
        if let Some(ClientError::Call(CallError::Request(RequestError::Connect { address, .. }))) = error.downcast_ref()
            && names_it(address)
        {
            let hint = format!(
                "no name server at {address}: --namesrv (or NAMESRV_ADDR) says where it is, `mq up` starts one with a broker"
            );
            return error.context(hint);
        }
        let refused = match error.downcast_ref::<ClientError>() {
            Some(ClientError::Call(CallError::Refused(refused))) => refused,
            _ => return error,
        };
        if !names_it(&refused.address) || refused.code != response::REQUEST_CODE_NOT_SUPPORTED {
            return error;
        }
        let hint = format!(
            "{} answers, but is no name server: --namesrv (or NAMESRV_ADDR) wants name servers, port 9876 as a rule; a \
             broker's port is for --broker",
            refused.address
        );
        error.context(hint)
    }
}

impl Noun {
    /// Whether it changes something, or sends: what is not done again and again.
    fn writes(&self) -> bool {
        match self {
            Self::Cluster(_) | Self::Producer(_) => false,
            Self::Broker(verb) => verb.writes(),
            Self::Topic(verb) => verb.writes(),
            Self::Group(verb) => verb.writes(),
            Self::Offset(verb) => verb.writes(),
            Self::Message(verb) => verb.writes(),
            Self::Kv(verb) => !matches!(verb, kv::KvVerb::List { .. }),
            Self::Txn(verb) => verb.writes(),
            Self::Namesrv(verb) => matches!(verb, name_servers::NamesrvVerb::Set { .. }),
        }
    }
}

pub(crate) async fn run(options: &AdminOptions) -> Result<()> {
    ensure!(
        options.watch.is_none() || !options.noun.writes(),
        "--watch asks again and again, and this command changes something: nothing was done"
    );
    let admin = Admin::new(ClientOptions::new(&options.reach.namesrv))?;
    loop {
        let answered = answer(&admin, &options.noun).await;
        answered.map_err(|error| options.reach.hinted(error))?.print(options.reach.output)?;
        let Some(seconds) = options.watch else { return Ok(()) };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn answer(admin: &Admin, noun: &Noun) -> Result<Sheet> {
    match noun {
        Noun::Cluster(verb) => brokers::cluster(admin, verb).await,
        Noun::Broker(verb) => brokers::broker(admin, verb).await,
        Noun::Topic(verb) => topics::topic(admin, verb).await,
        Noun::Group(verb) => groups::group(admin, verb).await,
        Noun::Offset(verb) => offsets::offset(admin, verb).await,
        Noun::Producer(verb) => groups::producer(admin, verb).await,
        Noun::Message(verb) => messages::message(admin, verb).await,
        Noun::Kv(verb) => kv::kv(admin, verb).await,
        Noun::Txn(verb) => transactions::txn(admin, verb).await,
        Noun::Namesrv(verb) => name_servers::namesrv(admin, verb).await,
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    Ok((key.trim().into(), value.trim().into()))
}

/// A file of JSON, as `mqadmin` reads it.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    body::from_json("list", &text).with_context(|| path.display().to_string())
}

/// For what cannot be taken back.
#[derive(Debug, Args)]
struct Confirmation {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Wants the name typed once more.
    fn wait_for(&self, deed: &str, name: &str) -> Result<()> {
        if self.yes { Ok(()) } else { type_again(deed, name, "--yes does not ask") }
    }
}

fn type_again(deed: &str, name: &str, unasked: &str) -> Result<()> {
    ensure!(typed(deed, name)? == name, "nothing was done: {name} was not typed ({unasked})");
    Ok(())
}

/// What is typed when the name is asked for.
fn typed(deed: &str, name: &str) -> Result<String> {
    let mut prompt = std::io::stderr().lock();
    let _ = write!(prompt, "{deed}. Type {name} to go on: ");
    let _ = prompt.flush();
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    Ok(typed.trim().to_owned())
}
