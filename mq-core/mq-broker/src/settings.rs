//! What the configuration means to the parts that do not know it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mq_store::timer::TimerOptions;
use mq_store::{FlushMode, Options};
use txn_coordinator::{Schedule, TransactionOptions};

use crate::config::{BrokerConfig, FlushDiskType};
use crate::delay_levels::DelayLevels;
use crate::store_link::Rules;
use crate::timers::{FromCommit, TimerSettings};

/// Slots between the last that is used and the one that comes round to its place.
const TIMER_BLANK_SLOTS: u64 = 60;

/// The part of the machine's memory that may be taken to hold the newest messages (`accessMessageInMemoryMaxRatio`).
pub(crate) fn hot_bytes(config: &BrokerConfig) -> u64 {
    let memory = rustix::system::sysinfo();
    memory.totalram * u64::from(memory.mem_unit) / 100 * u64::from(config.memory_hot_percent.min(100))
}

pub(crate) fn advertised_ip(config: &BrokerConfig) -> IpAddr {
    let ip = config.broker_ip.unwrap_or(config.bind_address);
    if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }
}

pub(crate) fn store_options(config: &BrokerConfig, delay_levels: &DelayLevels) -> Options {
    Options {
        segment_bytes: config.commit_log_segment_bytes,
        queue_file_entries: config.consume_queue_file_bytes / mq_store::QUEUE_ENTRY_BYTES,
        min_free_bytes: config.min_free_disk_bytes,
        flush: match config.flush_disk_type {
            FlushDiskType::Sync => FlushMode::Sync,
            FlushDiskType::Async => FlushMode::Async { every: config.flush_interval },
        },
        checksums: config.range_checksums,
        index: config.index_messages.then_some(config.index),
        rules: Arc::new(Rules::new(delay_levels.clone())),
    }
}

pub(crate) fn timer_options(config: &BrokerConfig) -> TimerOptions {
    TimerOptions {
        precision_ms: config.timer_precision.as_millis() as i64,
        log_file_bytes: config.timer_log_file_bytes,
        ..TimerOptions::default()
    }
}

pub(crate) fn timer_settings(config: &BrokerConfig) -> TimerSettings {
    TimerSettings { window: timer_window(config), congestion: config.timer_congestion }
}

/// How long a message waits at most before it is stored anew: RocketMQ's window, but never so long that its record could
/// be deleted meanwhile.
fn timer_window(config: &BrokerConfig) -> Duration {
    let most = timer_options(config).slots / 2 - TIMER_BLANK_SLOTS;
    let slots = if config.timer_roll_window_slots < 2 { most } else { config.timer_roll_window_slots.min(most) };
    let window = config.timer_precision * u32::try_from(slots).expect("a wheel's slots are few");
    window.min(config.file_reserved_time * 2 / 3).max(config.timer_precision)
}

pub(crate) fn transaction_options(config: &BrokerConfig, store_host: SocketAddr) -> TransactionOptions {
    let mut options = TransactionOptions::new(config.broker_name.as_str(), store_host);
    let Schedule { timeout, check_interval, check_max } = transaction_schedule(config);
    options.rules = txn_coordinator::Rules { timeout, check_interval, check_max, ..options.rules };
    options.rules.reserved = config.file_reserved_time;
    // A segment takes them, with what is said of them.
    options.max_set_bytes =
        options.max_set_bytes.min(usize::try_from(config.commit_log_segment_bytes / 2).unwrap_or(0));
    options.placing = Arc::new(FromCommit { precision_ms: config.timer_precision.as_millis() as i64 });
    options
}

pub(crate) fn transaction_schedule(config: &BrokerConfig) -> Schedule {
    Schedule {
        timeout: config.transaction_timeout,
        check_interval: config.transaction_check_interval,
        check_max: config.transaction_check_max,
    }
}
