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
    use std::path::Path;

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

    /// The command that `line` names, with as much behind it as its writer cared for; or what is wrong with it.
    fn named(line: &str) -> Result<clap::Command, String> {
        let mut command = Arguments::command();
        command.build();
        for word in line.split_whitespace().skip(1).take_while(|word| *word != "…") {
            let word = word.trim_matches(['[', ']']);
            if let Some(found) = command.find_subcommand(word) {
                command = found.clone();
            } else if let Some(flag) = word.strip_prefix("--") {
                let mut known = command.get_arguments().filter_map(|argument| argument.get_long());
                known.find(|known| *known == flag).ok_or_else(|| format!("{line}: no flag --{flag}"))?;
            } else if command.has_subcommands() && word != "NOUN" && word != "VERB" {
                return Err(format!("{line}: no command {word}"));
            }
        }
        Ok(command)
    }

    /// What is wrong with a line of a page. With a number in it, it is meant to run as it stands.
    fn fault(line: &str) -> Option<String> {
        let line = line.split(" | ").next().unwrap_or_default();
        named(line).err().or_else(|| {
            let is_whole = line.contains(|letter: char| letter.is_ascii_digit());
            let refused = Arguments::try_parse_from(line.split_whitespace()).err().filter(|_| is_whole)?;
            Some(format!("{line}: {refused}"))
        })
    }

    /// The calls of `mq` in a page: between backticks, over the ends of lines, and in its blocks.
    fn calls_in(page: &str) -> Vec<String> {
        let (mut calls, mut prose, mut is_block) = (Vec::new(), String::new(), false);
        for line in page.lines() {
            if line.starts_with("```") {
                is_block = !is_block;
            } else if is_block {
                let call = line.split(" #").next().unwrap_or_default();
                let (program, words) = call.split_once(' ').unwrap_or((call, ""));
                if program == "mq" || program.ends_with("/mq") {
                    calls.push(format!("mq {words}"));
                }
            } else {
                prose.extend([line.trim(), " "]);
            }
        }
        calls.extend(prose.split('`').filter(|part| part.starts_with("mq ")).map(str::to_owned));
        calls
    }

    /// What is released stands in the changelog as it was.
    fn pages() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let docs = std::fs::read_dir(root.join("docs")).expect("a directory");
        let docs = docs.map(|entry| entry.expect("an entry").path());
        let is_page = |path: &PathBuf| path.extension().is_some_and(|it| it == "md") && !path.ends_with("CHANGELOG.md");
        docs.filter(is_page).chain([root.join("README.md")]).collect()
    }

    #[test]
    fn the_page_names_a_command_of_ours_for_each_of_mqadmin() {
        let mut pairs = BTreeMap::new();
        for line in PAGE.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, theirs, ours, _, _] = cells[..] else { continue };
            if let Some(ours) = ours.strip_prefix('`').and_then(|ours| ours.strip_suffix('`')) {
                assert!(!named(ours).expect(ours).has_subcommands(), "{ours}: a verb is missing");
            }
            pairs.insert(theirs, ours);
        }
        let missing: Vec<&str> = MQADMIN.split_whitespace().filter(|theirs| !pairs.contains_key(theirs)).collect();
        assert_eq!(missing, Vec::<&str>::new());
        let wrong = named("mq admin topic frobnicate").map(drop);
        assert_eq!(wrong, Err("mq admin topic frobnicate: no command frobnicate".into()));
    }

    #[test]
    fn what_pages_say_to_run_is_a_command() {
        let mut readme = Vec::new();
        let mut faults = Vec::new();
        for path in pages() {
            let calls = calls_in(&std::fs::read_to_string(&path).expect("a page"));
            faults.extend(calls.iter().filter_map(|call| Some(format!("{}: {}", path.display(), fault(call)?))));
            if path.ends_with("README.md") {
                readme = calls;
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(readme.iter().any(|call| call.starts_with("mq explain --key ORDER_NO")), "{readme:?}");
        for (wrong, fault_of_it) in [
            ("mq admin topic list --frobnicate", "no flag --frobnicate"),
            ("mq admin offset reset group --to 7", "TOPIC"),
        ] {
            assert!(fault(wrong).is_some_and(|fault| fault.contains(fault_of_it)), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
