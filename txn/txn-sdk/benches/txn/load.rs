//! The service that is measured, as a process of its own: transactions that each write an order and publish it, with the
//! SDK or through an outbox table and a relay. Says when its measured time begins and ends, then when each transaction
//! was committed.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use txn_sdk::{Database, Message, Outcome, TxnProducer};

use crate::TOPIC;

/// How often the relay looks, and how many rows it takes at once.
const RELAY_EVERY: Duration = Duration::from_millis(100);
const RELAY_ROWS: usize = 500;

#[derive(Args, Clone)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) way: Way,
    #[arg(long)]
    pub(crate) database: String,
    #[arg(long)]
    pub(crate) name_servers: String,
    /// Of the orders; unique among all runs on a database.
    #[arg(long)]
    pub(crate) first_id: u64,
    #[arg(long)]
    pub(crate) workers: usize,
    /// Transactions a second by the clock; 0: as many as the workers get done.
    #[arg(long)]
    pub(crate) rate: u64,
    #[arg(long)]
    pub(crate) warmup: f64,
    #[arg(long)]
    pub(crate) seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    Sdk,
    Outbox,
}

/// The statements of a service, on its database.
trait Shop: Database + Sized {
    async fn open(url: &str, connections: usize) -> Result<Self>;
    async fn place(tx: Self::Handle<'_>, order: u64) -> sqlx::Result<()>;
    /// Order and outbox row in one transaction; calls `committing` just before its commit.
    async fn place_with_outbox(&self, order: u64, committing: impl FnOnce() + Send) -> sqlx::Result<()>;
    /// The oldest rows of the outbox.
    async fn waiting(&self) -> sqlx::Result<Vec<(i64, String)>>;
    async fn sent(&self, rows: &[(i64, String)]) -> sqlx::Result<()>;
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (id BIGINT PRIMARY KEY, amount BIGINT NOT NULL);
                      CREATE TABLE IF NOT EXISTS outbox (id BIGINT PRIMARY KEY, body TEXT NOT NULL)";

/// The same words for each driver: their traits do not add up to one bound that could be written here.
macro_rules! shop {
    ($pool:ty, $open:expr) => {
        impl Shop for $pool {
            async fn open(url: &str, connections: usize) -> Result<Self> {
                let pool: Self = $open(url, u32::try_from(connections)?).await?;
                sqlx::raw_sql(TABLES).execute(&pool).await?;
                Ok(pool)
            }

            async fn place(tx: Self::Handle<'_>, order: u64) -> sqlx::Result<()> {
                let insert = sqlx::query("INSERT INTO orders (id, amount) VALUES ($1, $2)");
                insert.bind(order as i64).bind(100_i64).execute(tx).await.map(drop)
            }

            async fn place_with_outbox(&self, order: u64, committing: impl FnOnce() + Send) -> sqlx::Result<()> {
                let mut tx = self.begin_with(<$pool>::BEGIN).await?;
                Self::place(&mut tx, order).await?;
                let insert = sqlx::query("INSERT INTO outbox (id, body) VALUES ($1, $2)");
                insert.bind(order as i64).bind(order.to_string()).execute(&mut *tx).await?;
                committing();
                tx.commit().await
            }

            async fn waiting(&self) -> sqlx::Result<Vec<(i64, String)>> {
                let select = sqlx::query("SELECT id, body FROM outbox ORDER BY id LIMIT $1").bind(RELAY_ROWS as i64);
                select.fetch_all(self).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
            }

            async fn sent(&self, rows: &[(i64, String)]) -> sqlx::Result<()> {
                let ids: Vec<String> = rows.iter().map(|(id, _)| id.to_string()).collect();
                let delete = format!("DELETE FROM outbox WHERE id IN ({})", ids.join(","));
                sqlx::raw_sql(sqlx::AssertSqlSafe(delete)).execute(self).await.map(drop)
            }
        }
    };
}

trait Begins {
    /// SQLite takes its write lock at once: one that reads first may not write later.
    const BEGIN: &'static str;
}

impl Begins for PgPool {
    const BEGIN: &'static str = "BEGIN";
}

impl Begins for SqlitePool {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
}

shop!(PgPool, async |url: &str, connections| { PgPoolOptions::new().max_connections(connections).connect(url).await });
shop!(SqlitePool, async |url: &str, connections| {
    // As durable as what the SDK sets for its own connections.
    let options: SqliteConnectOptions = url.parse()?;
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    SqlitePoolOptions::new().max_connections(connections).connect_with(options).await
});

pub(crate) async fn run(load: Load) -> Result<()> {
    if load.database.starts_with("sqlite") { run_on::<SqlitePool>(load).await } else { run_on::<PgPool>(load).await }
}

async fn run_on<S: Shop>(load: Load) -> Result<()>
where
    for<'t> S::Handle<'t>: Send,
{
    let shop = S::open(&load.database, load.workers).await?;
    let clock = Clock::new(&load);
    match load.way {
        Way::Sdk => {
            let txn = TxnProducer::builder(&load.name_servers).group("bench-shop").database(shop).topics([TOPIC]);
            let txn = txn.build().await?;
            clock.drive(&load, async |order| transact(&txn, order, &clock).await).await?;
            txn.shutdown().await;
            Ok(())
        }
        Way::Outbox => {
            let place = async |order| {
                let mut committed = 0;
                shop.place_with_outbox(order, || committed = unix_micros()).await?;
                clock.committed(order, committed);
                Ok(())
            };
            let service = async {
                clock.drive(&load, place).await?;
                // What is left in the table is relayed before this process ends.
                while !shop.waiting().await?.is_empty() {
                    tokio::time::sleep(RELAY_EVERY).await;
                }
                Ok(())
            };
            tokio::select! {
                ended = relay(&shop, &load.name_servers) => ended,
                done = service => done,
            }
        }
    }
}

async fn transact<S: Shop>(txn: &TxnProducer<S>, order: u64, clock: &Clock) -> Result<()> {
    let mut committed = 0;
    let work = async |tx: S::Handle<'_>| {
        S::place(tx, order).await?;
        committed = unix_micros();
        Ok::<_, sqlx::Error>(())
    };
    let sent = txn.send(Message::new(TOPIC, order.to_string()), work).await?;
    ensure!(matches!(sent.outcome, Outcome::Committed), "order {order}: {:?}", sent.outcome);
    clock.committed(order, committed);
    Ok(())
}

/// Full batches follow each other at once; otherwise it looks by the clock.
async fn relay<S: Shop>(shop: &S, name_servers: &str) -> Result<()> {
    let producer = mq_client::Producer::builder(name_servers).group("bench-relay").build().await?;
    let mut ticks = tokio::time::interval(RELAY_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let rows = shop.waiting().await?;
        let send = |(_, body): &(i64, String)| producer.send(mq_client::Message::new(TOPIC, body.clone()));
        try_join_all(rows.iter().map(send)).await?;
        if !rows.is_empty() {
            shop.sent(&rows).await?;
        }
        if rows.len() < RELAY_ROWS {
            ticks.tick().await;
        }
    }
}

/// Gives out orders, and remembers when each was committed.
struct Clock {
    next: AtomicU64,
    first: u64,
    began: Instant,
    rate: u64,
    end: Duration,
    committed: Mutex<Vec<(u64, u64)>>,
}

impl Clock {
    fn new(load: &Load) -> Self {
        let end = Duration::from_secs_f64(load.warmup + load.seconds);
        let (next, committed) = (AtomicU64::new(0), Mutex::default());
        Self { next, first: load.first_id, began: Instant::now(), rate: load.rate, end, committed }
    }

