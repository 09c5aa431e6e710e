//! What the facts mean for a broker. Pure: the same facts, the same findings.

use std::time::Duration;

use super::Finding;
use super::facts::{Facts, Port, PortState, StoreState};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The segment in use and the one that is prepared beside it.
const SEGMENTS_NEEDED: u64 = 2;
/// Free space below which a disk fills within hours under load.
const COMFORTABLE_FREE_BYTES: u64 = 20 * GIB;
/// A descriptor for each connection, and a few hundred for files.
const FEW_OPEN_FILES: u64 = 1024;
const ENOUGH_OPEN_FILES: u64 = 65_536;
/// Maps of a process beside those of the log: libraries, stacks of threads, the allocator.
const OTHER_MAPS: u64 = 4096;
const LOW_SWAPPINESS: u64 = 10;
const LITTLE_MEMORY_BYTES: u64 = 512 * MIB;
/// Every acknowledged send waits for a sync; a group of them shares one.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// A clock that was set back by more than this is worth a word.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// A group so far behind does not catch up by itself in a moment.
const FAR_BEHIND: u64 = 10_000;
/// Groups that are named one by one.
const MOST_GROUPS: usize = 10;

pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![store(facts), space(facts), file_system(facts), sync(facts), clock(facts)];
    findings.extend(facts.ports.iter().map(port));
    findings.extend([open_files(facts), map_count(facts), overcommit(facts), swappiness(facts), memory(facts)]);
    findings.extend(lag(facts));
    findings
}

fn store(facts: &Facts) -> Finding {
    let path = facts.store_root.display();
    match &facts.store {
        StoreState::Absent => Finding::ok("store", format!("{path} will be made at the first start")),
        StoreState::Free => Finding::ok("store", format!("{path}, not in use")),
        StoreState::Locked => {
            let fix = "if you did not start that broker, find it with `fuser` on the lock file; one store, one broker";
            Finding::warn("store", format!("{path} is open in another process"), fix)
        }
        StoreState::Unusable(error) => {
            Finding::fail("store", format!("{path}: {error}"), "give the broker's user the right to read and write it")
        }
    }
}

fn space(facts: &Facts) -> Finding {
    let Some(disk) = &facts.disk else {
        return Finding::fail("disk space", "cannot be asked", "see whether the path of the store can be reached");
    };
    let found = format!("{} of {} free", bytes(disk.free_bytes), bytes(disk.total_bytes));
    let needed = facts.segment_bytes.saturating_mul(SEGMENTS_NEEDED);
    if disk.free_bytes < needed {
        let fix = format!(
            "the log is preallocated in segments of {}: free at least {}, choose another storePathRootDir, or set \
             mappedFileSizeCommitLog lower",
            bytes(facts.segment_bytes),
            bytes(needed)
        );
        Finding::fail("disk space", found, fix)
    } else if disk.free_bytes < COMFORTABLE_FREE_BYTES {
        Finding::warn("disk space", found, "lower fileReservedTime, or give the store more room")
    } else {
        Finding::ok("disk space", found)
    }
}

fn file_system(facts: &Facts) -> Finding {
    let name = facts.disk.as_ref().and_then(|disk| disk.file_system.as_deref()).unwrap_or("unknown");
    match name {
        "tmpfs" | "ramfs" => {
            Finding::warn("file system", name, "it is memory: a reboot loses every message; use a disk")
        }
        "nfs" | "nfs4" | "cifs" | "9p" | "fuse.sshfs" => {
            Finding::warn("file system", name, "a network keeps neither locks nor syncs as promised: use a local disk")
        }
        "overlay" => Finding::warn("file system", name, "a container's own layer goes with it: mount a volume"),
        _ => Finding::ok("file system", name),
    }
}

fn sync(facts: &Facts) -> Finding {
    let times = match &facts.syncs {
        Ok(times) => times,
        Err(error) => return Finding::fail("fdatasync", error, "the broker's user must be able to write there"),
    };
    let found = format!("4 KiB in {:.1?}, the slowest {:.1?}", times.median, times.slowest);
    if times.median > SLOW_SYNC {
        let fix =
            "each acknowledgement waits for the disk: use an SSD, or accept losses with flushDiskType=ASYNC_FLUSH";
        Finding::warn("fdatasync", found, fix)
    } else {
        Finding::ok("fdatasync", found)
    }
}

fn clock(facts: &Facts) -> Finding {
    let ahead = facts.newest.and_then(|newest| newest.duration_since(facts.now).ok()).unwrap_or_default();
    if ahead > CLOCK_SLACK {
        let found = format!("{ahead:.0?} behind the newest file of the store");
        Finding::warn("clock", found, "set it (chrony, systemd-timesyncd): delays and checkbacks go by it")
    } else {
        Finding::ok("clock", "not behind the store")
    }
}

