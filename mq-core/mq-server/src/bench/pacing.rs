//! Sends that leave by the clock. A thread of its own sleeps until each is due: the runtime's timers count in
//! milliseconds, as long as the times that are to be measured.

use std::io::{self, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::set_current_timer_slack;

use super::frames::Template;
use super::unix_ms;

/// Bytes of a body that the stamp takes: the run, and the microsecond at which the message was due.
pub(super) const STAMP_BYTES: usize = 16;
/// How much later than asked the kernel may wake the sender, in nanoseconds.
const TIMER_SLACK: NonZeroU64 = NonZeroU64::new(1000).expect("not zero");
/// How long the sender rests when the broker does not take what it writes.
const SOCKET_FULL_PAUSE: Duration = Duration::from_micros(50);

/// When each send is due, and how many have left.
pub(super) struct Pace {
    start: Instant,
    /// When the first send was due, in microseconds since the start.
    begun_us: AtomicU64,
    rate: u64,
    sent: AtomicU64,
    stop: AtomicBool,
}

/// The requests: one template for each queue, their bodies ending with the frame.
pub(super) struct Stamped {
    pub(super) templates: Vec<Template>,
    /// Body bytes.
    pub(super) size: usize,
}

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        let (begun_us, sent, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { start: Instant::now(), begun_us, rate, sent, stop }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub(super) fn due_us(&self, number: u64) -> u64 {
        self.begun_us.load(Ordering::Acquire) + (u128::from(number) * 1_000_000 / u128::from(self.rate)) as u64
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Sends what is due until told to stop, on the caller's thread. The first send is due now.
    pub(super) fn send(&self, socket: &TcpStream, requests: &Stamped) -> Result<()> {
        // Without it sends leave some 50 us late, and say so.
        let _ = set_current_timer_slack(Some(TIMER_SLACK));
        self.begun_us.store(self.now_us(), Ordering::Release);
        let (mut number, mut out) = (0, Vec::new());
        while !self.stop.load(Ordering::Acquire) {
            out.clear();
            while self.due_us(number) <= self.now_us() {
                requests.put(&mut out, number, self.due_us(number));
                number += 1;
            }
            self.sent.store(number, Ordering::Release);
            write_all(socket, &out).context("the server closed the connection")?;
            let pause = self.due_us(number).saturating_sub(self.now_us());
            thread::sleep(Duration::from_micros(pause));
        }
        Ok(())
    }
}

impl Stamped {
    fn put(&self, out: &mut Vec<u8>, number: u64, due_us: u64) {
        let template = &self.templates[(number % self.templates.len() as u64) as usize];
        template.put(out, 0, unix_ms(), number);
        let stamp = out.len() - self.size + STAMP_BYTES / 2;
        out[stamp..stamp + 8].copy_from_slice(&due_us.to_be_bytes());
    }
}

/// The socket belongs to the runtime, so it does not wait by itself.
fn write_all(mut socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(SOCKET_FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
