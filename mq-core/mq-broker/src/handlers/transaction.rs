//! END_TRANSACTION (37): producers' verdicts on their half messages, all of one read together.

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::EndTransaction;
use mq_protocol::ids::LogOffset;
use txn_coordinator::{EndError, EndRequest, Ended, Refusal as Refused};

use super::error::Refusal;
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

    pub(crate) fn push(&mut self, request: &Command) -> Result<(), Refusal> {
        let header: EndTransaction = request.header()?;
        mq_store::failpoint("end-parsed");
        self.requests.push(EndRequest::from_header(&header)?);
        self.answers.push(Pending { answer: request.response(response::SUCCESS), oneway: request.is_oneway() });
        Ok(())
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
