//! What a simulated process says to the world: each step before it is taken and after, and what goes over the wire. It
//! waits for the answer; a dead one waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mq_client::{ClientError, HalfReceipt, Message, RequestError, SendError, SendFailure, Verdict};
use tokio::sync::{mpsc, oneshot};
use txn_sdk::simulation::{Fails, Played, PlayedBroker, Step, Watcher};

use super::points::{Actor, Point};

/// A process: dead as soon as another one has taken its actor's place.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) actor: Actor,
    pub(crate) number: u64,
    asks: mpsc::UnboundedSender<Asked>,
}

pub(crate) enum Ask {
    Arrives(Point),
    Leaves(Point),
    Half(Message),
    End(HalfReceipt, Verdict),
}

pub(crate) enum Answer {
    Go,
    Fails,
    Half(Result<HalfReceipt, Unanswered>),
    End(Result<(), Unanswered>),
}

/// Why a request has no answer, or not the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It surely did not arrive, or was refused.
    No,
    Lost,
}

pub(crate) struct Asked {
    pub(crate) by: u64,
    pub(crate) actor: Actor,
    pub(crate) ask: Ask,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Process {
    pub(crate) fn new(actor: Actor, number: u64, asks: mpsc::UnboundedSender<Asked>) -> Self {
        Self { actor, number, asks }
    }

    fn ask(&self, ask: Ask) -> Played<Answer> {
        let (answer, answered) = oneshot::channel();
        let _ = self.asks.send(Asked { by: self.number, actor: self.actor, ask, answer });
        Box::pin(async move {
            match answered.await {
                Ok(answer) => answer,
                // Nobody answers the dead.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl Unanswered {
    fn reason(self) -> RequestError {
        let address = "simulated".into();
        match self {
            Self::No => RequestError::Connect { address, reason: "as the simulation wants".into() },
            Self::Lost => RequestError::Lost { address, code: 0 },
        }
    }
}

impl PlayedBroker for Process {
    fn send_half(&self, message: Message) -> Played<Result<HalfReceipt, SendError>> {
        let process = self.clone();
        Box::pin(async move {
            let topic = message.topic().into();
            let answer = match process.ask(Ask::Arrives(Point::BeforeHalf)).await {
                Answer::Fails => Answer::Half(Err(Unanswered::No)),
                _ => process.ask(Ask::Half(message)).await,
            };
            let Answer::Half(sent) = answer else { unreachable!("a half is answered as one") };
            sent.map_err(|why| SendError::new(topic, "".into(), 1, SendFailure::Call(why.reason().into())))
        })
    }

    fn end(&self, half: HalfReceipt, verdict: Verdict) -> Played<Result<(), ClientError>> {
        let answer = self.ask(Ask::End(half, verdict));
        Box::pin(async move {
            let Answer::End(ended) = answer.await else { unreachable!("an end is answered as one") };
            ended.map_err(|why| why.reason().into())
        })
    }
}

/// Turns the steps of a database transaction into the points of its process.
pub(crate) struct Steps {
    process: Process,
    /// The answer of the commit that is being done will be lost.
    loses_answer: Arc<AtomicBool>,
}

impl Steps {
    pub(crate) fn of(process: &Process) -> Arc<Self> {
        Arc::new(Self { process: process.clone(), loses_answer: Arc::default() })
    }

    fn point(&self, step: Step) -> Option<Point> {
        Some(match (self.process.actor, step) {
            (Actor::Service, Step::Begin) => Point::TxBegun,
            (_, Step::Marker) => Point::MarkerWritten,
            (Actor::Service, Step::Commit) => Point::Committed,
            (Actor::Consumer, Step::InboxRow) => Point::InboxRow,
            (Actor::Consumer, Step::Effect) => Point::EffectWritten,
            (Actor::Consumer, Step::Commit) => Point::EffectCommitted,
            _ => return None,
        })
    }
}

impl Watcher for Steps {
    fn before(&self, step: Step) -> Played<Result<(), Fails>> {
        let (process, point, loses_answer) = (self.process.clone(), self.point(step), self.loses_answer.clone());
        Box::pin(async move {
            if point == Some(Point::Committed) {
                if let Answer::Fails = process.ask(Ask::Arrives(Point::CommitSent)).await {
                    return Err(Fails);
                }
                process.ask(Ask::Leaves(Point::CommitSent)).await;
            }
            let Some(point) = point else { return Ok(()) };
            match process.ask(Ask::Arrives(point)).await {
                // The database does it all the same; only its answer gets lost.
                Answer::Fails if point == Point::Committed => loses_answer.store(true, Ordering::Relaxed),
                Answer::Fails => return Err(Fails),
                _ => {}
            }
            Ok(())
        })
    }

    fn after(&self, step: Step) -> Played<Result<(), Fails>> {
        let (process, point, loses_answer) = (self.process.clone(), self.point(step), self.loses_answer.clone());
        Box::pin(async move {
            if let Some(point) = point {
                process.ask(Ask::Leaves(point)).await;
            }
            if loses_answer.swap(false, Ordering::Relaxed) { Err(Fails) } else { Ok(()) }
        })
    }
}
