//! `mq admin cluster` and `mq admin broker`.

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use mq_client::{Admin, Leftovers, Master};
use serde_json::Value;

use super::{Sheet, health, pair, sending};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Every broker: version, messages a second, messages of today and yesterday.
    List,
    /// How long sends to each broker take.
    Latency {
        /// Sends to each.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BrokerVerb {
    /// Run-time figures under Apache's names.
    Status {
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
    },
    /// What to look for first: lag, messages in flight, timers, half messages, disk.
    Health {
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
    },
    /// Settings under the names of broker.conf.
    Config {
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
        /// Only keys that contain this.
        filter: Option<String>,
    },
    /// Changes settings of running brokers, now and for the next start.
    Set {
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
    },
    /// Removes now what a broker would remove in time.
    Clean {
        what: What,
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
    },
    /// Has the name servers hand a broker to no producer any more, so that it can be stopped once it is read empty.
    StopWrites {
        /// Its name.
        broker: String,
    },
    /// Takes that back.
    AllowWrites {
        /// Its name.
        broker: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// Files of the log that are older than fileReservedTime.
    Log,
    /// Files of queues and indexes whose messages the log no longer has.
    Queues,
    /// Messages of topics that do not exist any more.
    Topics,
}

pub(super) async fn cluster(admin: &Admin, verb: &ClusterVerb) -> Result<Sheet> {
    match verb {
        ClusterVerb::List => clusters(admin).await,
        ClusterVerb::Latency { count } => sending::latency(admin, *count).await,
    }
}

async fn clusters(admin: &Admin) -> Result<Sheet> {
    let clusters = admin.clusters().await?;
    let mut sheet = Sheet::new(&[
        "cluster",
        "broker",
        "id",
        "address",
        "version",
        "in a second",
        "out a second",
        "in today",
        "out today",
        "in yesterday",
        "out yesterday",
    ]);
    let masters = Master::among(&clusters);
    for broker in clusters.broker_addr_table.values() {
        for (id, address) in &broker.broker_addrs {
            let figures = match masters.iter().find(|master| *master.address == **address) {
                Some(master) => admin.runtime(master).await?,
                None => Default::default(),
            };
            let figure = |name: &str| figures.get(name).map(String::as_str);
            // "10 s, 1 min, 10 min": the first is the newest.
            let rate = |name| number(figure(name).and_then(|rates| rates.split_whitespace().next()));
            let since = |from, to| match (figure(from).map(str::parse::<i64>), figure(to).map(str::parse::<i64>)) {
                (Some(Ok(from)), Some(Ok(to))) => Value::from(to - from),
                _ => Value::Null,
            };
            sheet.row([
                broker.cluster.as_str().into(),
                broker.broker_name.as_str().into(),
                (*id).into(),
                address.as_str().into(),
                figure("brokerVersionDesc").map_or(Value::Null, Into::into),
                rate("putTps"),
                rate("getTransferredTps"),
                since("msgPutTotalTodayMorning", "msgPutTotalTodayNow"),
                since("msgGetTotalTodayMorning", "msgGetTotalTodayNow"),
                since("msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning"),
                since("msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning"),
            ]);
        }
    }
    Ok(sheet)
}

fn number(text: Option<&str>) -> Value {
    text.and_then(|text| text.parse::<f64>().ok()).map_or(Value::Null, |number| ((number * 10.0).round() / 10.0).into())
}

impl BrokerVerb {
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Set { .. } | Self::Clean { .. } | Self::StopWrites { .. } | Self::AllowWrites { .. })
    }
}

pub(super) async fn broker(admin: &Admin, verb: &BrokerVerb) -> Result<Sheet> {
    match verb {
        BrokerVerb::Status { broker } => {
            let mut sheet = Sheet::new(&["broker", "figure", "value"]);
            for master in admin.masters_named(broker.as_deref()).await? {
                for (name, value) in admin.runtime(&master).await? {
                    sheet.row([master.name.as_str().into(), name.into(), value.into()]);
                }
            }
            Ok(sheet)
        }
        BrokerVerb::Health { broker } => health::brokers(admin, broker.as_deref()).await,
        BrokerVerb::Config { broker, filter } => {
            let mut sheet = Sheet::new(&["broker", "key", "value"]);
            for master in admin.masters_named(broker.as_deref()).await? {
                let settings = admin.settings(&master).await?;
                let wanted = |key: &str| filter.as_ref().is_none_or(|part| key.contains(part.as_str()));
                for (key, value) in settings.into_iter().filter(|(key, _)| wanted(key)) {
                    sheet.row([master.name.as_str().into(), key.into(), value.into()]);
                }
            }
            Ok(sheet)
        }
        BrokerVerb::Set { broker, settings } => {
            let mut said = Vec::new();
            for master in admin.masters_named(broker.as_deref()).await? {
                let change = admin.change_settings(&master, settings).await;
                let remark = change.with_context(|| format!("broker {}", master.name))?;
                said.push(format!("{}: changed. {remark}", master.name).trim_end().to_owned());
            }
            Ok(Sheet::done(said.join("\n")))
        }
        BrokerVerb::Clean { what, broker } => clean(admin, *what, broker.as_deref()).await,
        BrokerVerb::StopWrites { broker } => writes(admin, broker, false).await,
        BrokerVerb::AllowWrites { broker } => writes(admin, broker, true).await,
    }
}

async fn clean(admin: &Admin, what: What, broker: Option<&str>) -> Result<Sheet> {
    let what = match what {
        What::Log => Leftovers::Log,
        What::Queues => Leftovers::Queues,
        What::Topics => Leftovers::Topics,
    };
    let mut said = Vec::new();
    for master in admin.masters_named(broker).await? {
        let remark = admin.clean(&master, what).await.with_context(|| format!("broker {}", master.name))?;
        said.push(format!("{}: cleaned. {remark}", master.name).trim_end().to_owned());
    }
    Ok(Sheet::done(said.join("\n")))
}

async fn writes(admin: &Admin, broker: &str, allow: bool) -> Result<Sheet> {
    let may = if allow { "may be written to" } else { "are read only" };
    let told = admin.allow_writes(broker, allow).await?.into_iter();
    let said = told.map(|(address, topics)| format!("{address}: {topics} topics of {broker} {may}"));
    Ok(Sheet::done(said.collect::<Vec<_>>().join("\n")))
}
