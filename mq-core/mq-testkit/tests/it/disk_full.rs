//! The real `mq` on a file system of 64 MiB: what it says when that is full, what goes on, and how it comes back.

use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::{Duration, Instant};

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{PullMessage, PullMessageResponse, SendMessage, SendMessageResponse};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::record;
use mq_testkit::process::MqProcess;
use mq_testkit::report;
use mq_testkit::wire::Peer;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(60);
const BODY_BYTES: usize = 60_000;
const CONFIGURATION: &str = "\
mappedFileSizeCommitLog=4194304
minFreeDiskBytes=4194304
cleanFileForciblyEnable=false
diskMaxUsedSpaceRatio=95
";

/// A small file system, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the right to mount, which root has on most machines and in few containers.
    fn mount(on: &Path) -> Option<Self> {
        let mounted = Program::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "checkback-test"]).arg(on).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(on.into()));
        }
        report::show(
            "90 skipped disk_full",
            "SKIPPED disk_full: no right to mount a file system; run as root to test it",
        );
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

struct Client(Peer);

impl Client {
    fn of(mq: &MqProcess) -> Self {
        Self(Peer::connect(mq.broker).unwrap())
    }

    fn send(&mut self, number: usize) -> Command {
        let header = SendMessage { queue_id: 0, ..SendMessage::new("producers".into(), "T".into()) };
        let mut body = number.to_string().into_bytes();
        body.resize(BODY_BYTES, b' ');
        let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(body);
        header.encode_v2(&mut command.ext);
        self.0.ask(command, WAIT).unwrap()
    }

    /// Sends until it is refused; what the refusal says.
    fn fill(&mut self, acknowledged: &mut Vec<u64>) -> String {
        for _ in 0..2_000 {
            let answer = self.send(acknowledged.len());
            if answer.code != response::SUCCESS {
                assert_eq!(answer.code, response::SERVICE_NOT_AVAILABLE, "{:?}", answer.remark);
                return answer.remark.unwrap().to_string();
            }
            acknowledged.push(answer.header::<SendMessageResponse>().unwrap().queue_offset.0);
        }
        panic!("64 MiB hold no 120 MB");
    }

    fn read_all(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let from = numbers.len() as i64;
            let header = PullMessage::new(mq_protocol::topic::TOOLS_GROUP.into(), "T".into(), QueueId(0), from);
            let answer = self.0.ask(Command::request_with(request::PULL_MESSAGE, &header), WAIT).unwrap();
            if answer.code != response::SUCCESS {
                return numbers;
            }
            for stored in record::decode_all(&answer.body).unwrap() {
                assert_eq!(stored.queue_offset, QueueOffset(numbers.len() as u64));
                let body = std::str::from_utf8(&stored.message.body).unwrap();
                numbers.push(body.trim_end().parse().unwrap());
            }
            assert_eq!(answer.header::<PullMessageResponse>().unwrap().next_begin_offset.0, numbers.len() as u64);
        }
    }
}

#[test]
fn a_full_disk_is_named_reads_go_on_nothing_is_lost_and_sends_come_back_by_themselves() {
    let directory = TempDir::new().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path()) else { return };
    let ballast = directory.path().join("ballast");
    std::fs::write(&ballast, vec![7; 16 << 20]).unwrap();
    let mut mq = MqProcess::new(directory.path(), CONFIGURATION).unwrap();
    mq.start().unwrap();
    let mut client = Client::of(&mq);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let remark = client.fill(&mut acknowledged);
        let path = mq.store().join("commitlog");
        let named = remark.contains(&path.display().to_string()) && remark.contains(&format!("of {} bytes", 64 << 20));
        assert!(named, "path, use and limit: {remark}");
        let expected: Vec<u64> = (0..acknowledged.len() as u64).collect();
        assert_eq!(acknowledged, expected, "round {round}");
        assert_eq!(client.read_all(), expected, "round {round}: reads go on");
        match round {
            0 => {
                // Space is freed, and nobody tells the broker.
                std::fs::remove_file(&ballast).unwrap();
                let deadline = Instant::now() + WAIT;
                loop {
                    let answer = client.send(acknowledged.len());
                    if answer.code == response::SUCCESS {
                        acknowledged.push(answer.header::<SendMessageResponse>().unwrap().queue_offset.0);
                        break;
                    }
                    assert!(Instant::now() < deadline, "{:?}", answer.remark);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            1 => {
                mq.kill().unwrap();
                mq.start().unwrap();
                client = Client::of(&mq);
                assert_eq!(client.read_all(), expected, "after SIGKILL on the full disk");
            }
            _ => {}
        }
    }
    assert!(acknowledged.len() * BODY_BYTES > 40 << 20, "{} messages", acknowledged.len());
    assert!(mq.stop().unwrap().success(), "a clean end on a full disk:\n{}", mq.log());
}
