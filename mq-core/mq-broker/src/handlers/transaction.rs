//! END_TRANSACTION (37): producers' verdicts on their half messages, all of one read together.

use std::net::SocketAddr;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::EndTransaction;
use mq_protocol::ids::LogOffset;
use txn_coordinator::{EndError, EndRequest, Ended, Refusal as Refused};

use super::Reply;
use super::error::Refusal;
use super::pull::is_cold;
use crate::broker::Broker;
use crate::connection::Connection;

/// The verdicts of one read, in its order.
#[derive(Default)]
pub(crate) struct Verdicts {
    requests: Vec<EndRequest>,
    answers: Vec<Pending>,
}

/// The answer so far: success.
struct Pending {
    answer: Command,
    oneway: bool,
}

/// An answer, and what it waits for.
pub(crate) struct Judged {
    pub(crate) answer: Command,
    /// Nobody wants the answer.
    pub(crate) oneway: bool,
    pub(crate) waits_until: Option<LogOffset>,
}

impl Verdicts {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Gathers it, or says where it is done: a half that may have to come from the disk is not read by a session.
    pub(crate) fn push(
        &mut self,
        broker: &Broker,
        from: &Connection,
        request: &Command,
    ) -> Result<Option<Reply>, Refusal> {
        let header: EndTransaction = request.header()?;
        mq_store::failpoint("end-parsed");
        if header.from_transaction_check == Some(true) {
            from.check_answered();
        }
        let end = EndRequest::from_header(&header)?;
        let pending = Pending { answer: request.response(response::SUCCESS), oneway: request.is_oneway() };
        if is_cold(broker, end.log_offset) {
            return Ok(Some(on_lane(end, pending, from.peer())));
        }
        self.requests.push(end);
        self.answers.push(pending);
        Ok(None)
    }

    /// Decides all of them under one lock, with one append, and empties this.
    pub(crate) fn end(&mut self, broker: &Broker, from: &Connection, mut each: impl FnMut(Judged)) {
        let ended = broker.transactions.end_by(from.peer(), &self.requests);
        for (pending, ended) in self.answers.drain(..).zip(ended) {
            each(pending.judged(broker, ended));
        }
        self.requests.clear();
        if self.requests.capacity() > crate::limits::KEPT_ENTRIES {
            *self = Self::default();
        }
    }
}

fn on_lane(end: EndRequest, pending: Pending, peer: SocketAddr) -> Reply {
    Reply::Blocking(Box::new(move |broker| {
        let ended = broker.transactions.end_by(peer, &[end]).remove(0);
        let Judged { answer, waits_until, .. } = pending.judged(broker, ended);
        broker.hurry();
        Ok(match waits_until {
            Some(at) => Reply::Durable { at, answer },
            None => Reply::Now(answer),
        })
    }))
}

impl Pending {
    /// Whatever names a verdict waits until that verdict is durable: the one that was just given, the same one given
    /// before, and the one that a contrary request is refused for.
    ///
    /// With ASYNC_FLUSH only the last one waits. Its half is durable, so a verdict that a power cut takes is asked for
    /// again, and whoever gave it gives it again; who was told of another's verdict has no say in that.
    fn judged(self, broker: &Broker, ended: Result<Ended, EndError>) -> Judged {
        let oneway = self.oneway;
        let (refusal, waits_until) = match ended {
            Ok(ended) => {
                let waits_until = broker.answers_wait.then_some(ended.durable_at);
                return Judged { answer: self.answer, oneway, waits_until };
            }
            Err(error @ EndError::Refused(Refused::Contrary(_))) => (error, Some(broker.store.end())),
            Err(error) => (error, None),
        };
        let refusal = Refusal::from(refusal);
        let answer = Command { code: refusal.code, remark: Some(refusal.remark.as_ref().into()), ..self.answer };
        Judged { answer, oneway, waits_until }
    }
}
