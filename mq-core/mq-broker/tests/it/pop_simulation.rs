//! Random histories of pops from a seed: consumers that acknowledge in time, late or never, that want other times, jumps of
//! the clock, kills, power cuts and restarts.
//!
//! `POP_SEED=7 cargo test -p mq-broker --test it pop_simulation` replays one seed and prints its history; `POP_RUNS=100`
//! runs more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mq_broker::BrokerConfig;
use mq_protocol::body::{self, SubscriptionGroup};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::PopMessage;
use mq_protocol::ids::UnixMillis;
use mq_store::Clock;
use mq_store::backend::{CrashBackend, CrashMode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Client, Send, TestBroker, World};
use crate::pop::{Popped, done, pop, popped};

const RUNS: u64 = 6;
const MOVES: usize = 70;
const QUEUES: i32 = 3;
/// Longer than any time that a consumer asks for.
const LONG: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// Nobody has it, or its time is over.
    Free,
    /// Nobody else may see it before.
    HeldUntil(UnixMillis),
    /// Acknowledged in time: nobody may see it again.
    Done,
    /// Acknowledged, or moved, after its time: whoever was first won.
    Unknown,
}

struct Simulation {
    world: World,
    disk: CrashBackend,
    broker: Option<TestBroker>,
    client: Client,
    dice: StdRng,
    messages: BTreeMap<String, Message>,
    /// What consumers hold, each with when its time is over.
    hands: Vec<(Popped, UnixMillis)>,
    history: Vec<String>,
    seed: u64,
}

impl Simulation {
    async fn start(seed: u64) -> Self {
        let disk = CrashBackend::new();
        let world = World::on(Arc::new(disk.clone()));
        let broker = world.start_with(small).await;
        let client = member(&broker).await;
        let dice = StdRng::seed_from_u64(seed);
        let (messages, hands, history) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { world, disk, broker: Some(broker), client, dice, messages, hands, history, seed }
    }

    fn now(&self) -> UnixMillis {
        self.world.clock.now()
    }

    fn say(&mut self, what: String) {
        self.history.push(format!("{:>9} {what}", self.now().0 - crate::harness::START.0));
    }

