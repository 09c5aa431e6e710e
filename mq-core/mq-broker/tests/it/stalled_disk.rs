//! A disk whose syncs take long: who waits for one is not cut off, and who would wait too long is told so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::codes::response;
use mq_store::backend::{Entry, File, LockGuard, Space, Usage};
use mq_store::{Backend, MemoryBackend};
use parking_lot::{Condvar, Mutex};

use crate::harness::{Send, World};

/// Longer than a busy machine takes between two requests.
const IDLE: Duration = Duration::from_secs(20);

/// Whether syncs wait.
#[derive(Clone, Default)]
struct Stall(Arc<(Mutex<bool>, Condvar)>);

impl Stall {
    fn set(&self, stalls: bool) {
        *self.0.0.lock() = stalls;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        self.0.1.wait_while(&mut self.0.0.lock(), |stalls| *stalls);
    }
}

#[derive(Default)]
struct StalledDisk {
    files: MemoryBackend,
    stall: Stall,
}

struct StalledFile {
    file: Arc<dyn File>,
    stall: Stall,
}

impl StalledDisk {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(StalledFile { file, stall: self.stall.clone() })
    }
}

impl Backend for StalledDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.files.open(path).map(|file| self.file(file))
    }

    fn create(&self, path: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn File>> {
        self.files.create(path, bytes, space).map(|file| self.file(file))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        self.files.list(directory)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.files.sync_directory(directory)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.files.sync_all()
    }

    fn lock(&self, path: &str) -> io::Result<LockGuard> {
        self.files.lock(path)
    }

    fn usage(&self) -> io::Result<Usage> {
        self.files.usage()
    }

    fn locate(&self, path: &str) -> String {
        self.files.locate(path)
    }
}

impl File for StalledFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn resize(&self, bytes: u64, space: Space) -> io::Result<()> {
        self.file.resize(bytes, space)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(at, into)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(at, bytes)
    }

    fn zero(&self, at: u64, bytes: u64, space: Space) -> io::Result<()> {
        self.file.zero(at, bytes, space)
    }

    fn sync(&self) -> io::Result<()> {
        self.stall.wait();
        self.file.sync()
    }

    fn map(&self) -> io::Result<Option<Bytes>> {
        self.file.map()
    }
}

#[tokio::test]
async fn a_connection_that_is_silent_for_too_long_is_closed_unless_it_speaks_or_waits_for_the_broker() {
    let disk = Arc::new(StalledDisk::default());
    let broker = World::on(disk.clone()).start_with(|config| config.max_idle = IDLE).await;
    let (mut silent, mut speaking, mut waiting) =
        (broker.connect().await, broker.connect().await, broker.connect().await);
    waiting.send(Send::to("T")).await;
    disk.stall.set(true);
    let sent = waiting.post(Send::to("T").command()).await;
    waiting.max_offset("T", 0).await;
    silent.max_offset("T", 0).await;
    let speak = async {
        loop {
            speaking.max_offset("T", 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        end = silent.read() => assert!(end.is_none()),
        () = speak => unreachable!("it speaks until the other is closed"),
    }
    speaking.max_offset("T", 0).await;
    disk.stall.set(false);
    assert_eq!(waiting.answer(sent).await.code, response::SUCCESS, "it said nothing for longer than the other");
    waiting.send(Send::to("T")).await;
}

#[tokio::test]
async fn sends_behind_one_that_waits_for_the_disk_too_long_are_refused_and_told_when_to_come_again() {
    let disk = Arc::new(StalledDisk::default());
    let broker = World::on(disk.clone()).start_with(|config| config.disk_busy_after = Duration::ZERO).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    client.send(Send::to("T")).await;
    disk.stall.set(true);
    let first = client.post(Send::to("T").command()).await;
    client.max_offset("T", 0).await;
    let refused = client.call(Send::to("T").command()).await;
    let remark = refused.remark.unwrap();
    assert_eq!(refused.code, response::SYSTEM_BUSY, "{remark}");
    assert!(remark.contains("osPageCacheBusyTimeOutMills") && remark.contains("retry after"), "{remark}");
    let others = other.post(Send::to("T").command()).await;
    other.max_offset("T", 0).await;
    disk.stall.set(false);
    for (client, opaque) in [(&mut client, first), (&mut other, others)] {
        assert_eq!(client.answer(opaque).await.code, response::SUCCESS, "what was taken is kept");
    }
    assert_eq!(client.send(Send::to("T")).await.queue_offset.0, 3, "and what was refused was not");
}
