//! `mq bench`: load for any broker that speaks RocketMQ's remoting protocol, and honest figures of what came of it.
//!
//! One thread and raw pipelined connections, so that the generator takes little of the machine that it shares with the
//! broker. What happens before the warm-up is over, and after the end, is not counted.

mod connection;
mod flooding;
mod floor;
mod frames;
mod halves;
mod idle;
mod latency;
mod options;
mod pacing;
mod popping;
mod producing;
mod pulling;
mod report;
mod server;
mod suite;
mod tally;
mod target;
mod timers;
mod usage;

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, LocalSet};

pub(crate) use options::BenchOptions;
use options::{
    Backlog, Extent, FloodOptions, LatencyOptions, PopOptions, PullOptions, Reporting, Scenario, SendOptions,
    TxnOptions,
};
use producing::Work;
use pulling::Reading;
use report::{Quantiles, Report, ServerCost};
use tally::Tally;
use target::Destination;

const DEFAULT_SECONDS: f64 = 10.0;
const DEFAULT_WARMUP_SECONDS: f64 = 1.0;
/// How long the last answers, and the last deliveries, may take after the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the first answer on each connection may take.
const FIRST_ANSWERS: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Runs on a runtime of its own with a single thread.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    LocalSet::new().block_on(&runtime, async {
        match &options.scenario {
            Scenario::Send(options) => send(options).await?.finish(options.reporting.output),
            Scenario::Txn(options) => txn(options).await?.finish(options.reporting.output),
            Scenario::Flood(options) => flood(options).await?.finish(options.reporting.output),
            Scenario::Pull(options) => pull(options).await?.finish(options.backlog.reporting.output),
            Scenario::Pop(options) => pop(options).await?.finish(options.backlog.reporting.output),
            Scenario::Latency(options) => measure_latency(options).await?.finish(options.reporting.output),
            Scenario::Idle(options) => idle::idle(options).await?.finish(options.reporting.output),
            Scenario::Timers(options) => timers::timers(options).await?.finish(options.alone.output),
            Scenario::Halves(options) => halves::halves(options).await?.finish(options.alone.output),
            Scenario::Suite(options) => suite::run(options).await,
            Scenario::Floor(options) => floor::serve(options, crate::signals::shutdown()?).await,
        }
    })
}

type Workers = JoinSet<Result<()>>;

async fn send(options: &SendOptions) -> Result<Report> {
    let load = &options.load;
    let topics = options.topics;
    let work = Work { size: load.size, batch: options.batch, in_flight: load.in_flight, transactions: None, topics };
    let to = options.target.resolve().await?;
    let run = Run::new("send", &to, &options.extent, &options.reporting);
    run.produce(work, load.connections).await
}

async fn flood(options: &FloodOptions) -> Result<Report> {
    let connections = options.connections;
    ensure!(connections > 0, "at least one connection is needed");
    let to = options.target.resolve().await?;
    let run = Run::new("flood", &to, &options.extent, &options.reporting);
    let rate = (options.rate / connections as u64).max(1);
    let mut workers = Workers::new();
    run.tally.expect(connections);
    for connection in 0..connections {
        workers.spawn_local(flooding::flood(to.clone(), options.size, rate, connection, run.tally.clone()));
    }
    let measured = run.measure(&mut workers, run.seconds(), || ()).await?;
    run.tally.end();
    come_home(&mut workers).await?;
    let load = format!("{} messages/s on {connections} connections, {} bytes", options.rate, options.size);
    run.report(load, &measured, "written to acknowledged", &run.tally.latency())
}

async fn txn(options: &TxnOptions) -> Result<Report> {
    ensure!((0.0..=1.0).contains(&options.rollback), "--rollback is a part between 0 and 1");
    let load = &options.load;
    let transactions = Some(options.rollback);
    let work = Work { size: load.size, batch: 1, in_flight: load.in_flight, transactions, topics: 1 };
    let to = options.target.resolve().await?;
    let run = Run::new("txn", &to, &options.extent, &options.reporting);
    run.produce(work, load.connections).await
}

async fn pull(options: &PullOptions) -> Result<Report> {
    read_backlog("pull", "pull", &options.backlog, options.batch, pulling::read_queue).await
}