    async fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..25 => self.send().await,
            25..55 => {
                let max_msg_nums = self.dice.random_range(1..6);
                self.pop(PopMessage { max_msg_nums, ..pop("g", "T") }).await;
            }
            55..75 => self.ack().await,
            75..83 => self.change().await,
            83..94 => {
                let by = Duration::from_millis(self.dice.random_range(1..40_000));
                self.say(format!("the clock goes on by {by:?}"));
                self.world.clock.advance(by);
            }
            other => self.restart(other).await,
        }
    }

    async fn send(&mut self) {
        let body = format!("m{}", self.messages.len());
        let mut message = Send::to("T").body(body.clone());
        message.header.queue_id = self.dice.random_range(0..QUEUES);
        self.client.send(message).await;
        self.say(format!("sent {body}"));
        self.messages.insert(body, Message::Free);
    }

    async fn pop(&mut self, asked: PopMessage) {
        let invisible = Duration::from_millis(self.dice.random_range(1..60_000));
        let asked = PopMessage { invisible_time: invisible.as_millis() as i64, ..asked };
        let now = self.now();
        for found in popped(&mut self.client, &asked).await {
            let body = found.body().to_owned();
            self.say(format!("popped {body} for {invisible:?}: {}", found.handle));
            let until = now.plus(invisible);
            match self.messages.insert(body.clone(), Message::HeldUntil(until)) {
                Some(Message::Free | Message::Unknown) => {}
                Some(Message::HeldUntil(held)) => assert!(held <= now, "{body} is another's until {held}, it is {now}"),
                Some(Message::Done) => panic!("{body} was acknowledged in time and came again"),
                None => panic!("{body} was never sent"),
            }
            self.hands.push((found, until));
        }
    }

    fn take_hand(&mut self) -> Option<(Popped, UnixMillis)> {
        let count = self.hands.len();
        (count > 0).then(|| self.hands.remove(self.dice.random_range(0..count)))
    }

    async fn ack(&mut self) {
        let Some((held, until)) = self.take_hand() else { return };
        done(&mut self.client, held.ack()).await;
        let in_time = self.now() < until;
        self.say(format!("acknowledged {} ({})", held.handle, if in_time { "in time" } else { "late" }));
        self.settle(&held, in_time, Message::Done);
    }

    async fn change(&mut self) {
        let Some((held, until)) = self.take_hand() else { return };
        let to = Duration::from_millis(self.dice.random_range(1..60_000));
        let in_time = self.now() < until;
        let answer = self.client.call(held.change(to)).await;
        if answer.code == response::NO_MESSAGE && !in_time {
            return self.say(format!("{} is over", held.handle));
        }
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        let changed = held.changed(&answer);
        let until = changed.handle.pop_time.plus(to);
        self.say(format!("{} for {to:?} more: {}", held.handle, changed.handle));
        self.settle(&held, in_time, Message::HeldUntil(until));
        if in_time {
            self.hands.push((changed, until));
        }
    }

    fn settle(&mut self, held: &Popped, in_time: bool, to: Message) {
        let message = self.messages.get_mut(held.body()).expect("it was sent");
        match (in_time, *message) {
            (true, _) => *message = to,
            // Nobody else has it yet, or somebody else has it and this changes nothing for them.
            (false, Message::Free) => *message = Message::Unknown,
            (false, Message::HeldUntil(until)) if until <= self.world.clock.now() => *message = Message::Unknown,
            (false, _) => {}
        }
    }

    async fn restart(&mut self, how: u32) {
        let broker = self.broker.take().expect("it runs");
        match how {
            94..96 => {
                self.say("an orderly stop".into());
                broker.stop().await.expect("a clean end");
            }
            96..98 => {
                self.say("kill -9".into());
                broker.abandon().await;
                self.world.wait_unlocked().await;
            }
            _ => {
                let mode = CrashMode::ALL[self.dice.random_range(0..CrashMode::ALL.len())];
                self.say(format!("a power cut: {mode:?}"));
                self.disk = self.disk.crash(mode, self.dice.random());
                broker.abandon().await;
                self.world.wait_unlocked().await;
                self.world = World { backend: Arc::new(self.disk.clone()), ..self.world.clone() };
            }
        }
        let broker = self.world.start_with(small).await;
        self.client = member(&broker).await;
        self.broker = Some(broker);
    }

    /// Everything that was sent comes to somebody who acknowledges it.
    async fn drain(&mut self) {
        self.hands.clear();
        let lost = |messages: &BTreeMap<String, Message>| -> BTreeSet<String> {
            let open = |message: &Message| matches!(message, Message::Free | Message::HeldUntil(_));
            messages.iter().filter(|(_, message)| open(message)).map(|(body, _)| body.clone()).collect()
        };
        for _ in 0..200 {
            if lost(&self.messages).is_empty() {
                return;
            }
            self.world.clock.advance(LONG);
            self.pop(PopMessage { poll_time: 500, ..pop("g", "T") }).await;
            while !self.hands.is_empty() {
                self.ack().await;
            }
        }
        panic!("lost: {:?}", lost(&self.messages));
    }
}

fn small(config: &mut BrokerConfig) {
    config.commit_log_segment_bytes = 1 << 20;
}

/// It sends no heartbeat: a broker whose clock jumps would miss the next one.
async fn member(broker: &TestBroker) -> Client {
    let mut client = broker.connect().await;
    let patient =
        SubscriptionGroup { group_name: "g".into(), retry_max_times: 100_000, ..SubscriptionGroup::default() };
    let create = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(body::to_json(&patient));
    done(&mut client, create).await;
    client
}

impl Drop for Simulation {
    #[allow(clippy::print_stdout, reason = "the history of a failure is what a test shows")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            println!("{}\nPOP_SEED={seed} cargo test -p mq-broker --test it pop_simulation", self.history.join("\n"));
        }
    }
}

#[tokio::test]
async fn whatever_consumers_and_machines_do_no_message_is_lost_held_twice_or_seen_after_its_acknowledgement() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let seeds = match number("POP_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("POP_RUNS").unwrap_or(RUNS)).map(|_| rand::random_range(0..1_000_000)).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut simulation = Simulation::start(seed).await;
        // The topic comes into being with its first message.
        simulation.send().await;
        for _ in 0..MOVES {
            simulation.step().await;
        }
        simulation.drain().await;
        if let Some(broker) = simulation.broker.take() {
            broker.stop().await.expect("a clean end");
        }
    }
}
