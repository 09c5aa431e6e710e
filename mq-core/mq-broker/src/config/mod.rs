//! The broker's settings, read from `broker.conf` under RocketMQ's names.
//!
//! Defaults are RocketMQ's, with two exceptions that keep data and machines safe: `flushDiskType` is SYNC_FLUSH and
//! `bindAddress` is loopback.

pub use mq_protocol::java_properties;
pub(crate) mod keys;
mod pop;
mod setting;
mod show;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mq_protocol::body::perm;
use mq_store::IndexOptions;

use crate::retention::Hours;
use crate::timers::UNLIMITED;
pub use pop::PopConfig;
use setting::Setting;

/// When a message counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushDiskType {
    /// Once it is on disk.
    Sync,
    /// Once it is in memory: a crash of the machine loses what was acknowledged last.
    Async,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    pub cluster_name: String,
    pub broker_name: String,
    /// 0: master.
    pub broker_id: u64,
    /// The address that clients are told, when it is not the one that the broker listens on.
    pub broker_ip: Option<IpAddr>,
    pub bind_address: IpAddr,
    pub listen_port: u16,
    /// `host:port` each.
    pub name_servers: Vec<String>,
    pub store_root: PathBuf,
    pub flush_disk_type: FlushDiskType,
    pub flush_interval: Duration,
    pub commit_log_segment_bytes: u64,
    pub consume_queue_file_bytes: u64,
    pub file_reserved_time: Duration,
    pub delete_hours: Hours,
    /// Beyond this what is old enough goes at any hour.
    pub max_used_disk_percent: u8,
    /// What is left to everything but the log's next file. A setting of this broker's own.
    pub min_free_disk_bytes: u64,
    /// Whether messages that are not old enough go when the disk is nearly full.
    pub clean_forcibly: bool,
    pub clean_interval: Duration,
    /// Whether messages can be found by key.
    pub index_messages: bool,
    pub index: IndexOptions,
    pub max_message_bytes: usize,
    /// Checksums of the whole log beside it. A setting of this broker's own.
    pub range_checksums: bool,
    /// How much of the machine's memory counts as holding the newest messages.
    pub memory_hot_percent: u8,
    pub auto_create_topic: bool,
    pub auto_create_group: bool,
    pub default_topic_queues: u32,
    /// Bits of [`perm`]: what the whole broker allows.
    pub permission: u32,
    pub trace_topic: bool,
    pub long_polling: bool,
    /// Sends are refused while earlier ones of their connection wait longer than this for the disk: clients have given up
    /// by then.
    pub disk_busy_after: Duration,
    /// Whether replies to requests are stored besides being pushed to the requester.
    pub store_replies: bool,
    /// Whether a reset of offsets happens here, or in the connected consumers.
    pub server_side_reset: bool,
    /// Whether consumers may filter by SQL92.
    pub property_filter: bool,
    /// Eighteen durations like `1s 5s … 2h`, as RocketMQ writes them.
    pub delay_levels: String,
    /// Whether messages may be sent for an arbitrary time.
    pub timer_wheel: bool,
    /// How far ahead that may be.
    pub timer_max_delay: Duration,
    /// How exact it is: 100, 200, 500 or 1000 ms.
    pub timer_precision: Duration,
    /// So many times the precision ahead a message waits at most; then it is stored anew.
    pub timer_roll_window_slots: u64,
    pub timer_log_file_bytes: u64,
    /// How many messages one slot takes; more are refused.
    pub timer_congestion: u64,
    /// Whether producers may take back messages that wait.
    pub recall: bool,
    pub transaction_timeout: Duration,
    pub transaction_check_interval: Duration,
    pub transaction_check_max: u32,
    pub reject_transactions: bool,
    pub flush_offsets_interval: Duration,
    pub register_interval: Duration,
    /// Whether Prometheus may scrape the broker, and where. Without a host: where the broker listens.
    pub metrics_enabled: bool,
    pub metrics_host: Option<IpAddr>,
    pub metrics_port: u16,
    /// Silence after which a connection is closed; clients send a heartbeat every 30 s.
    pub max_idle: Duration,
    pub pop: PopConfig,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        Self {
            cluster_name: "DefaultCluster".into(),
            broker_name: host_name(),
            broker_id: 0,
            broker_ip: None,
            bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            listen_port: 10911,
            name_servers: Vec::new(),
            store_root: home.join("store"),
            flush_disk_type: FlushDiskType::Sync,
            flush_interval: Duration::from_millis(500),
            commit_log_segment_bytes: 1 << 30,
            consume_queue_file_bytes: 6_000_000,
            file_reserved_time: Duration::from_secs(72 * 3600),
            delete_hours: Hours::parse("04").expect("an hour of the day"),
            max_used_disk_percent: 75,
            min_free_disk_bytes: 256 << 20,
            clean_forcibly: true,
            clean_interval: Duration::from_secs(10),
            index_messages: true,
            index: IndexOptions::default(),
            max_message_bytes: 4 << 20,
            range_checksums: true,
            memory_hot_percent: 40,
            auto_create_topic: true,
            auto_create_group: true,
            default_topic_queues: 8,
            permission: perm::READ_WRITE,
            trace_topic: false,
            long_polling: true,
            disk_busy_after: Duration::from_secs(10),
            property_filter: false,
            server_side_reset: true,
            store_replies: true,
            delay_levels: "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h".into(),
            timer_wheel: true,
            timer_max_delay: Duration::from_secs(3 * 86_400),
            timer_precision: Duration::from_secs(1),
            timer_roll_window_slots: 2 * 86_400,
            timer_log_file_bytes: 100 << 20,
            timer_congestion: UNLIMITED,
            recall: false,
            transaction_timeout: Duration::from_secs(6),
            transaction_check_interval: Duration::from_secs(30),
            transaction_check_max: 15,
            reject_transactions: false,
            flush_offsets_interval: Duration::from_secs(5),
            register_interval: Duration::from_secs(30),
            metrics_enabled: false,
            metrics_host: None,
            metrics_port: 5557,
            max_idle: Duration::from_secs(120),
            pop: PopConfig::default(),
        }
    }
}

