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
use mq_testkit::replay::{Outcome, Row, Scenario, Setting, Stage, UNREPLICATED, scenarios, unreplicated};

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
    let is_asked_for = |tickets: &str| tickets.contains(&options.ticket);
    let played: Vec<Scenario> = scenarios().into_iter().filter(|scenario| is_asked_for(scenario.tickets)).collect();
    let [apaches, ours] = thread::scope(|scope| {
        [Whose::Apaches, Whose::Ours]
            .map(|whose| {
                let played = &played;
                scope.spawn(move || play(whose, played))
            })
            .map(|column| column.join().expect("a scenario does not panic"))
    });
    let (apaches, ours) = (apaches.context("Apache's broker")?, ours.context("our broker")?);
    let mut rows: Vec<_> = played.iter().map(|scenario| row(scenario, &apaches, &ours)).collect();
    if is_asked_for(UNREPLICATED) {
        let played = unreplicated().context("clients of a broker without its replica")?;
        writeln!(std::io::stderr(), "{}: {}; {}", played.tickets, played.apaches.did, played.ours.did)?;
        rows.push(played);
    }
    let table = table(&rows);
    write!(std::io::stdout(), "{table}")?;
    if let Some(page) = &options.page {
        page::replace_between(page, "make replay-apache", &table)?;
    }
    let wrong: Vec<_> = rows.iter().filter(|row| !row.ours.is_right).map(|row| row.tickets).collect();
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

fn row(scenario: &Scenario, apaches: &Column, ours: &Column) -> Row {
    let Scenario { tickets, done, right, .. } = *scenario;
    Row { tickets, done, right, apaches: apaches[tickets].clone(), ours: ours[tickets].clone() }
}

fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| apache/rocketmq | what is done | right is | Apache RocketMQ 5.5 | | ours | |\n|---|---|---|---|---|---|---|\n",
    );
    let verdict = |outcome: &Outcome| if outcome.is_right { "right" } else { "**wrong**" };
    for Row { tickets, done, right, apaches, ours } in rows {
        let (his, own) = (verdict(apaches), verdict(ours));
        table += &format!("| {tickets} | {done} | {right} | {} | {his} | {} | {own} |\n", apaches.did, ours.did);
    }
    let right = |of: fn(&Row) -> &Outcome| rows.iter().filter(|row| of(row).is_right).count();
    let (apaches, ours) = (right(|row| &row.apaches), right(|row| &row.ours));
    table + &format!("\nApache: {apaches} of {} right. Ours: {ours}.\n", rows.len())
}
