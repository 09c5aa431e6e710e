//! What `mq doctor` reads from this machine. No judgement here: what cannot be read is `None`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use mq_broker::BrokerConfig;
use mq_client::{Admin, ClientOptions};
use mq_store::{Backend, FileBackend};
use rustix::process::{Resource, getrlimit};

use crate::admin::{Lag, lags};

/// Enough for a median and a slow one, quick on the slowest disk that should be used.
const SYNCS: usize = 32;
const SYNC_BYTES: usize = 4096;
/// For a name server and its brokers to say how far the groups are.
const LAGS_WITHIN: Duration = Duration::from_secs(10);

/// A port that a part wants to listen on.
pub(super) struct Port {
    pub(super) whose: &'static str,
    pub(super) address: SocketAddr,
    pub(super) state: PortState,
}

pub(super) enum PortState {
    Free,
    InUse,
    /// The system refuses it for another reason.
    Refused(String),
}

pub(super) struct Disk {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    /// As /proc/mounts calls it: ext4, xfs, tmpfs, ...
    pub(super) file_system: Option<String>,
}

pub(super) struct SyncTimes {
    pub(super) median: Duration,
    pub(super) slowest: Duration,
}

pub(super) enum StoreState {
    /// The directory is not there yet; this part of its path is.
    Absent,
    Free,
    /// Another process has it open.
    Locked,
    Unusable(String),
}

pub(super) struct Facts {
    pub(super) store_root: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) store: StoreState,
    pub(super) segments: usize,
    /// The time of the newest file of the store.
    pub(super) newest: Option<SystemTime>,
    pub(super) now: SystemTime,
    pub(super) disk: Option<Disk>,
    /// Why the disk could not be written, else how long it takes.
    pub(super) syncs: Result<SyncTimes, String>,
    pub(super) ports: Vec<Port>,
    /// Of the groups whose brokers are registered at the name server's port, if one answers there.
    pub(super) lags: Option<Vec<Lag>>,
    pub(super) open_files: Option<u64>,
    pub(super) overcommit: Option<u64>,
    pub(super) max_map_count: Option<u64>,
    pub(super) swappiness: Option<u64>,
    pub(super) swap_bytes: Option<u64>,
    pub(super) available_bytes: Option<u64>,
}

impl Facts {
    pub(super) fn gather(config: &BrokerConfig, namesrv_port: u16, vip: bool) -> Self {
        let store_root = config.store_root.clone();
        let present = existing_part(&store_root);
        let bind = config.bind_address;
        let mut ports = vec![port("name server", bind, namesrv_port), port("broker", bind, config.listen_port)];
        if vip {
            ports.push(port("broker, VIP", bind, config.listen_port.saturating_sub(2)));
        }
        Self {
            segment_bytes: config.commit_log_segment_bytes,
            store: store_state(&store_root),
            segments: fs::read_dir(store_root.join("commitlog")).map_or(0, Iterator::count),
            newest: newest(&store_root),
            now: SystemTime::now(),
            disk: disk(&present),
            syncs: sync_times(&present).map_err(|error| format!("{}: {error}", present.display())),
            lags: matches!(ports[0].state, PortState::InUse).then(|| lags_at(ports[0].address)).flatten(),
            ports,
            open_files: getrlimit(Resource::Nofile).current,
            overcommit: number("/proc/sys/vm/overcommit_memory"),
            max_map_count: number("/proc/sys/vm/max_map_count"),
            swappiness: number("/proc/sys/vm/swappiness"),
            swap_bytes: memory("SwapTotal:"),
            available_bytes: memory("MemAvailable:"),
            store_root,
        }
    }
}

/// The directory itself, or the nearest one above it.
fn existing_part(path: &Path) -> PathBuf {
    let here = path.ancestors().find(|part| part.is_dir()).filter(|part| !part.as_os_str().is_empty());
    here.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn store_state(root: &Path) -> StoreState {
    if !root.join("lock").exists() {
        return if root.is_dir() { StoreState::Free } else { StoreState::Absent };
    }
    match FileBackend::new(root).and_then(|backend| backend.lock("lock")) {
        Ok(_) => StoreState::Free,
        Err(error) if error.kind() == ErrorKind::WouldBlock => StoreState::Locked,
        Err(error) => StoreState::Unusable(error.to_string()),
    }
}

fn newest(root: &Path) -> Option<SystemTime> {
    let files = ["", "commitlog", "config"].map(|part| fs::read_dir(root.join(part)));
    let entries = files.into_iter().flatten().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

fn disk(present: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(present).ok()?;
    let unit = stat.f_frsize;
    let total_bytes = stat.f_blocks * unit;
    Some(Disk { free_bytes: stat.f_bavail * unit, total_bytes, file_system: file_system(present) })
}

/// Of the mount point with the longest path that holds `present`.
fn file_system(present: &Path) -> Option<String> {
    let present = present.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    };
    let holds = |(point, _): &(PathBuf, String)| present.starts_with(point);
    mounts.lines().filter_map(mount).filter(holds).max_by_key(|(point, _)| point.as_os_str().len()).map(|found| found.1)
}

fn sync_times(directory: &Path) -> std::io::Result<SyncTimes> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(SyncTimes { median: times[SYNCS / 2], slowest: times[SYNCS - 1] })
}

fn port(whose: &'static str, bind: IpAddr, port: u16) -> Port {
    let address = SocketAddr::new(bind, port);
    let state = match TcpListener::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => PortState::InUse,
        Err(error) => PortState::Refused(error.to_string()),
    };
    Port { whose, address, state }
}

fn lags_at(name_server: SocketAddr) -> Option<Vec<Lag>> {
    let asked = async {
        let admin = Admin::new(ClientOptions::new(name_server.to_string()))?;
        tokio::time::timeout(LAGS_WITHIN, lags(&admin)).await.context("not in time")?
    };
    crate::block_on(asked).ok()
}

fn number<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line of /proc/meminfo, in bytes.
fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