/// The machine's name, as far as it may stand in a broker's name (which is a topic's name too).
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    Some(name.chars().map(legal).collect())
        .filter(|name: &String| !name.is_empty())
        .unwrap_or_else(|| "broker-a".into())
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}={value}: {expected} is expected")]
    Value { key: String, value: String, expected: &'static str },
    #[error("{key}={value} is not supported: {reason}")]
    Unsupported { key: String, value: String, reason: &'static str },
}

/// A setting that is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigWarning {
    Unknown { key: String, nearest: Option<&'static str> },
    NoEffect { key: String, instead: Option<&'static str> },
}

impl std::fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { key, nearest: Some(nearest) } => write!(f, "unknown key {key}; did you mean {nearest}?"),
            Self::Unknown { key, nearest: None } => write!(f, "unknown key {key}"),
            Self::NoEffect { key, instead: None } => write!(f, "{key} has no effect on this broker"),
            Self::NoEffect { key, instead: Some(instead) } => {
                write!(f, "{key} has no effect on this broker: {instead}")
            }
        }
    }
}

impl BrokerConfig {
    /// Takes the settings of a `broker.conf` over these. A later key wins over an earlier one, as in Java.
    pub fn apply(&mut self, text: &str) -> Result<Vec<ConfigWarning>, ConfigError> {
        self.apply_pairs(java_properties::parse(text))
    }

