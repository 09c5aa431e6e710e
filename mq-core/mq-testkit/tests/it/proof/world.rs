//! One run: a service, a broker, a consumer and their databases, in one thread and at one time that the run moves.
//!
//! The processes' own code runs until it asks; whatever it asks for is done here, in one place and one after the other:
//! a fault that delays a step lets time pass while its process waits, one that kills it drops what it was doing.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_protocol::record::StoredMessage;
use mq_store::backend::CrashBackend;
use mq_store::{Clock, ManualClock};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::mpsc;
use txn_coordinator::{HalfOffset, Outcome};
use txn_sdk::TxnProducer;
use txn_sdk::simulation::{Beside, Time, set_time};

use super::audit::Found;
use super::beyond::Beyond;
use super::broker::Running;
use super::consumer::Consuming;
use super::database::{Database, File, directory};
use super::points::{Actor, Day, Kind, Plan, Point};
use super::process::{Answer, Ask, Asked, Process};

/// The process was killed while it did this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

/// A point was reached and its process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Go,
    Fails,
    Twice,
}

pub(crate) type Producer = TxnProducer<Database>;

pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) database: Database,
    pub(crate) producer: Producer,
    /// What runs beside it, on days that have something for it.
    pub(crate) beside: Option<Beside<Database>>,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: StdRng,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) disk: CrashBackend,
    pub(crate) broker: Option<Running>,
    /// How often the broker was started.
    pub(crate) broker_starts: u64,
    pub(crate) orders: File,
    pub(crate) service: Option<Service>,
    pub(crate) packets: File,
    pub(crate) consumer: Option<Consuming>,
    pub(crate) facts: Facts,
    pub(crate) found: Found,
    pub(crate) visits: BTreeMap<Point, u32>,
    pub(crate) history: Vec<String>,
    /// The broker's checks are on their way.
    pub(crate) checking: bool,
    /// Where a `CrashAfter` is under way.
    dies_after: Option<(Actor, Point)>,
    /// By the clock that nobody sets.
    down_until: [Duration; 3],
    /// The wall clock of services, before the broker's.
    pub(crate) services_ahead_ms: i64,
    processes: u64,
    starting: bool,
    /// Of others, while one starts.
    later: Vec<Asked>,
    asks: (mpsc::UnboundedSender<Asked>, mpsc::UnboundedReceiver<Asked>),
    /// Their connections hold nothing any more, and stay: a file that is just being closed cannot be opened.
    dead: Vec<Box<dyn Any>>,
    _directory: TempDir,
}

/// What was seen so far, for the invariants.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) messages: u64,
    pub(crate) effects: u64,
    /// What END_TRANSACTION was answered, by transaction.
    pub(crate) promised: BTreeMap<String, Outcome>,
    /// Outcomes that were durable once, by half.
    pub(crate) outcomes: BTreeMap<u64, Outcome>,
    /// Checks that reached a process since the broker's start.
    pub(crate) delivered: BTreeMap<HalfOffset, u32>,
    /// Checks that reached a process ever, by transaction.
    pub(crate) ever_delivered: BTreeMap<String, u32>,
    /// Half messages that nobody knows anything about.
    pub(crate) orphans: BTreeSet<String>,
    /// Something was delayed for longer than all checks take.
    pub(crate) outlasted_checks: bool,
    /// Orders that were placed once, and what the SDK said.
    pub(crate) said: BTreeMap<String, &'static str>,
    /// Where the consumer goes on, and what of that would outlive the broker.
    pub(crate) consumed: QueueOffset,
    pub(crate) consumed_saved: QueueOffset,
    /// The order that is being placed.
    pub(crate) order: String,
    /// The message that is being delivered.
    pub(crate) delivering: Option<StoredMessage>,
    /// The next END is lost on the way: nobody's fault, an ordinary day.
    pub(crate) loses_end: bool,
    pub(crate) beyond: Beyond,
}