async fn pop(options: &PopOptions) -> Result<Report> {
    read_backlog("pop", "pop to acknowledged", &options.backlog, options.batch, popping::pop_queue).await
}

async fn read_backlog<F>(
    scenario: &'static str,
    latency_of: &'static str,
    backlog: &Backlog,
    batch: i32,
    read: impl Fn(Destination, u32, Reading, Rc<Tally>) -> F,
) -> Result<Report>
where
    F: Future<Output = Result<()>> + 'static,
{
    let to = backlog.target.resolve().await?;
    let extent = Extent { seconds: backlog.seconds, count: backlog.count, warmup: Some(0.0) };
    let run = Run::new(scenario, &to, &extent, &backlog.reporting);
    let reading = Reading { batch, repeat: backlog.seconds.is_some() };
    let mut workers = Workers::new();
    for queue in 0..to.queues {
        workers.spawn_local(read(to.clone(), queue, reading, run.tally.clone()));
    }
    let seconds = backlog.seconds.map_or(Duration::MAX, Duration::from_secs_f64);
    let measured = run.measure(&mut workers, seconds, || ()).await?;
    run.tally.end();
    come_home(&mut workers).await?;
    ensure!(run.tally.done() > 0, "topic {} holds nothing; fill it with: mq bench send", to.topic);
    let load = format!("{} readers, one for each queue, {batch} messages a {scenario}", to.queues);
    run.report(load, &measured, latency_of, &run.tally.latency())
}

async fn measure_latency(options: &LatencyOptions) -> Result<Report> {
    let to = options.target.resolve().await?;
    let run = Run::new("latency", &to, &options.extent, &options.reporting);
    let clock = Rc::new(latency::Clock::new(options.rate));
    let mut workers = Workers::new();
    create_topic(&to).await?;
    let mut connection = connection::Connection::open(&to.address).await?;
    for queue in 0..to.queues {
        let (_, end) = to.bounds(&mut connection, queue).await?;
        workers.spawn_local(latency::listen(to.clone(), queue, end, clock.clone(), run.tally.clone()));
    }
    let size = options.size.max(pacing::STAMP_BYTES);
    let sending = latency::send_by_the_clock(to.clone(), size, clock.clone(), run.tally.clone());
    workers.spawn_local(sending);
    let measured = run.measure(&mut workers, run.seconds(), || clock.measure_from_now()).await?;
    // Deliveries of what was sent in time still count.
    clock.stop_sending();
    let drained = async {
        while clock.outstanding() > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        let missing = clock.outstanding();
        run.tally.failed(|| format!("{missing} acknowledged messages were not delivered within {DRAIN:?}"));
    }
    let acknowledged = Quantiles::of(&clock.acknowledged());
    let load = format!(
        "{} messages/s by the clock, {size} bytes; acknowledged: p50 {:.3} ms, p99 {:.3} ms",
        options.rate, acknowledged.p50, acknowledged.p99
    );
    run.report(load, &measured, "due to delivered", &run.tally.latency())
}

/// One message of an ordinary send, so that the queues can be asked for their ends.
async fn create_topic(to: &Destination) -> Result<()> {
    let tally = Rc::new(Tally::new(Some(1)));
    tally.begin();
    let work = Work { size: 1, batch: 1, in_flight: 1, transactions: None, topics: 1 };
    tally.end();
    producing::produce(to.clone(), work, 0, tally.clone()).await?;
    let (failed, why) = tally.failures();
    ensure!(failed == 0, "the broker takes no sends to {}: {}", to.topic, why.unwrap_or_default());
    Ok(())
}

/// One measurement.
struct Run<'o> {
    scenario: &'static str,
    to: Destination,
    extent: Extent,
    reporting: &'o Reporting,
    tally: Rc<Tally>,
}

struct Measured {
    seconds: f64,
    cpu: Duration,
}

impl<'o> Run<'o> {
    fn new(scenario: &'static str, to: &Destination, extent: &Extent, reporting: &'o Reporting) -> Self {
        let tally = Rc::new(Tally::new(extent.count));
        Self { scenario, to: to.clone(), extent: extent.clone(), reporting, tally }
    }