    /// The next order, once it is due; `None` when the time is over.
    async fn order(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(nanos) = (number * 1_000_000_000).checked_div(self.rate) {
            tokio::time::sleep_until((self.began + Duration::from_nanos(nanos)).into()).await;
        }
        (self.began.elapsed() < self.end).then_some(self.first + number)
    }

    fn committed(&self, order: u64, at_micros: u64) {
        self.committed.lock().push((order, at_micros));
    }

    async fn drive(&self, load: &Load, place: impl AsyncFn(u64) -> Result<()>) -> Result<()> {
        let workers = try_join_all((0..load.workers).map(async |_| {
            while let Some(order) = self.order().await {
                place(order).await?;
            }
            anyhow::Ok(())
        }));
        let measured = async {
            let mut out = std::io::stdout();
            tokio::time::sleep_until((self.began + Duration::from_secs_f64(load.warmup)).into()).await;
            writeln!(out, "begin {}", unix_micros())?;
            tokio::time::sleep_until((self.began + self.end).into()).await;
            writeln!(out, "end {}", unix_micros())?;
            anyhow::Ok(())
        };
        tokio::try_join!(workers, measured)?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        for (order, at) in self.committed.lock().iter() {
            writeln!(out, "{order} {at}")?;
        }
        out.flush().context("nobody listens")
    }
}

fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