const START: UnixMillis = UnixMillis(1_700_000_000_000);

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let seed = plan.seed;
        let clock = Arc::new(ManualClock::at(START));
        let directory = directory();
        set_time(None);
        let mut world = Self {
            plan,
            dice: StdRng::seed_from_u64(seed),
            clock,
            disk: CrashBackend::new(),
            broker: None,
            broker_starts: 0,
            orders: File::new(&directory.path().join("orders")),
            service: None,
            packets: File::new(&directory.path().join("packets")),
            consumer: None,
            facts: Facts::default(),
            found: Found::default(),
            visits: BTreeMap::new(),
            history: Vec::new(),
            checking: false,
            dies_after: None,
            down_until: [Duration::ZERO; 3],
            services_ahead_ms: 0,
            processes: 0,
            starting: false,
            later: Vec::new(),
            asks: mpsc::unbounded_channel(),
            dead: Vec::new(),
            _directory: directory,
        };
        world.tell_time();
        world.start_broker();
        world
    }

    /// To the services.
    fn tell_time(&self) {
        let wall = UnixMillis(self.clock.now().0 + self.services_ahead_ms);
        set_time(Some(Time { wall, uptime: self.clock.uptime() }));
    }

    pub(crate) fn note(&mut self, line: impl AsRef<str>) {
        self.history.push(format!("{:>9} {}", self.clock.uptime().as_millis(), line.as_ref()));
    }

    pub(crate) fn violation(&self, claim: &str, what: &str) -> ! {
        panic!("{claim}: {what}");
    }

    fn number_of(&self, actor: Actor) -> u64 {
        match actor {
            Actor::Service => self.service.as_ref().map_or(0, |service| service.process.number),
            Actor::Consumer => self.consumer.as_ref().map_or(0, |consumer| consumer.process.number),
            Actor::Broker => self.broker_starts,
        }
    }

    pub(crate) fn new_process(&mut self, actor: Actor) -> Process {
        self.processes += 1;
        Process::new(actor, self.processes, self.asks.0.clone())
    }

    /// A point is reached: what the plan has for it happens.
    pub(crate) async fn arrive(&mut self, point: Point) -> Result<Pass, Dead> {
        self.arrive_as(point.actor(), point).await
    }

    /// The same of a point that others pass, too: consumers send halves.
    pub(crate) async fn arrive_as(&mut self, actor: Actor, point: Point) -> Result<Pass, Dead> {
        *self.visits.entry(point).or_default() += 1;
        let Some(kind) = self.plan.reach(point) else { return Ok(Pass::Go) };
        self.note(format!("-- {point:?}: {kind:?}"));
        match kind {
            Kind::CrashBefore => {
                self.kill(actor);
                Err(Dead)
            }
            Kind::CrashAfter => {
                self.dies_after = Some((actor, point));
                Ok(Pass::Go)
            }
            Kind::Error => Ok(Pass::Fails),
            Kind::Duplicate => Ok(Pass::Twice),
            Kind::Delay => {
                let number = self.number_of(actor);
                self.facts.outlasted_checks |= self.plan.seed % 3 == 2;
                let seconds = [8, 45, 300][(self.plan.seed % 3) as usize];
                Box::pin(self.pass_time(Duration::from_secs(seconds))).await;
                if self.number_of(actor) == number { Ok(Pass::Go) } else { Err(Dead) }
            }
            Kind::LeapBack | Kind::LeapAhead | Kind::LeapFar => {
                self.leap(kind.hours());
                Ok(Pass::Go)
            }
        }
    }

    /// Somebody sets the clock: of all, of the broker, or of the services.
    fn leap(&mut self, hours: i64) {
        let by_ms = hours * 3_600_000;
        if self.plan.seed % 3 != 2 {
            self.clock.set(UnixMillis(self.clock.now().0 + by_ms));
        }
        match self.plan.seed % 3 {
            1 => self.services_ahead_ms -= by_ms,
            2 => self.services_ahead_ms += by_ms,
            _ => {}
        }
        self.tell_time();
    }

    /// The step of this point is done.
    pub(crate) fn leave(&mut self, point: Point) -> Result<(), Dead> {
        self.leave_as(point.actor(), point)
    }

    pub(crate) fn leave_as(&mut self, actor: Actor, point: Point) -> Result<(), Dead> {
        if self.dies_after.take_if(|dies| *dies == (actor, point)).is_none() {
            return Ok(());
        }
        self.kill(actor);
        Err(Dead)
    }

    pub(crate) fn kill(&mut self, actor: Actor) {
        let seconds = [0, 40, 200][self.dice.random_range(0..3)];
        self.note(format!("{actor:?} dies, for {seconds} s"));
        self.down_until[actor as usize] = self.clock.uptime() + Duration::from_secs(seconds);
        match actor {
            Actor::Service => {
                let service = self.service.take().expect("who dies was alive");
                service.database.dies();
                self.dead.push(Box::new(service));
            }
            Actor::Consumer => {
                let consumer = self.consumer.take().expect("who dies was alive");
                consumer.database.dies();
                self.dead.push(Box::new(consumer));
            }
            Actor::Broker => self.cut_power(),
        }
    }

    fn may_start(&self, actor: Actor) -> bool {
        self.clock.uptime() >= self.down_until[actor as usize]
    }

    pub(crate) async fn start_what_is_down(&mut self) {
        if self.service.is_none() && self.may_start(Actor::Service) {
            self.start_service().await;
        }
        if self.consumer.is_none() && self.may_start(Actor::Consumer) {
            self.start_consumer().await;
        }
    }

    /// A process starts: nothing fails meanwhile.
    pub(crate) async fn start<T, E: Debug>(&mut self, work: impl Future<Output = Result<T, E>>) -> T {
        self.starting = true;
        let started = self.drive(Actor::Broker, work).await;
        self.starting = false;
        self.later.drain(..).for_each(|asked| drop(self.asks.0.send(asked)));
        started.expect("nothing fails while it starts").expect("it starts")
    }

    /// Runs what a process does to its end; `None` when it dies.
    pub(crate) async fn drive<T>(&mut self, actor: Actor, work: impl Future<Output = T>) -> Option<T> {
        let number = self.number_of(actor);
        let mut work = pin!(work);
        while self.number_of(actor) == number {
            let next = poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => self.asks.1.poll_recv(context).map(Err),
            });
            match next.await {
                Ok(done) => return Some(done),
                Err(asked) => Box::pin(self.serve(asked.expect("the world holds a sender itself"))).await,
            }
        }
        None
    }

    /// Work that a process does beside: a detached END, say.
    pub(crate) async fn let_tasks_run(&mut self) {
        let yields = async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        };
        self.drive(Actor::Broker, yields).await;
    }

    async fn serve(&mut self, asked: Asked) {
        if self.number_of(asked.actor) != asked.by && !self.starting {
            return;
        }
        let answer = match asked.ask {
            // Its schema is looked after before it serves anybody.
            Ask::Arrives(_) | Ask::Leaves(_) if self.starting => Ok(Answer::Go),
            Ask::Half(_) | Ask::End(..) if self.starting => {
                self.later.push(asked);
                return;
            }
            Ask::Arrives(point) => self.step_begins(asked.actor, point).await,
            Ask::Leaves(point) => self.leave_as(asked.actor, point).map(|()| Answer::Go),
            Ask::Half(message) => self.half_from(asked.actor, &message).await.map(Answer::Half),
            Ask::End(half, verdict) => self.end_from(asked.actor, &half, verdict).await.map(Answer::End),
        };
        if let (Ok(answer), true) = (answer, self.number_of(asked.actor) == asked.by || self.starting) {
            let _ = asked.answer.send(answer);
        }
    }

    async fn step_begins(&mut self, actor: Actor, point: Point) -> Result<Answer, Dead> {
        let number = self.number_of(actor);
        if (actor, point) == (Actor::Service, Point::TxBegun) {
            Box::pin(self.before_begin()).await;
            if self.number_of(actor) != number {
                return Err(Dead);
            }
        }
        match self.arrive_as(actor, point).await? {
            Pass::Go => Ok(Answer::Go),
            Pass::Fails => Ok(Answer::Fails),
            Pass::Twice => {
                self.once_more(actor).await;
                if self.number_of(actor) == number { Ok(Answer::Go) } else { Err(Dead) }
            }
        }
    }

    /// What an actor is at comes to it, or to another one like it, once more.
    pub(crate) async fn once_more(&mut self, actor: Actor) {
        match actor {
            Actor::Service => Box::pin(self.caller_tries_again()).await,
            _ => Box::pin(self.delivered_elsewhere()).await,
        }
    }

    /// Time goes on, from one due check to the next; whoever may start again does.
    pub(crate) async fn pass_time(&mut self, total: Duration) {
        let until = self.clock.uptime() + total;
        loop {
            self.start_what_is_down().await;
            self.tick().await;
            if self.plan.day == Day::Beyond {
                self.beyond_ticks().await;
            }
            let left = until.saturating_sub(self.clock.uptime());
            if left.is_zero() {
                return;
            }
            let now = self.clock.now();
            let due = self.running().coordinator.next_due().into_iter().chain(self.next_delivery()).min();
            let next = due.map_or(left, |due| due.max(now).since(now));
            self.clock.advance(next.min(left).max(Duration::from_secs(1)));
            self.tell_time();
        }
    }
}
