//! The limits that keep one client from taking the broker down. Each is a named error to that client, never an OOM.

use std::time::Duration;

/// Connections at once. Beyond it a new one is closed at once; 15,000 clients are planned for.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Requests of one connection that wait for the disk. When reached, its socket is not read until some are done.
pub const MAX_WAITING_REQUESTS: usize = 4096;
/// Bytes of answers that wait for the disk or that a peer has not taken yet. When reached, its socket is not read, what
/// was read waits, its held pulls and pops are not tried again, and it is not asked about halves, until it takes them.
pub const MAX_UNSENT_BYTES: usize = 4 << 20;
/// Requests posted to a connection from elsewhere that its session has not seen yet. When reached, more are refused.
pub const MAX_POSTED: usize = 4096;
/// Questions to one client, and requests of one connection that wait for another client's answer, at once.
pub const MAX_ASKED: usize = 4096;
/// Checks of half messages that one connection has yet to answer. Our own client works on 256 at once and drops the others,
/// which would be counted all the same. When reached, its checks wait, uncounted.
pub const MAX_UNANSWERED_CHECKS: usize = 200;
/// Requests of one connection on the blocking lane; while all are taken the socket is not read, and no held pull or pop is
/// tried again.
pub const MAX_BLOCKING_PER_CONNECTION: usize = 32;
/// Bytes of the bodies of requests that are on the blocking lane or wait for another client's answer. When reached, the
/// connection's socket is not read until some are done.
pub const MAX_ELSEWHERE_BYTES: usize = 4 << 20;
/// How long the bytes of one frame may take to arrive; less where `serverChannelMaxIdleTimeSeconds` is. A full frame needs
/// half a megabyte a second.
pub const FRAME_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of the smallest read, and so about what an idle connection costs.
pub const MIN_READ_BYTES: usize = 4 << 10;
/// Bytes of a buffer, and entries of a list, that a connection keeps from one use to the next.
pub const KEPT_BYTES: usize = 16 << 10;
pub const KEPT_ENTRIES: usize = 16;
/// Bytes of the largest read, and so the size of an append's batch.
pub const MAX_READ_BYTES: usize = 256 << 10;
/// Messages of one batch request: the queue offsets of all of them are reserved at once.
pub const MAX_BATCH_MESSAGES: usize = 4096;
/// Messages of one pull answer. Apache caps an answer at 32; more saves round trips when the reader asks for more.
pub const MAX_PULL_MESSAGES: usize = 1024;
/// Bytes of one pull answer, the first message excepted: as Apache.
pub const MAX_PULL_BYTES: usize = 256 << 10;
/// Bytes of the filter that a pull brings along: a held pull keeps it.
pub const MAX_EXPRESSION_BYTES: usize = 16 << 10;
/// Pulls that wait for a message at once, over all connections.
pub const MAX_HELD_PULLS: usize = 100_000;
/// Of these, of one connection, and as many of its pops: a client with 1,000 topics of 8 queues has 8,000.
pub const MAX_HELD_PER_CONNECTION: usize = 16_384;
/// The longest hold; clients give up on a pull after 30 s.
pub const MAX_HOLD: Duration = Duration::from_secs(20);
/// Of the 128 that tokio gives a task before others run: a session has eight turns.
pub(crate) const BUDGET_OF_A_TURN: usize = 16;
/// How long a client may take to answer a question of the broker's: as at Apache.
pub const CLIENT_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long the answer that a topic is there waits for the name servers; then it is as true as at Apache.
pub const ROUTED_WITHIN: Duration = Duration::from_secs(3);
/// The longest wait of a pop or notification; clients ask for some 15 to 30 s.
pub const MAX_POLL: Duration = Duration::from_secs(60);
/// The longest time that a pop or a consumer may ask for a message to stay away: that of Apache's proxy. The log keeps what
/// is in flight, so that without it one pop could keep all of the log.
pub const MAX_INVISIBLE: Duration = Duration::from_secs(12 * 3600);
/// How long a stop waits for answers on their way.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How long accepting rests after an error of the listener, so that a full descriptor table does not spin a core.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
