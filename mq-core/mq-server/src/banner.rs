//! What the user reads at the start: addresses, where the data is, and when an answer counts as stored.

use std::io::Write;
use std::net::SocketAddr;

use mq_broker::{BrokerConfig, FlushDiskType};

/// One line on stdout. A reader that went away is no reason to stop.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

pub(crate) fn name_server(address: SocketAddr) {
    say(format_args!("name server  {address}"));
}

pub(crate) fn broker(config: &BrokerConfig, address: SocketAddr) {
    say(format_args!("broker       {address} ({} of {})", config.broker_name, config.cluster_name));
    say(format_args!("store        {}", config.store_root.display()));
    if config.name_servers.is_empty() {
        say("registered   nowhere: no name server is given (-n), clients will not find this broker");
    }
    match config.flush_disk_type {
        FlushDiskType::Sync => say("flush        SYNC_FLUSH: a send is answered once it is on disk"),
        FlushDiskType::Async => {
            say("flush        ASYNC_FLUSH: SENDS ARE ANSWERED BEFORE THEY ARE ON DISK, a crash loses the newest");
            tracing::warn!("flushDiskType=ASYNC_FLUSH: sends are answered before they are on disk");
        }
    }
}

pub(crate) fn metrics(address: SocketAddr) {
    say(format_args!("metrics      http://{address}/metrics"));
}
