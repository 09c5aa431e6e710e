//! What `mq` understands on its command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::AdminOptions;
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
    /// Asks and changes running brokers: topics, groups, offsets, messages, settings.
    Admin(AdminOptions),
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
