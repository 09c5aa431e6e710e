//! A child process is killed at a named point; what it acknowledged, and what the point left, is found by its parent.

use std::process::Command;
use std::time::Duration;

use mq_store::{FileBackend, arm_failpoints};

use crate::support::*;

const DIRECTORY: &str = "STORE_FAILPOINT_DIRECTORY";

/// The child: acknowledges groups of two messages until the failpoint ends it. Does nothing when no parent is there.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    arm_failpoints();
    let (store, _) = open(&FileBackend::new(&directory).unwrap(), small());
    for n in 0..10 {
        send(&store, vec![message("T", 0, format!("{n}")), message("U", 0, format!("{n}"))]);
        std::fs::write(format!("{directory}/acknowledged"), (n + 1).to_string()).unwrap();
        if n == 1 {
            store.settle().unwrap();
        }
    }
}

#[test]
fn each_point_leaves_what_its_name_says() {
    for (point, mode, left) in [
        ("store-after-append", "kill", 8),
        ("store-after-append", "power-cut", 6),
        ("store-before-flush", "kill", 8),
        ("store-before-flush", "power-cut", 6),
        ("store-after-flush", "kill", 8),
        ("store-after-flush", "power-cut", 8),
        ("store-torn-group", "kill", 7),
        ("store-torn-group", "power-cut", 7),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "failpoints::child"])
            .env(DIRECTORY, directory.path())
            .env("FAILPOINTS", format!("{point}=3*off->return({mode})"))
            .output()
            .unwrap();
        assert!(!status.status.success(), "{point} ({mode}) did not end the child");
        let acknowledged = std::fs::read_to_string(directory.path().join("acknowledged")).unwrap();
        assert_eq!(acknowledged, "3", "{point} ({mode})");
        let (store, report) = open(&FileBackend::new(directory.path()).unwrap(), small());
        assert!(!report.clean);
        assert_eq!(bodies(&store, "T", 0).len() + bodies(&store, "U", 0).len(), left, "{point} ({mode})");
        let next = send(&store, vec![message("T", 0, "next")]);
        assert_eq!(next.records[0].1.0, left.div_ceil(2) as u64, "numbering goes on");
        store.wait_durable(next.end, Duration::from_secs(120)).unwrap();
    }
}
