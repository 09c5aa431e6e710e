//! One connection's life: read frames, hand them to the handlers, write what is ready.
//!
//! All of it happens on the connection's own task, without a lock or a hop per message. It keeps reading while replies
//! wait for the disk, until a limit is reached; then the peer feels it through TCP.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use mq_protocol::ids::LogOffset;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use txn_coordinator::StoredHalf;

use crate::broker::Broker;
use crate::connection::{Connection, Mail};
use crate::handlers::error::Refusal;
use crate::handlers::transaction::{Judged, Verdicts};
use crate::handlers::{self, Handled, Reply};
use crate::limits;
use crate::output::{Encode, Output};
use crate::sending::Sends;
use crate::waiting::Waiting;

pub(crate) struct Session {
    broker: Arc<Broker>,
    socket: TcpStream,
    connection: Connection,
    shutdown: CancellationToken,
    input: BytesMut,
    /// Grows while reads fill it, shrinks when they do not: an idle connection keeps little.
    read_bytes: usize,
    sends: Sends,
    verdicts: Verdicts,
    output: Output,
    waiting: Waiting,
    /// Requests on the blocking lane.
    lane: usize,
    /// Requests that wait for another client.
    later: usize,
    heard: Instant,
    /// When the first bytes of a frame came that is not whole yet.
    half_since: Option<Instant>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed the connection")]
    PeerClosed,
    #[error("closed by the broker")]
    Closed,
    #[error("nothing was heard for {:?}", .0)]
    Idle(Duration),
    #[error("a frame is not whole after {:?}", .0)]
    HalfFrame(Duration),
    #[error("stopping")]
    Stopping,
    #[error("the stream cannot be trusted: {0}")]
    Malformed(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Session {
    pub(crate) fn new(
        broker: Arc<Broker>,
        socket: TcpStream,
        connection: Connection,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            broker,
            socket,
            connection,
            shutdown,
            input: BytesMut::new(),
            read_bytes: limits::MIN_READ_BYTES,
            sends: Sends::default(),
            verdicts: Verdicts::default(),
            output: Output::default(),
            waiting: Waiting::default(),
            lane: 0,
            later: 0,
            heard: Instant::now(),
            half_since: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let end = self.live().await;
        match end {
            End::Malformed(_) => info!(connection = ?self.connection, "closed: {end}"),
            _ => debug!(connection = ?self.connection, "closed: {end}"),
        }
    }

    async fn live(&mut self) -> End {
        let mut durable = self.broker.durable.subscribe();
        let stop = self.shutdown.clone();
        let idle = self.broker.live().max_idle;
        let frame_within = limits::FRAME_WITHIN.min(idle);
        let timer = sleep_until(self.heard + idle);
        tokio::pin!(timer);
        let mut stopping = false;
        loop {
            // Copied first: the store's thread waits for whoever still looks, and may hold what a release waits for.
            let up_to = *durable.borrow_and_update();
            self.release(up_to);
            if let Err(error) = self.output.write_to(&self.socket) {
                return error.into();
            }
            self.connection.set_unsent(self.output.bytes());
            if self.connection.is_closed() {
                return End::Closed;
            }
            if stopping && self.is_settled() {
                return End::Stopping;
            }
            if let Some(since) = self.half_since
                && !stopping
                && timer.deadline() > since + frame_within
            {
                timer.as_mut().reset(since + frame_within);
            }
            let outcome = tokio::select! {
                ready = self.socket.readable(), if !stopping && self.may_read() => {
                    ready.map_err(End::from).and_then(|()| self.read())
                }
                ready = self.socket.writable(), if !self.output.is_empty() => ready.map_err(End::from),
                _ = durable.changed(), if !self.waiting.is_empty() => Ok(()),
                () = self.connection.changed() => {
                    self.take_posted();
                    Ok(())
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    timer.as_mut().reset(Instant::now() + limits::DRAIN);
                    Ok(())
                }
                () = &mut timer => {
                    let (now, quiet_until) = (Instant::now(), self.heard + idle);
                    if !self.may_read() {
                        // It is this side that keeps the rest of the frame waiting.
                        self.half_since = self.half_since.map(|_| now);
                    }
                    let whole_until = self.half_since.map_or(quiet_until, |since| since + frame_within);
                    if stopping {
                        Err(End::Stopping)
                    } else if now >= quiet_until {
                        Err(End::Idle(idle))
                    } else if now >= whole_until {
                        Err(End::HalfFrame(frame_within))
                    } else {
                        timer.as_mut().reset(quiet_until.min(whole_until));
                        Ok(())
                    }
                }
            };
            if let Err(end) = outcome {
                // What was answered before a malformed frame still goes out, if the socket takes it at once.
                let _ = self.output.write_to(&self.socket);
                return end;
            }
        }
    }

    fn may_read(&self) -> bool {
        self.waiting.requests() < limits::MAX_WAITING_REQUESTS
            && self.output.bytes() < limits::MAX_UNSENT_BYTES
            && self.lane < limits::MAX_BLOCKING_PER_CONNECTION
            && self.later < limits::MAX_ASKED
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.output.is_empty() && self.lane == 0 && self.later == 0
    }

    fn read(&mut self) -> Result<(), End> {
        self.input.reserve(self.read_bytes);
        match self.socket.try_read_buf(&mut self.input) {
            Ok(0) => return Err(End::PeerClosed),
            Ok(read) => self.adapt_read_size(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.heard = Instant::now();
        let taken = self.take_frames();
        let goes_on = matches!(taken, Ok(0));
        self.half_since = self.half_since.filter(|_| goes_on).or(Some(self.heard)).filter(|_| !self.input.is_empty());
        // Also when a malformed frame came behind them: what was read before it is done.
        self.append_sends();
        self.end_transactions();
        if !self.waiting.is_empty() {
            self.broker.hurry();
        }
        taken?;
        if self.input.is_empty() && self.read_bytes == limits::MIN_READ_BYTES {
            // Nothing half read and little traffic: an idle connection keeps no buffer.
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// Says how many.
    fn take_frames(&mut self) -> Result<usize, FrameError> {
        let mut taken = 0;
        while let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES)? {
            self.take(Command::decode(frame)?);
            taken += 1;
        }
        Ok(taken)
    }

    fn adapt_read_size(&mut self, read: usize) {
        if read >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(limits::MAX_READ_BYTES);
        } else if read < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(limits::MIN_READ_BYTES);
        }
    }

    fn take(&mut self, command: Command) {
        if command.is_response() {
            let code = command.code;
            if !self.connection.answered(command) {
                debug!(connection = ?self.connection, code, "an answer that nobody waits for");
            }
            return;
        }
        if handlers::send::is_send(command.code) {
            let ready = self.refuse_if_behind();
            match ready.and_then(|()| handlers::send::prepare(&self.broker, &self.connection, &command)) {
                Ok(prepared) => self.sends.push(prepared),
                Err(refusal) if command.is_oneway() => debug!(connection = ?self.connection, "{}", refusal.remark),
                Err(refusal) => self.output.push(&handlers::send::refuse(&self.broker, refusal, &command)),
            }
            return;
        }
        if command.code == request::END_TRANSACTION {
            if let Err(refusal) = self.verdicts.push(&command) {
                self.reply(command, Err(refusal));
            }
            return;
        }
        let handled = handlers::dispatch(&self.broker, &self.connection, &command);
        self.reply(command, handled);
    }

    /// Answers wait for the disk too long: a client does better with another broker, or later.
    fn refuse_if_behind(&self) -> Result<(), Refusal> {
        let (behind, limit) = (self.waiting.longest(self.heard), self.broker.config.disk_busy_after);
        if behind > limit { Err(Refusal::disk_busy(behind, limit)) } else { Ok(()) }
    }

    /// One append, under one lock, for all sends of a read.
    fn append_sends(&mut self) {
        if self.sends.is_empty() {
            return;
        }
        let mut sends = std::mem::take(&mut self.sends);
        let broker = self.broker.clone();
        sends.append(&broker, &self.connection.clone(), |mut sent| {
            if sent.to_new_topic
                && let Some(receipt) = sent.answer.take()
            {
                self.start_receipt_of_new_topic(receipt.into_command(), sent.waits_until);
            }
            match (sent.waits_until, sent.answer) {
                (Some(at), answer) => {
                    self.waiting.push(at, self.heard, answer.as_ref().map(|answer| answer as &dyn Encode), sent.half);
                }
                (None, Some(answer)) => self.output.push(&answer),
                (None, None) => {}
            }
        });
        self.sends = sends;
    }

    /// The receipt leaves once the name servers know the topic and the log is durable up to `at`; the sends behind it do
    /// not wait with it.
    fn start_receipt_of_new_topic(&mut self, receipt: Command, at: Option<LogOffset>) {
        let (broker, answer) = (self.broker.clone(), receipt.clone());
        let later = async move {
            broker.routed().await;
            Ok(match at {
                Some(at) => Reply::Durable { at, answer },
                None => Reply::Now(answer),
            })
        };
        self.start_later(Box::pin(later), receipt);
    }

    /// The same for all verdicts.
    fn end_transactions(&mut self) {
        if self.verdicts.is_empty() {
            return;
        }
        let mut verdicts = std::mem::take(&mut self.verdicts);
        let broker = self.broker.clone();
        verdicts.end(&broker, |Judged { answer, waits_until }| match waits_until {
            Some(at) => self.waiting.push(at, self.heard, Some(&answer), None),
            None => self.output.push(&answer),
        });
        self.verdicts = verdicts;
    }

    fn reply(&mut self, request: Command, handled: Handled) {
        let reply = handled.unwrap_or_else(|refusal| Reply::Now(refusal.answer(&request)));
        match reply {
            Reply::Blocking(job) => self.start_on_lane(job, request),
            Reply::Later(later) => self.start_later(later, request),
            _ if request.is_oneway() => {}
            reply => self.push(reply),
        }
    }

    fn push(&mut self, reply: Reply) {
        match reply {
            Reply::None | Reply::Blocking(_) | Reply::Later(_) => {}
            Reply::Now(answer) => self.output.push(&answer),
            Reply::Durable { at, answer } => self.waiting.push(at, self.heard, Some(&answer), None),
            Reply::Slices { head, slices, bytes } => self.output.push_slices(&head, slices, bytes),
        }
    }

    fn start_on_lane(&mut self, job: handlers::Job, request: Command) {
        self.lane += 1;
        let (broker, connection) = (self.broker.clone(), self.connection.clone());
        tokio::task::spawn_blocking(move || {
            // A bug in one request must not take the connection's other requests along.
            let handled = catch_unwind(AssertUnwindSafe(|| job(&broker))).unwrap_or_else(|_| Err(Refusal::broken()));
            connection.answer(Mail::FromLane(request, handled));
        });
    }

    fn start_later(&mut self, later: handlers::Later, request: Command) {
        self.later += 1;
        let connection = self.connection.clone();
        tokio::spawn(async move { connection.answer(Mail::FromLater(request, later.await)) });
    }

    fn take_posted(&mut self) {
        for mail in self.connection.take_posted() {
            match mail {
                Mail::Command(command) => self.output.push(&command),
                Mail::Pull(pull) => {
                    let request = pull.answer.clone();
                    let woken = handlers::pull::woken(&self.broker, &self.connection, *pull);
                    self.reply(request, Ok(woken));
                }
                Mail::Poll(poll) => {
                    let request = poll.answer.clone();
                    let woken = handlers::pop::woken(&self.broker, &self.connection, *poll);
                    self.reply(request, Ok(woken));
                }
                Mail::FromLane(request, handled) => {
                    self.lane -= 1;
                    self.reply(request, handled);
                }
                Mail::FromLater(request, handled) => {
                    self.later -= 1;
                    self.reply(request, handled);
                }
            }
        }
    }

    /// Moves the replies that became true to the output.
    fn release(&mut self, durable: LogOffset) {
        while let Some((replies, halves)) = self.waiting.take_one(durable) {
            self.broker.learn(halves);
            self.output.push_encoded(replies);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close();
        self.broker.disconnected(&self.connection);
        let halves = self.waiting.take_halves();
        if !halves.is_empty() && self.broker.failed.get().is_none() {
            // The producer is gone, its halves are not: they will be asked about.
            tokio::spawn(learn_when_durable(self.broker.clone(), halves));
        }
    }
}

async fn learn_when_durable(broker: Arc<Broker>, halves: Vec<(LogOffset, StoredHalf)>) {
    let mut durable = broker.durable.subscribe();
    for (at, half) in halves {
        if durable.wait_for(|durable| *durable >= at).await.is_err() {
            return;
        }
        broker.learn(vec![half]);
    }
}