    pub(crate) fn apply_pairs(
        &mut self,
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<ConfigWarning>, ConfigError> {
        let mut warnings = Vec::new();
        for (key, value) in pairs {
            if !self.set(&key, &value)? {
                warnings.push(keys::explain(&key));
            }
        }
        self.check_roles()?;
        Ok(warnings)
    }

    /// `config/topics.json` and its neighbours.
    #[must_use]
    pub fn config_directory(&self) -> PathBuf {
        self.store_root.join("config")
    }

    /// Sets one key; false: the key means nothing here.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        let setting = Setting { key, value };
        match key {
            "brokerClusterName" => self.cluster_name = setting.name()?,
            "brokerName" => self.broker_name = setting.name()?,
            "brokerId" => self.broker_id = setting.parse("a number")?,
            "brokerIP1" => self.broker_ip = Some(setting.parse("an IP address")?),
            "bindAddress" => self.bind_address = setting.parse("an IP address")?,
            "listenPort" => self.listen_port = setting.parse("a port")?,
            "namesrvAddr" => self.name_servers = setting.list(),
            "brokerRole" => setting.one_of(&["ASYNC_MASTER", "SYNC_MASTER"], NO_SLAVES)?,
            "storePathRootDir" => self.store_root = PathBuf::from(value),
            "storePathCommitLog" => return self.check_commit_log_path(&setting),
            "storeType" => setting.one_of(&["default"], "messages are kept in RocketMQ's file format only")?,
            "enableDLegerCommitLog" | "enableControllerMode" => setting.one_of(&["false"], NO_SLAVES)?,
            "aclEnable" | "authenticationEnabled" | "authorizationEnabled" => setting.one_of(&["false"], NO_USERS)?,
            "flushDiskType" => self.flush_disk_type = setting.flush_disk_type()?,
            "flushIntervalCommitLog" => self.flush_interval = setting.millis()?,
            "mappedFileSizeCommitLog" => self.commit_log_segment_bytes = setting.at_least(4096)?,
            "mappedFileSizeConsumeQueue" => self.consume_queue_file_bytes = setting.at_least(20)?,
            "fileReservedTime" => {
                self.file_reserved_time = Duration::from_secs(3600 * u64::from(setting.parse::<u32>("hours")?))
            }
            "deleteWhen" => {
                let expected = "hours of the day like 04 or 04;16";
                self.delete_hours = Hours::parse(value).ok_or_else(|| setting.wrong(expected))?;
            }
            "diskMaxUsedSpaceRatio" => {
                self.max_used_disk_percent = setting.in_range(0..=100, "a percentage")?.clamp(10, 95);
            }
            "minFreeDiskBytes" => self.min_free_disk_bytes = setting.parse("a number of bytes")?,
            "cleanFileForciblyEnable" => self.clean_forcibly = setting.flag()?,
            "cleanResourceInterval" => self.clean_interval = setting.millis()?,
            "messageIndexEnable" => self.index_messages = setting.flag()?,
            "maxHashSlotNum" => self.index.slots = setting.parse_at_least(1)?,
            "maxIndexNum" => self.index.entries = setting.parse_at_least(2)?,
            "maxMessageSize" => self.max_message_bytes = setting.parse("a number of bytes")?,
            "accessMessageInMemoryMaxRatio" => {
                self.memory_hot_percent = setting.in_range(0..=100, "a percentage")?;
            }
            "rangeChecksumEnable" => self.range_checksums = setting.flag()?,
            "autoCreateTopicEnable" => self.auto_create_topic = setting.flag()?,
            "autoCreateSubscriptionGroup" => self.auto_create_group = setting.flag()?,
            "defaultTopicQueueNums" => self.default_topic_queues = setting.queues()?,
            "brokerPermission" => self.permission = setting.permission()?,
            "traceTopicEnable" => self.trace_topic = setting.flag()?,
            "longPollingEnable" => self.long_polling = setting.flag()?,
            "osPageCacheBusyTimeOutMills" => self.disk_busy_after = setting.millis()?,
            "storeReplyMessageEnable" => self.store_replies = setting.flag()?,
            "useServerSideResetOffset" => self.server_side_reset = setting.flag()?,
            "enablePropertyFilter" => self.property_filter = setting.flag()?,
            "messageDelayLevel" => self.delay_levels = value.to_owned(),
            "timerWheelEnable" => self.timer_wheel = setting.flag()?,
            "timerMaxDelaySec" => self.timer_max_delay = Duration::from_secs(setting.parse("a number of seconds")?),
            "timerPrecisionMs" => self.timer_precision = timer_precision(setting.millis()?),
            "timerRollWindowSlot" => self.timer_roll_window_slots = setting.parse("a number of slots")?,
            "timerCongestNumEachSlot" => self.timer_congestion = setting.parse_at_least(1)?.into(),
            "mappedFileSizeTimerLog" => self.timer_log_file_bytes = setting.at_least(4096)?,
            "recallMessageEnable" => self.recall = setting.flag()?,
            "transactionTimeOut" => self.transaction_timeout = setting.millis()?,
            "transactionCheckInterval" => self.transaction_check_interval = setting.millis()?,
            "transactionCheckMax" => self.transaction_check_max = setting.parse("a number")?,
            "rejectTransactionMessage" => self.reject_transactions = setting.flag()?,
            "flushConsumerOffsetInterval" => self.flush_offsets_interval = setting.millis()?,
            "metricsExporterType" => self.metrics_enabled = setting.metrics_exporter()?,
            "metricsPromExporterHost" if value.is_empty() => self.metrics_host = None,
            "metricsPromExporterHost" => self.metrics_host = Some(setting.parse("an IP address")?),
            "metricsPromExporterPort" => self.metrics_port = setting.parse("a port")?,
            // RocketMQ keeps it between 10 and 60 seconds too.
            "registerNameServerPeriod" => {
                self.register_interval = setting.millis()?.clamp(Duration::from_secs(10), Duration::from_secs(60));
            }
            "serverChannelMaxIdleTimeSeconds" => {
                // As in RocketMQ, 0 switches it off.
                let seconds = setting.parse("a number of seconds")?;
                self.max_idle = Duration::from_secs(if seconds == 0 { u32::MAX } else { seconds }.into());
            }
            _ => return self.pop.set(&setting),
        }
        Ok(true)
    }

    /// The log lives under the root; a path that says the same is fine, another one must not be passed over.
    fn check_commit_log_path(&self, setting: &Setting<'_>) -> Result<bool, ConfigError> {
        if self.store_root.join("commitlog") == Path::new(setting.value) {
            return Ok(true);
        }
        Err(setting.unsupported("the commit log lives in storePathRootDir/commitlog (give storePathRootDir first)"))
    }

