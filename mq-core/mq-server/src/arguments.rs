//! What `mq` understands on its command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::{AdminOptions, ExplainOptions};
use crate::bench::BenchOptions;
use crate::doctor::DoctorOptions;
use crate::store::StoreCommand;

/// RocketMQ's default ports.
pub(crate) const NAMESRV_PORT: u16 = 9876;

/// A message broker that Apache RocketMQ clients and tools talk to, with transactional messages.
#[derive(Debug, Parser)]
#[command(name = "mq", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The name server: tells clients which broker serves a topic.
    Namesrv(NamesrvOptions),
    /// A broker.
    Broker(BrokerOptions),
    /// A name server and a broker in one process.
    Up(UpOptions),
    /// Asks and changes running brokers: topics, groups, offsets, messages, transactions, settings.
    Admin(AdminOptions),
    /// What became of a business key: half message, checks, verdict, message, each group's delivery; and what is missing.
    Explain(ExplainOptions),
    /// Looks at this machine as a broker will, and says what to change.
    Doctor(DoctorOptions),
    /// Looks after the directory of a broker that is stopped.
    Store(StoreCommand),
    /// Load for any RocketMQ broker, and what came of it.
    Bench(BenchOptions),
}

#[derive(Debug, Args)]
pub(crate) struct NamesrvOptions {
    /// 0: any free port.
    #[arg(long, default_value_t = NAMESRV_PORT)]
    pub(crate) port: u16,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// The file that keeps key-value configuration; without it, it is kept in memory.
    #[arg(long, value_name = "FILE")]
    pub(crate) kv_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) exposure: Exposure,
}

#[derive(Debug, Args)]
pub(crate) struct BrokerOptions {
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    /// Name servers, `host:port` each, separated by `;`. Wins over namesrvAddr of broker.conf.
    #[arg(short, long, value_name = "ADDRESSES", env = "NAMESRV_ADDR")]
    pub(crate) namesrv: Option<String>,
    #[command(flatten)]
    pub(crate) exposure: Exposure,
}

#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    /// The name server's port; 0: any free port.
    #[arg(long, default_value_t = NAMESRV_PORT)]
    pub(crate) namesrv_port: u16,
    #[command(flatten)]
    pub(crate) exposure: Exposure,
}

#[derive(Debug, Args)]
pub(crate) struct StoreOptions {
    /// Settings under RocketMQ's names; what is given here on the command line wins.
    #[arg(short, long, value_name = "broker.conf")]
    pub(crate) config: Option<PathBuf>,
    /// The directory of messages and tables (storePathRootDir); ~/store unless broker.conf says otherwise.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// The broker's port (listenPort, 10911); 0: any free port.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Listen on the port two below as well, for clients that set vipChannelEnabled.
    #[arg(long)]
    pub(crate) vip: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Exposure {
    /// Allow an address that other machines can reach. There is no authentication and no TLS yet.
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/ADMIN.md");
    /// What `mqadmin` 5.3 offers for topics, groups, offsets, messages, brokers, clusters, clients and name servers.
    const MQADMIN: &str = "updateTopic deleteTopic updateTopicList updateTopicPerm topicList topicRoute topicStatus \
        topicClusterList updateOrderConf allocateMQ updateSubGroup updateSubGroupList deleteSubGroup setConsumeMode \
        getConsumerConfig consumerProgress consumerStatus startMonitoring resetOffsetByTime skipAccumulatedMessage \
        cloneGroupOffset sendMessage consumeMessage printMsg printMsgByQueue queryMsgById queryMsgByKey \
        queryMsgByUniqueKey queryMsgByOffset queryMsgTraceById checkMsgSendRT sendMsgStatus brokerStatus \
        brokerConsumeStats getBrokerConfig updateBrokerConfig cleanExpiredCQ deleteExpiredCommitLog cleanUnusedTopic \
        resetMasterFlushOffset queryCq statsAll clusterList clusterRT producer producerConnection consumerConnection \
        getNamesrvConfig updateNamesrvConfig updateKvConfig deleteKvConfig wipeWritePerm addWritePerm";

    /// What is wrong with `mq admin …`, as the page writes it.
    fn fault(line: &str) -> Option<String> {
        let mut command = Arguments::command();
        command.build();
        for word in line.split(' ').skip(1) {
            if let Some(flag) = word.strip_prefix("--") {
                let known = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
                if !known {
                    return Some(format!("{line}: no flag --{flag}"));
                }
            } else {
                match command.find_subcommand(word) {
                    Some(found) => command = found.clone(),
                    None => return Some(format!("{line}: no command {word}")),
                }
            }
        }
        command.has_subcommands().then(|| format!("{line}: a verb is missing"))
    }

    #[test]
    fn the_page_names_a_command_of_ours_for_each_of_mqadmin() {
        let mut named = BTreeMap::new();
        for line in PAGE.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, theirs, ours, _, _] = cells[..] else { continue };
            if let Some(ours) = ours.strip_prefix('`').and_then(|ours| ours.strip_suffix('`')) {
                assert_eq!(fault(ours), None);
            }
            named.insert(theirs, ours);
        }
        let missing: Vec<&str> = MQADMIN.split_whitespace().filter(|theirs| !named.contains_key(theirs)).collect();
        assert_eq!(missing, Vec::<&str>::new());
        assert_eq!(fault("mq admin topic frobnicate"), Some("mq admin topic frobnicate: no command frobnicate".into()));
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
