//! `mq` as a child process, killed when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Bounds a failing test; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Mq {
    child: Child,
    lines: Receiver<String>,
    pub(crate) said: Vec<String>,
    pub(crate) started: Instant,
}

impl Mq {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let started = Instant::now();
        Self::start_saying(arguments, Stdio::inherit(), started)
    }

    fn start_saying(arguments: &[&str], stderr: Stdio, started: Instant) -> Self {
        let mut child = command(arguments).stderr(stderr).spawn().expect("mq starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, said: Vec::new(), started }
    }

    /// `mq up` on free ports and a store directory, ready.
    pub(crate) fn up(store: &Path, more: &[&str]) -> Self {
        let store = store.to_str().expect("a plain path");
        let mut mq = Self::start(&[&["up", "--store", store, "--port", "0", "--namesrv-port", "0"], more].concat());
        mq.until_ready();
        mq
    }

    /// The same, with its stderr in a file.
    pub(crate) fn up_with_stderr(store: &Path, errors: &Path) -> Self {
        let store = store.to_str().expect("a plain path");
        let errors = std::fs::File::create(errors).expect("a file");
        let arguments = ["up", "--store", store, "--port", "0", "--namesrv-port", "0"];
        let mut mq = Self::start_saying(&arguments, errors.into(), Instant::now());
        mq.until_ready();
        mq
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it says something")
    }

    pub(crate) fn until_ready(&mut self) {
        while self.said.last().is_none_or(|line| line != "ready") {
            self.said.push(self.lines.recv_timeout(PATIENCE).expect("it says more until it is ready"));
        }
    }

    /// The address in the line that starts with `part`.
    pub(crate) fn address(&self, part: &str) -> SocketAddr {
        let line = self.said.iter().find_map(|line| line.strip_prefix(part)).expect("it said its addresses");
        line.split_whitespace().next().expect("an address").parse().expect("an address")
    }

    pub(crate) fn broker(&self) -> SocketAddr {
        self.address("broker ")
    }

    pub(crate) fn anonymous_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// SIGTERM, and what it ended with.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "mq ignores SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }
}

impl Drop for Mq {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs to its end: whether it succeeded, and what it said on stderr.
pub(crate) fn outcome(arguments: &[&str]) -> (bool, String) {
    let mut child = command(arguments).stderr(Stdio::piped()).spawn().expect("mq starts");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (child.wait().expect("a child").success(), said)
}

/// The same, with what it printed on stdout.
pub(crate) fn printed(arguments: &[&str]) -> (bool, String, String) {
    let output = command(arguments).stderr(Stdio::piped()).output().expect("mq starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The same, for one who types this line.
pub(crate) fn printed_when_told(arguments: &[&str], line: &str) -> (bool, String, String) {
    let mut child = command(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mq starts");
    writeln!(child.stdin.take().expect("piped"), "{line}").expect("it reads");
    let output = child.wait_with_output().expect("mq ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq"));
    command
        .args(arguments)
        .env_remove("NAMESRV_ADDR")
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
