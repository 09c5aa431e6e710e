//! `make replay-apache`: public tickets about transactional messages, played against Apache RocketMQ's own broker and ours
//! by the same code in one run; a table of what each of them did. Fails when ours is wrong.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Parser;
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::page;
use mq_testkit::process::{MqProcess, mq_binary};
use mq_testkit::replay::{NOT_PLAYED, Outcome, Scenario, Setting, Stage, scenarios};

#[derive(Parser)]
struct Options {
    /// Plays only scenarios whose tickets contain this.
    #[arg(long, default_value = "")]
    ticket: String,
    /// A page whose table is replaced.
    #[arg(long)]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Apaches,
    Ours,
}

/// By ticket.
type Column = BTreeMap<&'static str, Outcome>;

fn main() -> Result<()> {
    let options = Options::parse();
    mq_binary()?;
    let played: Vec<Scenario> =
        scenarios().into_iter().filter(|scenario| scenario.tickets.contains(&options.ticket)).collect();
    let [apaches, ours] = thread::scope(|scope| {
        [Whose::Apaches, Whose::Ours]
            .map(|whose| {
                let played = &played;
                scope.spawn(move || play(whose, played))
            })
            .map(|column| column.join().expect("a scenario does not panic"))
    });
    let (apaches, ours) = (apaches.context("Apache's broker")?, ours.context("our broker")?);
    let table = table(&played, &apaches, &ours);
    write!(std::io::stdout(), "{table}")?;
    if let Some(page) = &options.page {
        page::replace_between(page, "make replay-apache", &table)?;
    }
    let wrong: Vec<_> = ours.iter().filter(|(_, outcome)| !outcome.is_right).map(|(tickets, _)| *tickets).collect();
    if !wrong.is_empty() {
        bail!("ours is wrong in {}", wrong.join(", "));
    }
    Ok(())
}

/// One broker after the other on fresh files, one for each setting.
fn play(whose: Whose, played: &[Scenario]) -> Result<Column> {
    let mut column = Column::new();
    for setting in Setting::ALL {
        let scenarios: Vec<_> = played.iter().filter(|scenario| scenario.setting == setting).collect();
        if scenarios.is_empty() {
            continue;
        }
        let directory = tempfile::tempdir()?;
        let broker = Broker::start(whose, directory.path(), setting)?;
        let stage = Stage { broker: broker.address(), setting };
        for scenario in scenarios {
            let outcome = (scenario.run)(&stage).with_context(|| scenario.tickets)?;
            writeln!(std::io::stderr(), "{whose:?}, {}: {}", scenario.tickets, outcome.did)?;
            column.insert(scenario.tickets, outcome);
        }
    }
    Ok(column)
}

enum Broker {
    Apaches(ApacheBroker),
    Ours(MqProcess),
}

impl Broker {
    fn start(whose: Whose, directory: &Path, setting: Setting) -> Result<Self> {
        let configuration = setting.configuration();
        if whose == Whose::Apaches {
            let options = ApacheOptions { configuration, ..ApacheOptions::new(directory) };
            return Ok(Self::Apaches(ApacheBroker::start(options)?));
        }
        let mut process = MqProcess::new(directory, &configuration)?;
        process.start()?;
        Ok(Self::Ours(process))
    }

    fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::Apaches(broker) => broker.broker,
            Self::Ours(process) => process.broker,
        }
    }
}

fn table(played: &[Scenario], apaches: &Column, ours: &Column) -> String {
    let mut table = String::from(
        "| apache/rocketmq | what is done | right is | Apache RocketMQ 5.5 | | ours | |\n|---|---|---|---|---|---|---|\n",
    );
    let verdict = |outcome: &Outcome| if outcome.is_right { "right" } else { "**wrong**" };
    for Scenario { tickets, done, right, .. } in played {
        let (apache, own) = (&apaches[tickets], &ours[tickets]);
        table += &format!(
            "| {tickets} | {done} | {right} | {} | {} | {} | {} |\n",
            apache.did,
            verdict(apache),
            own.did,
            verdict(own)
        );
    }
    for (tickets, why) in NOT_PLAYED {
        table += &format!("| {tickets} | not played: {why} | | | | | |\n");
    }
    let right = |column: &Column| column.values().filter(|outcome| outcome.is_right).count();
    table + &format!("\nApache: {} of {} right. Ours: {}.\n", right(apaches), played.len(), right(ours))
}
