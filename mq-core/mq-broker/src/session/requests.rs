//! What a session read, done: sends and verdicts gathered, everything else by its handler; and where the replies go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::FrameError;
use mq_protocol::ids::LogOffset;
use tokio::time::Instant;
use tracing::debug;

use super::{End, Session};
use crate::connection::{Mail, Origin};
use crate::elsewhere::Elsewhere;
use crate::handlers::error::Refusal;
use crate::handlers::transaction::Judged;
use crate::handlers::{self, Handled, Reply};
use crate::metrics::Call;
use crate::output::Encode;

impl Session {
    /// Does what was read, as far as there is room for the answers.
    pub(super) fn work(&mut self, now: Instant) -> Result<(), End> {
        self.turn = now;
        let taken = self.take_frames();
        self.input.rest(now, !matches!(taken, Ok(0)));
        // Also when a malformed frame came behind them: what was read before it is done.
        self.append_sends();
        self.end_transactions();
        if self.answers.wait_for_disk() {
            self.broker.hurry();
        }
        Ok(taken.map(drop)?)
    }

    /// Says how many.
    fn take_frames(&mut self) -> Result<usize, FrameError> {
        let mut taken = 0;
        while let Some(command) = self.input.take()? {
            self.take(command);
            taken += 1;
            if !self.may_read() {
                break;
            }
        }
        Ok(taken)
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
            return self.take_send(&command);
        }
        if command.code == request::END_TRANSACTION {
            if let Some(handled) = self.verdicts.push(&self.broker, &self.connection, &command).transpose() {
                let origin = self.origin(&command);
                self.reply(command, origin, handled);
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

    fn take_send(&mut self, command: &Command) {
        let ready = self.refuse_if_behind();
        match ready.and_then(|()| handlers::send::prepare(&self.broker, &self.connection, command)) {
            Ok(prepared) => self.sends.push(prepared),
            Err(refusal) => {
                let call = Call { oneway: command.is_oneway(), ..Call::new(command.code, refusal.code) };
                self.answers.count(Some(call), self.turn);
                if call.oneway {
                    debug!(connection = ?self.connection, "{}", refusal.remark);
                } else {
                    self.answers.put(&handlers::send::refuse(&self.broker, refusal, command));
                }
            }
        }
    }

    /// Answers wait for the disk too long: a client does better with another broker, or later.
    fn refuse_if_behind(&self) -> Result<(), Refusal> {
        let (behind, limit) = (self.answers.longest_wait(self.turn), self.broker.config.disk_busy_after);
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
                self.answers.count(Some(sent.call), self.turn);
                return sent.answer.iter().for_each(|answer| self.answers.put(answer));
            };
            let answer = sent.answer.as_ref().map(|answer| answer as &dyn Encode);
            self.answers.put_when_durable(at, self.turn, Some(sent.call), answer, sent.half);
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
        let (broker, from) = (self.broker.clone(), self.connection.clone());
        verdicts.end(&broker, &from, |Judged { answer, oneway, waits_until }| {
            let call = Call { oneway, ..Call::new(request::END_TRANSACTION, answer.code) };
            match waits_until.filter(|_| !oneway) {
                Some(at) => self.answers.put_when_durable(at, self.turn, Some(call), Some(&answer), None),
                None => {
                    self.answers.count(Some(call), self.turn);
                    if !oneway {
                        self.answers.put(&answer);
                    }
                }
            }
        });
        self.verdicts = verdicts;
    }

    fn origin(&self, request: &Command) -> Origin {
        Origin { code: Some(request.code), since: self.turn, long_polling: false }
    }

    pub(super) fn reply(&mut self, request: Command, origin: Origin, handled: Handled) {
        let reply = handled.unwrap_or_else(|refusal| Reply::Now(refusal.answer(&request)));
        match reply {
            Reply::Blocking(job) => self.start_on_lane(job, request, origin),
            Reply::Later(later) => self.start_later(later, request, origin),
            reply => self.put(reply, origin, request.is_oneway()),
        }
    }

    fn put(&mut self, reply: Reply, origin: Origin, oneway: bool) {
        let call = |response| {
            let Origin { code, long_polling, .. } = origin;
            code.map(|code| Call { long_polling, oneway, ..Call::new(code, response) })
        };
        match reply {
            Reply::None | Reply::Blocking(_) | Reply::Later(_) => {}
            Reply::Durable { at, answer } if !oneway => {
                self.answers.put_when_durable(at, self.turn, call(answer.code), Some(&answer), None);
            }
            Reply::Now(answer) | Reply::Durable { answer, .. } => {
                self.answers.count(call(answer.code), origin.since);
                if !oneway {
                    self.answers.put(&answer);
                }
            }
            Reply::Slices { head, slices, bytes } => {
                self.answers.count(call(head.code), origin.since);
                if !oneway {
                    self.answers.put_slices(&head, slices, bytes);
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
}