    async fn produce(&self, work: Work, connections: usize) -> Result<Report> {
        ensure!(connections > 0, "at least one connection is needed");
        let mut workers = Workers::new();
        self.tally.expect(connections);
        for connection in 0..connections {
            workers.spawn_local(producing::produce(self.to.clone(), work, connection, self.tally.clone()));
        }
        let measured = self.measure(&mut workers, self.seconds(), || ()).await?;
        self.tally.end();
        come_home(&mut workers).await?;
        let load = format!(
            "{connections} connections x {} in flight, {} bytes, {} a request",
            work.in_flight, work.size, work.batch
        );
        let latency_of = if work.transactions.is_some() { "half to ended" } else { "send to acknowledged" };
        self.report(load, &measured, latency_of, &self.tally.latency())
    }

    fn seconds(&self) -> Duration {
        match (self.extent.seconds, self.extent.count) {
            (Some(seconds), _) => Duration::from_secs_f64(seconds),
            (None, Some(_)) => Duration::MAX,
            (None, None) => Duration::from_secs_f64(DEFAULT_SECONDS),
        }
    }

    /// Warms up, then measures for this long, or until the count is reached or the workers are done.
    async fn measure(&self, workers: &mut Workers, seconds: Duration, begun: impl FnOnce()) -> Result<Measured> {
        let default = if self.extent.count.is_some() { 0.0 } else { DEFAULT_WARMUP_SECONDS };
        let warmup = Duration::from_secs_f64(self.extent.warmup.unwrap_or(default).max(0.0));
        if !warmup.is_zero() {
            tokio::select! {
                ready = self.warm_up(warmup) => ready?,
                ended = all_ended(workers) => ended?,
            }
        }
        let cpu_before = usage::cpu(&self.reporting.pid)?;
        let began = Instant::now();
        self.tally.begin();
        begun();
        tokio::select! {
            () = tokio::time::sleep(seconds) => {}
            () = self.tally.count_reached() => {}
            ended = all_ended(workers) => ended?,
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu = usage::cpu(&self.reporting.pid)?.saturating_sub(cpu_before);
        Ok(Measured { seconds, cpu })
    }

    /// The load is all there once every connection had an answer: a thousand of them take a while.
    async fn warm_up(&self, warmup: Duration) -> Result<()> {
        let heard = tokio::time::timeout(FIRST_ANSWERS, self.tally.all_heard()).await.is_ok();
        ensure!(heard, "{} connections had no answer within {FIRST_ANSWERS:?}", self.tally.unheard());
        tokio::time::sleep(warmup).await;
        Ok(())
    }

    fn report(
        &self,
        load: String,
        measured: &Measured,
        latency_of: &'static str,
        latency: &hdrhistogram::Histogram<u64>,
    ) -> Result<Report> {
        let messages = self.tally.done();
        let (failed, first_error) = self.tally.failures();
        let server = if self.reporting.pid.is_empty() {
            None
        } else {
            Some(ServerCost {
                cpu_us_per_message: measured.cpu.as_secs_f64() * 1e6 / messages.max(1) as f64,
                cpu_seconds: measured.cpu.as_secs_f64(),
                anonymous_mib: usage::anonymous_mib(&self.reporting.pid)?,
            })
        };
        Ok(Report {
            scenario: self.scenario,
            address: self.to.address.clone(),
            topic: self.to.topic.clone(),
            load,
            messages,
            failed,
            first_error,
            seconds: measured.seconds,
            messages_per_second: messages as f64 / measured.seconds,
            mib_per_second: self.tally.bytes() as f64 / measured.seconds / f64::from(1 << 20),
            latency_of,
            latency_ms: Quantiles::of(latency),
            server,
        })
    }
}

/// What is in flight comes home; what does not come in time is not waited for.
async fn come_home(workers: &mut Workers) -> Result<()> {
    tokio::time::timeout(DRAIN, all_ended(workers)).await.unwrap_or(Ok(()))
}

/// All workers came to their end, or one failed.
async fn all_ended(workers: &mut Workers) -> Result<()> {
    while let Some(ended) = workers.join_next().await {
        ended.context("a worker panicked")??;
    }
    Ok(())
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