fn port(port: &Port) -> Finding {
    let found = format!("{} for the {}", port.address, port.whose);
    match &port.state {
        PortState::Free => Finding::ok("port", format!("{found} is free")),
        PortState::InUse => {
            let fix =
                format!("fine if that is your {0}; else `ss -ltnp` names the process, or choose another", port.whose);
            Finding::warn("port", format!("{found} is in use"), fix)
        }
        PortState::Refused(error) => {
            Finding::fail("port", format!("{found}: {error}"), "choose another address or port")
        }
    }
}

fn open_files(facts: &Facts) -> Finding {
    let fix = "each connection takes one: `ulimit -n 1000000` in the shell, LimitNOFILE=1000000 in the systemd unit";
    match facts.open_files {
        None => Finding::ok("open files", "no limit"),
        Some(limit) if limit < FEW_OPEN_FILES => Finding::fail("open files", format!("at most {limit}"), fix),
        Some(limit) if limit < ENOUGH_OPEN_FILES => Finding::warn("open files", format!("at most {limit}"), fix),
        Some(limit) => Finding::ok("open files", format!("at most {limit}")),
    }
}

fn map_count(facts: &Facts) -> Finding {
    let what = "vm.max_map_count";
    let Some(limit) = facts.max_map_count else { return unknown(what) };
    let needed = facts.segments as u64 + OTHER_MAPS;
    let found = format!("{limit}; {} segments of the log are mapped", facts.segments);
    if limit < needed {
        Finding::fail(what, found, format!("`sysctl -w vm.max_map_count={}`", needed.max(655_360)))
    } else {
        Finding::ok(what, found)
    }
}

fn overcommit(facts: &Facts) -> Finding {
    let what = "vm.overcommit_memory";
    match facts.overcommit {
        None => unknown(what),
        Some(2) => Finding::warn(
            what,
            "2: memory is promised strictly",
            "`sysctl -w vm.overcommit_memory=1`: a Redis beside it cannot fork for its snapshots otherwise",
        ),
        Some(value) => Finding::ok(what, value.to_string()),
    }
}

fn swappiness(facts: &Facts) -> Finding {
    let what = "vm.swappiness";
    match (facts.swappiness, facts.swap_bytes) {
        (None, _) => unknown(what),
        (Some(value), Some(0)) => Finding::ok(what, format!("{value}; there is no swap")),
        (Some(value), _) if value > LOW_SWAPPINESS => {
            Finding::warn(what, value.to_string(), "`sysctl -w vm.swappiness=10`: a broker that is swapped out stalls")
        }
        (Some(value), _) => Finding::ok(what, value.to_string()),
    }
}

fn memory(facts: &Facts) -> Finding {
    let Some(available) = facts.available_bytes else { return unknown("memory") };
    let found = format!("{} available", bytes(available));
    if available < LITTLE_MEMORY_BYTES {
        Finding::warn("memory", found, "the page cache serves the consumers: leave it 512 MiB and more")
    } else {
        Finding::ok("memory", found)
    }
}

/// A line for each group that is far behind; nothing where no broker runs.
fn lag(facts: &Facts) -> Vec<Finding> {
    let Some(lags) = &facts.lags else { return Vec::new() };
    let far: Vec<Finding> = lags
        .iter()
        .filter(|lag| lag.messages > FAR_BEHIND)
        .take(MOST_GROUPS)
        .map(|lag| {
            let found = format!("{} is {} messages behind in {}", lag.group, lag.messages, lag.topic);
            let fix = format!(
                "`mq admin group status {0}`: who consumes, how fast and with how many failures; more consumers, or \
                 `mq admin offset skip {0} {1}` for what nobody needs",
                lag.group, lag.topic
            );
            Finding::warn("consumers", found, fix)
        })
        .collect();
    if far.is_empty() {
        let found = format!("no group of {} is more than {FAR_BEHIND} messages behind", lags.len());
        return vec![Finding::ok("consumers", found)];
    }
    far
}

/// Not every kernel tells.
fn unknown(what: &'static str) -> Finding {
    Finding::ok(what, "not told by this system")
}

