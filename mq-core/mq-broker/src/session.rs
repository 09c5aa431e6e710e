//! One connection's life: read frames, hand them to the handlers, write what is ready.
//!
//! All of it happens on the connection's own task, without a lock or a hop per message. It keeps reading while replies
//! wait for the disk, until a limit is reached; then the peer feels it through TCP.

mod answers;
mod input;
mod requests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::codes::request;
use mq_protocol::frame::FrameError;
use mq_protocol::ids::LogOffset;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use txn_coordinator::StoredHalf;

use crate::broker::Broker;
use crate::connection::{Connection, Mail, Origin, Woken};
use crate::elsewhere::Away;
use crate::handlers;
use crate::handlers::transaction::Verdicts;
use crate::limits;
use crate::sending::Sends;
use answers::Answers;
use input::{Input, Patience};

pub(crate) struct Session {
    broker: Arc<Broker>,
    socket: TcpStream,
    connection: Connection,
    shutdown: CancellationToken,
    input: Input,
    sends: Sends,
    verdicts: Verdicts,
    answers: Answers,
    away: Away,
    /// Held pulls and pops that are to be tried again once there is room for their answers.
    woken: VecDeque<Woken>,
    /// The peer was silent for too long, and the broker owed it an answer then.
    owed: bool,
    /// When this turn's work began: what was heard may have waited for room.
    turn: Instant,
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
        let now = Instant::now();
        Self {
            answers: Answers::new(broker.instruments.clone(), broker.config.metrics_enabled),
            broker,
            socket,
            connection,
            shutdown,
            input: Input::new(now),
            sends: Sends::default(),
            verdicts: Verdicts::default(),
            away: Away::default(),
            woken: VecDeque::new(),
            owed: false,
            turn: now,
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
        let patience = Patience::new(self.broker.live().max_idle);
        let timer = sleep_until(self.input.until(patience));
        tokio::pin!(timer);
        let mut stopping = false;
        loop {
            // Copied first: the store's thread waits for whoever still looks, and may hold what a release waits for.
            let up_to = *durable.borrow_and_update();
            if let Err(end) = self.answer(up_to) {
                return end;
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
            let until = self.input.until(patience);
            if !stopping && timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            if self.input.is_left() && !stopping && self.may_read() {
                if let Err(end) = self.work(Instant::now()) {
                    return self.broken(end);
                }
                continue;
            }
            let outcome = tokio::select! {
                ready = self.socket.readable(), if !stopping && self.may_read() => {
                    ready.map_err(End::from).and_then(|()| self.read())
                }
                ready = self.socket.writable(), if self.answers.wait_for_peer() => ready.map_err(End::from),
                _ = durable.changed(), if self.answers.wait_for_disk() => Ok(()),
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
                    let over = if stopping { Err(End::Stopping) } else { self.is_overdue(patience) };
                    timer.as_mut().reset(self.input.until(patience));
                    over
                }
            };
            if let Err(end) = outcome {
                return self.broken(end);
            }
        }
    }

    /// Gives the peer what is ready.
    fn answer(&mut self, durable: LogOffset) -> Result<(), End> {
        self.answers.release(durable, |halves| self.broker.learn(halves));
        while self.may_answer_woken()
            && let Some(woken) = self.woken.pop_front()
        {
            self.answer_woken(woken);
        }
        self.answers.tell_instruments();
        let unsent = self.answers.unsent();
        self.answers.write_to(&self.socket)?;
        if (1..unsent).contains(&self.answers.unsent()) {
            // It takes its time, but it takes.
            self.input.forgive_silence(Instant::now());
        }
        self.connection.set_unsent(self.answers.unsent());
        if self.connection.is_closed() { Err(End::Closed) } else { Ok(()) }
    }

    /// What was answered before a malformed frame still goes out, if the socket takes it at once.
    fn broken(&mut self, end: End) -> End {
        let _ = self.answers.write_to(&self.socket);
        end
    }

    fn may_read(&self) -> bool {
        self.answers.have_place() && self.away.has_room()
    }

    fn is_settled(&self) -> bool {
        self.answers.is_empty() && self.away.is_empty()
    }

    fn is_overdue(&mut self, patience: Patience) -> Result<(), End> {
        let now = Instant::now();
        if !self.may_read() {
            self.input.excuse(now);
        }
        // Whoever waits has nothing to say, and may begin to think when the answer is there.
        let owes = self.answers.wait_for_disk() || !self.away.is_empty();
        if std::mem::replace(&mut self.owed, owes) || owes {
            self.input.forgive_silence(now);
        }
        self.input.overdue(now, patience)
    }

    fn read(&mut self) -> Result<(), End> {
        match self.input.read(&mut self.socket)? {
            Some(heard) => self.work(heard),
            None => Ok(()),
        }
    }

    fn take_posted(&mut self) {
        for mail in self.connection.take_posted() {
            match mail {
                Mail::Command(command) => self.answers.put(&command),
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
        self.answers.have_room() && self.away.lane_has_room()
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
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close();
        self.broker.disconnected(&self.connection);
        let halves = self.answers.take_halves();
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
