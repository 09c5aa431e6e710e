//! One connection's life: read frames, hand them to the handlers, write what is ready.
//!
//! All of it happens on the connection's own task, without a lock or a hop per message. It keeps reading while replies
//! wait for the disk, until a limit is reached; then the peer feels it through TCP.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use mq_protocol::ids::LogOffset;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use txn_coordinator::StoredHalf;

use crate::broker::Broker;
use crate::connection::{Connection, Mail, Origin, Woken};
use crate::elsewhere::{Away, Elsewhere};
use crate::handlers::error::Refusal;
use crate::handlers::transaction::{Judged, Verdicts};
use crate::handlers::{self, Handled, Reply};
use crate::limits;
use crate::metrics::{Call, Tally};
use crate::output::{Encode, Output};
use crate::sending::Sends;
use crate::waiting::{Released, Waiting};

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
    /// Of `waiting`, as the broker's instruments know it.
    waiting_told: usize,
    /// What was answered in this turn; `None` where nobody reads metrics.
    tally: Option<Tally>,
    away: Away,
    /// Held pulls and pops that are to be tried again once there is room for their answers.
    woken: VecDeque<Woken>,
    heard: Instant,
    /// When this turn's work began: what was heard may have waited for room.
    turn: Instant,
    /// When the first bytes of a frame came that is not whole yet.
    half_since: Option<Instant>,
    /// What was read has whole frames that wait for room.
    left: bool,
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
        let (metered, now) = (broker.config.metrics_enabled, Instant::now());
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
            waiting_told: 0,
            tally: metered.then(Tally::default),
            away: Away::default(),
            woken: VecDeque::new(),
            heard: now,
            turn: now,
            half_since: None,
            left: false,
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
            while self.may_answer_woken()
                && let Some(woken) = self.woken.pop_front()
            {
                self.answer_woken(woken);
            }
            self.tell_instruments();
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
            if !self.woken.is_empty() && self.may_answer_woken() {
                continue;
            }
            // A peer that always has more to say would keep its thread of the runtime from all others.
            for _ in 0..limits::BUDGET_OF_A_TURN {
                consume_budget().await;
            }
            if let Some(since) = self.half_since
                && !stopping
                && timer.deadline() > since + frame_within
            {
                timer.as_mut().reset(since + frame_within);
            }
            if self.left && !stopping && self.may_read() {
                if let Err(end) = self.work(Instant::now()) {
                    return self.broken(end);
                }
                continue;
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
                return self.broken(end);
            }
        }
    }

    /// What was answered before a malformed frame still goes out, if the socket takes it at once.
    fn broken(&mut self, end: End) -> End {
        let _ = self.output.write_to(&self.socket);
        end
    }

    fn may_read(&self) -> bool {
        self.waiting.requests() < limits::MAX_WAITING_REQUESTS
            && self.waiting.bytes() + self.output.bytes() < limits::MAX_UNSENT_BYTES
            && self.away.has_room()
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.output.is_empty() && self.away.is_empty()
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
        self.work(self.heard)
    }

    /// Does what was read, as far as there is room for the answers.
    fn work(&mut self, now: Instant) -> Result<(), End> {
        self.turn = now;
        let taken = self.take_frames();
        let goes_on = matches!(taken, Ok(0));
        self.half_since = self.half_since.filter(|_| goes_on).or(Some(self.turn)).filter(|_| !self.input.is_empty());
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
        self.left = false;
        while let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES)? {
            self.take(Command::decode(frame)?);
            taken += 1;
            if !self.may_read() {
                self.left = !self.input.is_empty();
                break;
            }
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
                Err(refusal) => {
                    let call = Call { oneway: command.is_oneway(), ..Call::new(command.code, refusal.code) };
                    count(&mut self.tally, Some(call), self.turn);
                    if call.oneway {
                        debug!(connection = ?self.connection, "{}", refusal.remark);
                    } else {
                        self.output.push(&handlers::send::refuse(&self.broker, refusal, &command));
                    }
                }
            }
            return;
        }
        if command.code == request::END_TRANSACTION {
            if let Err(refusal) = self.verdicts.push(&command) {
                let origin = self.origin(&command);
                self.reply(command, origin, Err(refusal));
            }
            return;
        }
        if handlers::pop_ack::is_ack(command.code) {
            match handlers::pop_ack::prepare(&self.broker, &command) {
                Ok(Some(prepared)) => self.sends.push(prepared),
                nothing => {
                    let (origin, answer) = (self.origin(&command), command.response(response::SUCCESS));
                    self.reply(command, origin, nothing.map(|_| Reply::Now(answer)));
                }
            }
            return;
        }
        let handled = handlers::dispatch(&self.broker, &self.connection, &command);
        let origin = self.origin(&command);
        self.reply(command, origin, handled);
    }

    /// Answers wait for the disk too long: a client does better with another broker, or later.
    fn refuse_if_behind(&self) -> Result<(), Refusal> {
        let (behind, limit) = (self.waiting.longest(self.turn), self.broker.config.disk_busy_after);
        if behind > limit { Err(Refusal::disk_busy(behind, limit)) } else { Ok(()) }
    }

    /// One append, under one lock, for all sends and acknowledgements of a read.
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
            let Some(at) = sent.waits_until else {
                count(&mut self.tally, Some(sent.call), self.turn);
                return sent.answer.iter().for_each(|answer| self.output.push(answer));
            };
            let answer = sent.answer.as_ref().map(|answer| answer as &dyn Encode);
            self.waiting.push(at, self.turn, Some(sent.call), answer, sent.half);
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
        let origin = Origin { code: None, since: self.turn, long_polling: false };
        self.start_later(Box::pin(later), receipt, origin);
    }

    /// The same for all verdicts.
    fn end_transactions(&mut self) {
        if self.verdicts.is_empty() {
            return;
        }
        let mut verdicts = std::mem::take(&mut self.verdicts);
        let broker = self.broker.clone();
        verdicts.end(&broker, |Judged { answer, oneway, waits_until }| {
            let call = Call { oneway, ..Call::new(request::END_TRANSACTION, answer.code) };
            match waits_until.filter(|_| !oneway) {
                Some(at) => self.waiting.push(at, self.turn, Some(call), Some(&answer), None),
                None => {
                    count(&mut self.tally, Some(call), self.turn);
                    if !oneway {
                        self.output.push(&answer);
                    }
                }
            }
        });
        self.verdicts = verdicts;
    }

    fn origin(&self, request: &Command) -> Origin {
        Origin { code: Some(request.code), since: self.turn, long_polling: false }
    }

    fn reply(&mut self, request: Command, origin: Origin, handled: Handled) {
        let reply = handled.unwrap_or_else(|refusal| Reply::Now(refusal.answer(&request)));
        match reply {
            Reply::Blocking(job) => self.start_on_lane(job, request, origin),
            Reply::Later(later) => self.start_later(later, request, origin),
            reply => self.push(reply, origin, request.is_oneway()),
        }
    }

    fn push(&mut self, reply: Reply, origin: Origin, oneway: bool) {
        let call = |response| {
            let Origin { code, long_polling, .. } = origin;
            code.map(|code| Call { long_polling, oneway, ..Call::new(code, response) })
        };
        match reply {
            Reply::None | Reply::Blocking(_) | Reply::Later(_) => {}
            Reply::Durable { at, answer } if !oneway => {
                self.waiting.push(at, self.turn, call(answer.code), Some(&answer), None);
            }
            Reply::Now(answer) | Reply::Durable { answer, .. } => {
                count(&mut self.tally, call(answer.code), origin.since);
                if !oneway {
                    self.output.push(&answer);
                }
            }
            Reply::Slices { head, slices, bytes } => {
                count(&mut self.tally, call(head.code), origin.since);
                if !oneway {
                    self.output.push_slices(&head, slices, bytes);
                }
            }
        }
    }

    fn start_on_lane(&mut self, job: handlers::Job, request: Command, origin: Origin) {
        let bytes = request.body.len();
        self.away.goes(Elsewhere::Lane, bytes);
        let (broker, connection) = (self.broker.clone(), self.connection.clone());
        broker.instruments.on_lane.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || {
            // A bug in one request must not take the connection's other requests along.
            let handled = catch_unwind(AssertUnwindSafe(|| job(&broker))).unwrap_or_else(|_| Err(Refusal::broken()));
            broker.instruments.on_lane.fetch_sub(1, Ordering::Relaxed);
            connection.answer(Mail::Back { from: Elsewhere::Lane, request, origin, bytes, handled });
        });
    }

    fn start_later(&mut self, later: handlers::Later, request: Command, origin: Origin) {
        let bytes = request.body.len();
        self.away.goes(Elsewhere::Client, bytes);
        let connection = self.connection.clone();
        // What waits for long keeps what it needs itself, and not the buffer that the request was read from.
        let request = Command { flag: request.flag, ..request.response(request.code) };
        tokio::spawn(async move {
            let handled = later.await;
            connection.answer(Mail::Back { from: Elsewhere::Client, request, origin, bytes, handled });
        });
    }

    fn take_posted(&mut self) {
        for mail in self.connection.take_posted() {
            match mail {
                Mail::Command(command) => self.output.push(&command),
                Mail::Woken(woken) if self.woken.is_empty() && self.may_answer_woken() => self.answer_woken(woken),
                Mail::Woken(woken) => {
                    if let Woken::Poll(poll) = &woken {
                        // Somebody who takes it now may have what woke this one.
                        self.broker.pops.polls.wake(&poll.ask.topic, &poll.ask.group, poll.ask.queue_id);
                    }
                    self.woken.push_back(woken);
                }
                Mail::Back { from, request, origin, bytes, handled } => {
                    self.away.comes_back(from, bytes);
                    self.reply(request, origin, handled);
                }
            }
        }
    }

    /// Whether there is room for the answers of held pulls and pops. Without it they wait, and have taken nothing.
    fn may_answer_woken(&self) -> bool {
        self.waiting.bytes() + self.output.bytes() < limits::MAX_UNSENT_BYTES && self.away.lane_has_room()
    }

    fn answer_woken(&mut self, woken: Woken) {
        let (request, code, since, reply) = match woken {
            Woken::Pull(pull) => {
                let since = pull.until.and_then(|until| until.checked_sub(pull.hold)).unwrap_or(self.turn);
                let request = pull.answer.clone();
                let reply = handlers::pull::woken(&self.broker, &self.connection, *pull);
                (request, request::PULL_MESSAGE, since, reply)
            }
            Woken::Poll(poll) => {
                let code = if poll.ask.pop.is_some() { request::POP_MESSAGE } else { request::NOTIFICATION };
                let (request, since) = (poll.answer.clone(), poll.since);
                (request, code, since, handlers::pop::woken(&self.broker, &self.connection, *poll))
            }
        };
        self.reply(request, Origin { code: Some(code), since, long_polling: true }, Ok(reply));
    }

    /// Once a turn, with one look at the clock for all that was answered.
    fn tell_instruments(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.settle(&self.broker.instruments.rpc);
        }
        let waiting = self.waiting.requests();
        if waiting != self.waiting_told {
            self.broker.instruments.waiting_changed(self.waiting_told, waiting);
            self.waiting_told = waiting;
        }
    }

    /// Moves the replies that became true to the output.
    fn release(&mut self, durable: LogOffset) {
        while let Some(Released { encoded, halves, calls, since }) = self.waiting.take_one(durable) {
            self.broker.learn(halves);
            self.output.push_encoded(encoded);
            if let Some(tally) = &mut self.tally {
                calls.into_iter().for_each(|(call, times)| tally.count(call, since, times));
            }
        }
    }
}

/// Apart from the session, of which a closure may hold another part.
fn count(tally: &mut Option<Tally>, call: Option<Call>, since: Instant) {
    if let (Some(tally), Some(call)) = (tally, call) {
        tally.count(call, since, 1);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.broker.instruments.waiting_changed(self.waiting_told, 0);
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
