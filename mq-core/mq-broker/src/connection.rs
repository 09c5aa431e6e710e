//! The handle of a client's connection: who it is, whether it lives, and a way to send to it from anywhere.
//!
//! The socket itself belongs to the connection's `session`. A handle only posts to it, and never waits.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use mq_protocol::command::Command;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::handlers::Handled;
use crate::limits::{MAX_POSTED, MAX_UNSENT_BYTES};
use crate::pulling::Pull;

/// Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed, or its peer does not take what was sent")]
pub struct Closed;

/// Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    id: ConnectionId,
    peer: SocketAddr,
    closed: AtomicBool,
    opaque: AtomicI32,
    posted: Mutex<Posted>,
    changed: Notify,
    /// Bytes that the peer had not taken when the session last looked.
    unsent: AtomicUsize,
}

#[derive(Default)]
struct Posted {
    mails: Vec<Mail>,
    /// Of the bodies of the broker's own requests.
    bytes: usize,
}

/// What others hand to a session.
pub(crate) enum Mail {
    /// A request of the broker's own, or an answer that was worked out elsewhere.
    Command(Command),
    /// A pull that was held and is to be answered now.
    Pull(Box<Pull>),
    /// A reply that was worked out on the blocking lane.
    FromLane(Command, Handled),
}

impl Connection {
    #[must_use]
    pub fn new(id: ConnectionId, peer: SocketAddr) -> Self {
        Self(Arc::new(Shared {
            id,
            peer,
            closed: AtomicBool::new(false),
            opaque: AtomicI32::new(0),
            posted: Mutex::default(),
            changed: Notify::new(),
            unsent: AtomicUsize::new(0),
        }))
    }

    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.0.id
    }

    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Asks the session to end. What was posted before may or may not be written.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }

    /// Sends a request of the broker (codes 39, 40, …) with an `opaque` of its own. `Ok` means: handed to a live
    /// connection, not: received.
    pub fn send(&self, mut request: Command) -> Result<(), Closed> {
        request.opaque = self.0.opaque.fetch_add(1, Ordering::Relaxed);
        let bytes = request.body.len();
        self.post(Mail::Command(request), |posted| {
            let unsent = posted.bytes + self.0.unsent.load(Ordering::Relaxed);
            let has_room = posted.mails.len() < MAX_POSTED && (bytes == 0 || unsent < MAX_UNSENT_BYTES);
            posted.bytes += if has_room { bytes } else { 0 };
            has_room
        })
    }

    /// Hands an answer to the session. Answers are bounded by the requests that were read.
    pub(crate) fn answer(&self, mail: Mail) {
        // A closed connection has nobody to answer.
        let _ = self.post(mail, |_| true);
    }

    fn post(&self, mail: Mail, has_room: impl FnOnce(&mut Posted) -> bool) -> Result<(), Closed> {
        {
            let mut posted = self.0.posted.lock();
            if self.is_closed() || !has_room(&mut posted) {
                return Err(Closed);
            }
            posted.mails.push(mail);
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Completes when something was posted since the last `take_posted`, or the connection was closed.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(crate) fn take_posted(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.0.posted.lock()).mails
    }

    /// The session says how much its peer has yet to take.
    pub(crate) fn set_unsent(&self, bytes: usize) {
        self.0.unsent.store(bytes, Ordering::Relaxed);
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (connection {})", self.peer(), self.id().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_takes_nothing_is_asked_no_more_than_the_limit() {
        let connection = Connection::new(ConnectionId(1), ([127, 0, 0, 1], 1).into());
        let check = || Command::request(39).with_body(vec![0; MAX_UNSENT_BYTES / 4]);
        for (check_no, taken) in [(1, Ok(())), (2, Ok(())), (3, Ok(())), (4, Ok(())), (5, Err(Closed))] {
            assert_eq!(connection.send(check()), taken, "check {check_no}");
        }
        assert_eq!(connection.take_posted().len(), 4);
        connection.set_unsent(MAX_UNSENT_BYTES);
        assert_eq!(connection.send(check()), Err(Closed), "the session has it, the peer does not");
        assert_eq!(connection.send(Command::request(40)), Ok(()), "a word is always possible");
        connection.set_unsent(0);
        assert_eq!(connection.send(check()), Ok(()));
        connection.close();
        assert_eq!(connection.send(Command::request(40)), Err(Closed));
    }
}