fn bytes(count: u64) -> String {
    if count >= GIB { format!("{:.1} GiB", count as f64 / GIB as f64) } else { format!("{} MiB", count / MIB) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;
    use crate::admin::Lag;
    use crate::doctor::Verdict;
    use crate::doctor::facts::{Disk, SyncTimes};

    /// A machine without anything to say about.
    fn healthy() -> Facts {
        let port = Port { whose: "broker", address: ([127, 0, 0, 1], 10911).into(), state: PortState::Free };
        Facts {
            store_root: PathBuf::from("store"),
            segment_bytes: GIB,
            store: StoreState::Free,
            segments: 10,
            newest: Some(SystemTime::UNIX_EPOCH),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            disk: Some(Disk { free_bytes: 100 * GIB, total_bytes: 200 * GIB, file_system: Some("ext4".into()) }),
            syncs: Ok(SyncTimes { median: Duration::from_millis(1), slowest: Duration::from_millis(3) }),
            ports: vec![port],
            lags: Some(vec![Lag::new("packers", "orders", FAR_BEHIND)]),
            open_files: Some(1_000_000),
            overcommit: Some(1),
            max_map_count: Some(655_360),
            swappiness: Some(10),
            swap_bytes: Some(GIB),
            available_bytes: Some(8 * GIB),
        }
    }

    #[test]
    fn a_healthy_machine_passes_every_check_and_nothing_is_to_be_done() {
        for finding in all(&healthy()) {
            assert_eq!((finding.verdict, finding.fix.as_str()), (Verdict::Ok, ""), "{finding:?}");
        }
    }

    #[test]
    fn each_ailment_is_found_alone_and_its_fix_is_named() {
        type Ailment = fn(&mut Facts);
        let table: [(Ailment, Verdict, &str, &str); 19] = [
            (|facts| facts.store = StoreState::Locked, Verdict::Warn, "store", "one store, one broker"),
            (|facts| facts.store = StoreState::Unusable("denied".into()), Verdict::Fail, "store", "right to read"),
            (|facts| facts.disk = None, Verdict::Fail, "disk space", "can be reached"),
            (|facts| disk(facts).free_bytes = 2 * GIB - 1, Verdict::Fail, "disk space", "mappedFileSizeCommitLog"),
            (|facts| disk(facts).free_bytes = 2 * GIB, Verdict::Warn, "disk space", "fileReservedTime"),
            (|facts| disk(facts).file_system = Some("tmpfs".into()), Verdict::Warn, "file system", "use a disk"),
            (|facts| disk(facts).file_system = Some("nfs4".into()), Verdict::Warn, "file system", "a local disk"),
            (|facts| facts.syncs = Err("read-only".into()), Verdict::Fail, "fdatasync", "able to write"),
            (|facts| slow(facts), Verdict::Warn, "fdatasync", "ASYNC_FLUSH"),
            (|facts| facts.now = SystemTime::UNIX_EPOCH - Duration::from_secs(60), Verdict::Warn, "clock", "chrony"),
            (|facts| facts.ports[0].state = PortState::InUse, Verdict::Warn, "port", "ss -ltnp"),
            (|facts| facts.ports[0].state = PortState::Refused("no".into()), Verdict::Fail, "port", "choose another"),
            (|facts| facts.open_files = Some(1023), Verdict::Fail, "open files", "LimitNOFILE"),
            (|facts| facts.open_files = Some(1024), Verdict::Warn, "open files", "ulimit -n"),
            (|facts| facts.max_map_count = Some(4096), Verdict::Fail, "vm.max_map_count", "vm.max_map_count=655360"),
            (|facts| facts.overcommit = Some(2), Verdict::Warn, "vm.overcommit_memory", "vm.overcommit_memory=1"),
            (|facts| facts.swappiness = Some(60), Verdict::Warn, "vm.swappiness", "vm.swappiness=10"),
            (|facts| facts.available_bytes = Some(MIB), Verdict::Warn, "memory", "page cache"),
            (|facts| behind(facts), Verdict::Warn, "consumers", "mq admin group status packers"),
        ];
        for (ail, verdict, what, fix) in table {
            let mut facts = healthy();
            ail(&mut facts);
            let found: Vec<Finding> = all(&facts).into_iter().filter(|one| one.verdict != Verdict::Ok).collect();
            let [finding] = &found[..] else { panic!("{what}, {fix}: {found:?}") };
            assert_eq!((finding.verdict, finding.what), (verdict, what));
            assert!(finding.fix.contains(fix), "{finding:?}");
        }
    }

    #[test]
    fn swappiness_does_not_matter_without_swap() {
        let facts = Facts { swappiness: Some(60), swap_bytes: Some(0), ..healthy() };
        assert!(all(&facts).iter().all(|finding| finding.verdict == Verdict::Ok));
    }

    fn disk(facts: &mut Facts) -> &mut Disk {
        facts.disk.as_mut().expect("a healthy machine has one")
    }

    fn behind(facts: &mut Facts) {
        facts.lags = Some(vec![Lag::new("packers", "orders", FAR_BEHIND + 1), Lag::new("others", "orders", 1)]);
    }

    fn slow(facts: &mut Facts) {
        facts.syncs = Ok(SyncTimes { median: SLOW_SYNC + Duration::from_millis(1), slowest: Duration::from_secs(1) });
    }
}