    fn check_roles(&self) -> Result<(), ConfigError> {
        if self.broker_id == 0 {
            return Ok(());
        }
        Err(Setting { key: "brokerId", value: &self.broker_id.to_string() }.unsupported(NO_SLAVES))
    }
}

const NO_USERS: &str = "this broker knows no users, so whoever reaches its port may do anything";
const NO_SLAVES: &str = "this broker is a master without slaves";
/// More queues than any topic needs; each one costs files and memory.
pub(crate) const MAX_QUEUES_PER_TOPIC: u32 = 16_384;

/// As RocketMQ takes it: the next smaller one of the four.
fn timer_precision(asked: Duration) -> Duration {
    let known = [1000, 500, 200].map(Duration::from_millis);
    known.into_iter().find(|known| asked >= *known).unwrap_or(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BrokerConfig, ConfigError> {
        let mut config = BrokerConfig::default();
        config.apply(text).map(|_| config)
    }

    #[test]
    fn a_copied_broker_conf_is_understood() {
        let text = "brokerClusterName = C\nbrokerName=broker-a\nbrokerId = 0\nnamesrvAddr=a:9876; b:9876\n\
            deleteWhen=04\nfileReservedTime=48\nbrokerRole=ASYNC_MASTER\nflushDiskType=ASYNC_FLUSH\n\
            transactionTimeOut=1000\nstorePathRootDir=/data/store\nstorePathCommitLog=/data/store/commitlog\n";
        let config = parse(text).expect("valid");
        assert_eq!((&*config.cluster_name, &*config.broker_name), ("C", "broker-a"));
        assert_eq!(config.name_servers, ["a:9876", "b:9876"]);
        assert_eq!(config.file_reserved_time, Duration::from_secs(48 * 3600));
        assert_eq!(config.flush_disk_type, FlushDiskType::Async);
        assert_eq!(config.transaction_timeout, Duration::from_secs(1));
        assert_eq!(config.config_directory(), PathBuf::from("/data/store/config"));
    }

    #[test]
    fn an_empty_file_means_safe_defaults() {
        let config = parse("").expect("valid");
        assert_eq!(config, BrokerConfig::default());
        assert_eq!(config.flush_disk_type, FlushDiskType::Sync);
        assert!(config.bind_address.is_loopback());
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused_by_name() {
        for (text, error) in [
            ("listenPort=70000", "listenPort=70000: a port is expected"),
            ("flushDiskType=SOMETIMES", "flushDiskType=SOMETIMES: SYNC_FLUSH or ASYNC_FLUSH is expected"),
            ("autoCreateTopicEnable=1", "autoCreateTopicEnable=1: true or false is expected"),
            ("transactionTimeOut=-1", "transactionTimeOut=-1: a number of milliseconds is expected"),
            ("brokerPermission=7", "brokerPermission=7: 2 (write), 4 (read) or 6 (both) is expected"),
            ("defaultTopicQueueNums=0", "defaultTopicQueueNums=0: 1 to 16384 queues is expected"),
            ("accessMessageInMemoryMaxRatio=101", "accessMessageInMemoryMaxRatio=101: a percentage is expected"),
            ("brokerName=a b", "brokerName=a b: a name of letters, digits and % | _ - is expected"),
            ("brokerRole=SLAVE", "brokerRole=SLAVE is not supported: this broker is a master without slaves"),
            ("brokerId=1", "brokerId=1 is not supported: this broker is a master without slaves"),
            (
                "aclEnable=true",
                "aclEnable=true is not supported: this broker knows no users, so whoever reaches its port may do anything",
            ),
            (
                "storePathCommitLog=/elsewhere",
                "storePathCommitLog=/elsewhere is not supported: the commit log lives in storePathRootDir/commitlog \
                 (give storePathRootDir first)",
            ),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), error);
        }
    }

    #[test]
    fn an_idle_time_of_zero_closes_no_connection() {
        for (seconds, closes_after) in [("30", 30), ("0", u64::from(u32::MAX))] {
            let config = parse(&format!("serverChannelMaxIdleTimeSeconds={seconds}")).expect("valid");
            assert_eq!(config.max_idle, Duration::from_secs(closes_after));
        }
        assert!(parse("serverChannelMaxIdleTimeSeconds=99999999999").is_err(), "more than a clock can add");
    }

    #[test]
    fn unknown_keys_warn_with_the_nearest_known_name() {
        let mut config = BrokerConfig::default();
        let warnings =
            config.apply("flushDiskTyp=ASYNC_FLUSH\nzzzzzz=1\nsendMessageThreadPoolNums=4\n").expect("valid");
        let said: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "unknown key flushDiskTyp; did you mean flushDiskType?",
                "unknown key zzzzzz",
                "sendMessageThreadPoolNums has no effect on this broker: a connection's requests run on its task, on a thread \
                 for each core",
            ]
        );
        assert_eq!(config, BrokerConfig::default());
    }
}
