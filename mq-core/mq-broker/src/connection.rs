//! The handle of a client's connection: who it is, whether it lives, and a way to send to it from anywhere.
//!
//! The socket itself belongs to the connection's `session`. A handle only posts to it, and never waits.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use mq_protocol::command::Command;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use crate::elsewhere::Elsewhere;
use crate::handlers::Handled;
use crate::limits::{CLIENT_ANSWERS_WITHIN, MAX_ASKED, MAX_POSTED, MAX_UNANSWERED_CHECKS, MAX_UNSENT_BYTES};
use crate::pop::Poll;
use crate::pulling::Pull;

/// Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed, or its peer does not take what was sent")]
pub struct Closed;

/// Why a question of the broker's has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("it did not answer within {0:?}")]
    Late(Duration),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    id: ConnectionId,
    peer: SocketAddr,
    closed: AtomicBool,
    opaque: AtomicI32,
    posted: Mutex<Posted>,
    /// Requests of the broker's that the peer has yet to answer.
    asked: Mutex<HashMap<i32, oneshot::Sender<Command>>>,
    changed: Notify,
    /// Bytes that the peer had not taken when the session last looked.
    unsent: AtomicUsize,
    checks: Mutex<Checks>,
}

/// Checks that the peer was sent and has not answered.
struct Checks {
    unanswered: usize,
    /// When it was last sent the first of them, or answered one.
    heard: Instant,
}

#[derive(Default)]
struct Posted {
    mails: Vec<Mail>,
    /// Of the bodies of the broker's own requests.
    bytes: usize,
}

/// What an answer is counted by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// `None`: it is counted already.
    pub(crate) code: Option<i32>,
    pub(crate) since: Instant,
    pub(crate) long_polling: bool,
}

/// What others hand to a session.
pub(crate) enum Mail {
    /// A request of the broker's own, or an answer that was worked out elsewhere.
    Command(Command),
    Woken(Woken),
    /// A reply that was worked out elsewhere.
    Back {
        from: Elsewhere,
        request: Command,
        origin: Origin,
        /// Of the request's body.
        bytes: usize,
        handled: Handled,
    },
}

/// What was held and is to be tried again.
pub(crate) enum Woken {
    Pull(Box<Pull>),
    /// A pop or notification.
    Poll(Box<Poll>),
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
            asked: Mutex::default(),
            changed: Notify::new(),
            unsent: AtomicUsize::new(0),
            checks: Mutex::new(Checks { unanswered: 0, heard: Instant::now() }),
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
        self.0.asked.lock().clear();
        self.0.changed.notify_one();
    }

    /// Sends a request of the broker (codes 39, 40, …) with an `opaque` of its own. `Ok` means: handed to a live
    /// connection, not: received.
    pub fn send(&self, mut request: Command) -> Result<(), Closed> {
        request.opaque = self.next_opaque();
        self.post_request(request)
    }

    /// Sends a check of a half message, unless the peer has too many to answer: `Ok(false)`. What it does not answer in time
    /// is not waited for.
    pub(crate) fn check(&self, request: Command) -> Result<bool, Closed> {
        {
            let (now, mut checks) = (Instant::now(), self.0.checks.lock());
            if checks.unanswered == 0 || now - checks.heard > CLIENT_ANSWERS_WITHIN {
                *checks = Checks { unanswered: 0, heard: now };
            }
            if checks.unanswered >= MAX_UNANSWERED_CHECKS {
                return Ok(false);
            }
            checks.unanswered += 1;
        }
        self.send(request).map(|()| true)
    }

    /// The peer has answered a check.
    pub(crate) fn check_answered(&self) {
        let mut checks = self.0.checks.lock();
        *checks = Checks { unanswered: checks.unanswered.saturating_sub(1), heard: Instant::now() };
    }

    /// Asks the client something and waits for its answer, whatever the answer's code.
    pub(crate) async fn ask(&self, mut request: Command, within: Duration) -> Result<Command, Unanswered> {
        request.opaque = self.next_opaque();
        let (answer, answered) = oneshot::channel();
        let _asked = {
            let mut asked = self.0.asked.lock();
            if asked.len() >= MAX_ASKED || self.is_closed() {
                return Err(Closed.into());
            }
            asked.insert(request.opaque, answer);
            Asked { connection: self, opaque: request.opaque }
        };
        self.post_request(request)?;
        match timeout(within, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Closed.into()),
            Err(_) => Err(Unanswered::Late(within)),
        }
    }

    /// The peer's answer; false: nobody waits for it (any more).
    pub(crate) fn answered(&self, answer: Command) -> bool {
        let waiting = self.0.asked.lock().remove(&answer.opaque);
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    fn next_opaque(&self) -> i32 {
        self.0.opaque.fetch_add(1, Ordering::Relaxed)
    }

    fn post_request(&self, request: Command) -> Result<(), Closed> {
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

    /// The same of several, with one wake-up.
    pub(crate) fn answer_all(&self, mails: impl Iterator<Item = Mail>) {
        {
            let mut posted = self.0.posted.lock();
            if self.is_closed() {
                return;
            }
            posted.mails.extend(mails);
        }
        self.0.changed.notify_one();
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

/// Forgets the question when nobody waits for the answer any more.
struct Asked<'c> {
    connection: &'c Connection,
    opaque: i32,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.connection.0.asked.lock().remove(&self.opaque);
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

    #[tokio::test]
    async fn a_question_ends_with_its_answer_its_time_or_the_connection() {
        let connection = Connection::new(ConnectionId(1), ([127, 0, 0, 1], 1).into());
        let ask = |within| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.ask(Command::request(307), within).await })
        };
        let long = Duration::from_secs(600);
        let first = ask(long);
        connection.changed().await;
        let [Mail::Command(request)] = &connection.take_posted()[..] else { panic!("one request was posted") };
        assert!(connection.answered(request.response(0)));
        assert_eq!(first.await.expect("no panic").expect("answered").opaque, request.opaque);
        assert!(!connection.answered(request.response(0)), "nobody waits twice");
        let brief = Duration::from_millis(1);
        assert_eq!(ask(brief).await.expect("no panic").map(drop), Err(Unanswered::Late(brief)));
        assert!(connection.0.asked.lock().is_empty(), "what is over is forgotten");
        connection.take_posted();
        let last = ask(long);
        while connection.take_posted().is_empty() {
            connection.changed().await;
        }
        connection.close();
        assert_eq!(last.await.expect("no panic").map(drop), Err(Closed.into()));
        assert_eq!(ask(long).await.expect("no panic").map(drop), Err(Closed.into()));
    }
}
