//! The marker table and its fence, driven as the producer and its checkbacks drive them.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use mq_protocol::ids::UnixMillis;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sea_orm::DatabaseConnection;
use sqlx::SqlitePool;
use tokio::time::Instant;
use txn_sdk::{CommitError, DatabaseError, MarkError, MarkerOptions, MarkerOwner, Markers, TransactionId, Verdict};

use crate::databases::{Engine, Isolation, PoolShape, Scratch, TestDatabase, on_all_databases};

const OWNER: MarkerOwner<'static> = MarkerOwner { group: "order-service", topic: "ORDER_PAID" };
const DAY: Duration = Duration::from_secs(24 * 3600);
const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";

on_all_databases!(
    checkback_answers_what_the_table_shows,
    fence_and_commit_never_both_win,
    fence_and_commit_never_both_win_at_the_lowest_isolation,
    fence_and_commit_never_both_win_at_repeatable_read,
    fence_and_commit_never_both_win_serializable,
    a_transaction_that_something_has_ended_is_not_committed,
    locked_database_is_unknown_and_promises_nothing,
    fresh_instance_answers_for_a_dead_one,
    cleaned_rows_are_unknown_never_rollback,
    each_group_cleans_its_own_markers,
    a_clock_that_leaps_ahead_cleans_nothing,
    tombstones_outlive_the_horizon,
    weak_durability_is_refused,
    instances_may_start_at_once,
);

fn now() -> UnixMillis {
    UnixMillis(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64)
}

fn born(ago: Duration) -> TransactionId {
    TransactionId::born_at(UnixMillis(now().0 - ago.as_millis() as i64))
}

fn options() -> MarkerOptions {
    MarkerOptions { deadline: Duration::from_secs(10), lock_timeout: Duration::from_millis(200), ..Default::default() }
}

async fn markers<D: TestDatabase>(file: &Scratch) -> Markers<D> {
    Markers::open(file.open::<D>().await, OWNER.group, options()).await.unwrap()
}

/// Asks until the answer is definite: a transaction that was dropped a moment ago may still hold its row.
async fn settled<D: TestDatabase>(markers: &Markers<D>, id: TransactionId) -> Verdict {
    let asking = async {
        loop {
            match markers.verdict(id, OWNER).await {
                Verdict::Unknown => tokio::time::sleep(Duration::from_millis(10)).await,
                verdict => return verdict,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), asking).await.expect("a definite answer")
}

/// One transaction as the producer runs it: marker first, then the business, then the commit.
async fn transaction<D: TestDatabase>(database: &D, id: TransactionId, commits: bool) -> Result<(), MarkError> {
    let mut tx = database.begin().await?;
    Markers::<D>::mark(&mut tx, id, OWNER).await?;
    D::run(D::handle(&mut tx), INSERT_ORDER).await.unwrap();
    if commits {
        D::commit_work(tx).await.map_err(refused)?;
    } else {
        D::rollback(tx).await?
    }
    Ok(())
}

async fn checkback_answers_what_the_table_shows<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let markers = markers::<D>(&file).await;
    let database = markers.database();
    for (case, age, commits, expected) in [
        ("committed", 0, Some(true), Verdict::Commit),
        ("committed long ago", 3600, Some(true), Verdict::Commit),
        ("rolled back just now", 0, Some(false), Verdict::Unknown),
        ("rolled back, past the deadline", 60, Some(false), Verdict::Rollback),
        ("never begun, young", 0, None, Verdict::Unknown),
        ("never begun, past the deadline", 60, None, Verdict::Rollback),
    ] {
        let id = born(Duration::from_secs(age));
        if let Some(commits) = commits {
            transaction(database, id, commits).await.unwrap();
        }
        assert_eq!(markers.verdict(id, OWNER).await, expected, "{case}");
        assert_eq!(markers.verdict(id, OWNER).await, expected, "{case}, asked again");
        if expected == Verdict::Rollback {
            let late = transaction(database, id, true).await;
            assert!(matches!(late, Err(MarkError::Fenced)), "{case}: a late transaction got past the tombstone");
        }
    }
    assert_eq!(file.orders().await, 2);
}

/// A transaction at its deadline races with a checkback that fences it: whoever wins, the table, the orders and every
/// later answer agree.
async fn fence_and_commit_never_both_win<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let database = file.open::<D>().await;
    race(&file, database, 150).await;
}

async fn fence_and_commit_never_both_win_at_the_lowest_isolation<D: TestDatabase>(engine: Engine) {
    isolated_race::<D>(engine, Isolation::Lowest).await;
}

async fn fence_and_commit_never_both_win_at_repeatable_read<D: TestDatabase>(engine: Engine) {
    isolated_race::<D>(engine, Isolation::Repeatable).await;
}

async fn fence_and_commit_never_both_win_serializable<D: TestDatabase>(engine: Engine) {
    isolated_race::<D>(engine, Isolation::Serializable).await;
}

async fn isolated_race<D: TestDatabase>(engine: Engine, isolation: Isolation) {
    if engine != Engine::Sqlite {
        let file = Scratch::with_orders(engine).await;
        let database = file.open_isolated::<D>(isolation).await;
        race(&file, database, 60).await;
    }
}

async fn race<D: TestDatabase>(file: &Scratch, database: D, rounds: u64) {
    let markers = Markers::open(database, OWNER.group, options()).await.unwrap();
    let (mut committed, mut fenced) = (0, 0);
    for seed in 0.. {
        if seed >= rounds && committed > 0 && fenced > 0 {
            return;
        }
        assert!(seed < 100 * rounds, "the race went one way only: {committed} committed, {fenced} fenced");
        // On a slow machine it takes longer delays for either to win.
        let longest = 1_500 * (1 + seed / rounds);
        let id = born(Duration::from_secs(60));
        let mut rng = StdRng::seed_from_u64(seed);
        let delays: [u64; 3] = std::array::from_fn(|_| rng.random_range(0..longest));
        let worker = {
            let database = markers.database().clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(delays[0])).await;
                transaction(&database, id, true).await
            })
        };
        let checks = [delays[1], delays[2]].map(|delay| {
            let markers = markers.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(delay)).await;
                markers.verdict(id, OWNER).await
            })
        });
        let done = match worker.await.unwrap() {
            Ok(()) => Verdict::Commit,
            Err(MarkError::Fenced) => Verdict::Rollback,
            // Above READ COMMITTED the database refuses whoever comes second (40001).
            Err(MarkError::Database(error)) if error.to_string().contains("could not serialize") => Verdict::Rollback,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for check in checks {
            let answer = check.await.unwrap();
            assert!(answer == done || answer == Verdict::Unknown, "seed {seed}: {done:?}, but a check said {answer:?}");
        }
        assert_eq!(settled(&markers, id).await, done, "seed {seed}: asked at the end");
        if done == Verdict::Commit {
            committed += 1
        } else {
            fenced += 1
        }
        assert_eq!(file.orders().await, committed, "seed {seed}");
    }
}

async fn locked_database_is_unknown_and_promises_nothing<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let markers = markers::<D>(&file).await;
    let running = born(Duration::from_secs(60));
    let mut tx = markers.database().begin().await.unwrap();
    Markers::<D>::mark(&mut tx, running, OWNER).await.unwrap();
    assert_eq!(markers.verdict(running, OWNER).await, Verdict::Unknown, "its marker may yet be committed");
    let other = markers.verdict(born(Duration::from_secs(60)), OWNER).await;
    let expected = if engine == Engine::Sqlite { Verdict::Unknown } else { Verdict::Rollback };
    assert_eq!(other, expected, "SQLite has one lock, the others one per row");
    D::commit(tx).await.unwrap();
    assert_eq!(markers.verdict(running, OWNER).await, Verdict::Commit, "slow is not dead: the row decides");
}

async fn fresh_instance_answers_for_a_dead_one<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let (done, dead) = (born(Duration::from_secs(60)), born(Duration::from_secs(60)));
    {
        let first = markers::<D>(&file).await;
        transaction(first.database(), done, true).await.unwrap();
        let mut tx = first.database().begin().await.unwrap();
        Markers::<D>::mark(&mut tx, dead, OWNER).await.unwrap();
        drop(tx); // the process dies with the transaction open
    }
    let fresh = markers::<D>(&file).await;
    assert_eq!(settled(&fresh, done).await, Verdict::Commit);
    assert_eq!(settled(&fresh, dead).await, Verdict::Rollback);
}

async fn cleaned_rows_are_unknown_never_rollback<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let markers = markers::<D>(&file).await;
    let database = markers.database();
    let (old, young) = (born(8 * DAY), born(DAY));
    transaction(database, old, true).await.unwrap();
    transaction(database, young, true).await.unwrap();
    assert_eq!(markers.verdict(old, OWNER).await, Verdict::Commit, "still there");

    // More than one batch of old markers, and inbox rows of the same database, which are not the markers' to clean.
    let (old_markers, inbox_row) = match engine {
        Engine::Sqlite => (
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
             INSERT INTO checkback_marker SELECT unhex(printf('00%030d', i)), 'order-service', 't', 1, 0, 0 FROM n",
            "INSERT INTO checkback_inbox VALUES (x'01', x'02', x'', x'FF', 1)",
        ),
        Engine::MariaDb | Engine::MySql => (
            "INSERT INTO checkback_marker
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
             SELECT unhex(lpad(a.i * 40 + b.i, 32, '0')), 'order-service', 't', 1, 0, 0 FROM n a, n b WHERE a.i <= 30",
            "INSERT INTO checkback_inbox VALUES (x'01', x'02', x'', x'FF', 1)",
        ),
        Engine::Postgres => (
            "INSERT INTO checkback_marker
             SELECT decode(lpad(i::text, 32, '0'), 'hex'), 'order-service', 't', 1, 0, 0 FROM generate_series(1, 1200) i",
            r"INSERT INTO checkback_inbox VALUES ('\x01', '\x02', '', '\xFF', 1)",
        ),
    };
    file.run(old_markers).await;
    file.run(inbox_row).await;

    assert_eq!(markers.clean(now()).await.unwrap(), 1 + 1200);
    assert_eq!(file.count("SELECT count(*) FROM checkback_inbox").await, 1);
    assert_eq!(markers.verdict(young, OWNER).await, Verdict::Commit, "younger than the horizon");
    for id in [old, born(8 * DAY)] {
        assert_eq!(markers.verdict(id, OWNER).await, Verdict::Unknown, "its row may have been cleaned");
    }
    assert_eq!(markers.clean(UnixMillis(0)).await.unwrap(), 0);
    assert_eq!(markers.verdict(old, OWNER).await, Verdict::Unknown, "a clock that falls back lowers no horizon");
}

/// Of another group of the same database, which keeps its rows for longer: its transactions are none of this one's.
async fn each_group_cleans_its_own_markers<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let database = file.open::<D>().await;
    let open = async |group: &'static str, keep: u32| {
        let options = MarkerOptions { keep: keep * DAY, ..options() };
        (Markers::open(database.clone(), group, options).await.unwrap(), MarkerOwner { group, topic: "ORDER_PAID" })
    };
    // One collation takes their names for the same.
    let ((short, short_owner), (long, long_owner)) = (open("orders", 2).await, open("ORDERS", 30).await);
    let commit = async |owner: MarkerOwner<'static>| {
        let (id, mut tx) = (born(8 * DAY), database.begin().await.unwrap());
        Markers::<D>::mark(&mut tx, id, owner).await.unwrap();
        D::commit(tx).await.unwrap();
        id
    };
    let (forgotten, kept) = (commit(short_owner).await, commit(long_owner).await);
    assert_eq!(short.clean(now()).await.unwrap(), 1);
    assert_eq!(short.verdict(forgotten, short_owner).await, Verdict::Unknown, "its row may have been cleaned");
    assert_eq!(long.verdict(kept, long_owner).await, Verdict::Commit);
    assert_eq!(long.verdict(born(8 * DAY), long_owner).await, Verdict::Rollback, "nothing of that group was cleaned");
    commit(long_owner).await;
    assert_eq!((long.clean(now()).await.unwrap(), short.clean(now()).await.unwrap()), (0, 0));
    assert_eq!(long.verdict(kept, long_owner).await, Verdict::Commit);
}

async fn a_clock_that_leaps_ahead_cleans_nothing<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let markers = markers::<D>(&file).await;
    let (database, began) = (markers.database(), Instant::now());
    let young = born(Duration::ZERO);
    transaction(database, young, true).await.unwrap();
    let leapt = UnixMillis(now().0 + (30 * DAY).as_millis() as i64);
    let mut running = markers.housekeeper();
    assert_eq!(running.round(now(), began).await.unwrap(), 0);
    assert_eq!(running.round(leapt, began + Duration::from_secs(600)).await.unwrap(), 0);
    // A start under such a clock, and a round after that.
    let mut started = markers.housekeeper();
    for minutes in [0, 10] {
        assert_eq!(started.round(leapt, began + Duration::from_secs(60 * minutes)).await.unwrap(), 0);
    }
    assert_eq!(markers.verdict(young, OWNER).await, Verdict::Commit);
    transaction(database, born(Duration::ZERO), true).await.expect("nothing of today is below the horizon");
    // Set right, it cleans as ever.
    transaction(database, born(6 * DAY), true).await.unwrap();
    assert_eq!(running.round(now(), began + Duration::from_secs(1200)).await.unwrap(), 0);
    assert_eq!(running.round(UnixMillis(now().0 + DAY.as_millis() as i64 * 2), began + 2 * DAY).await.unwrap(), 1);
}

/// A transaction may wake up long after its checkback was answered ROLLBACK, whatever was cleaned meanwhile.
async fn tombstones_outlive_the_horizon<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let few = MarkerOptions { tombstones: 3, ..options() };
    let markers = Markers::open(file.open::<D>().await, OWNER.group, few).await.unwrap();
    let mut given_up: Vec<_> = (0..6).map(|day| born((8 + day) * DAY)).collect();
    given_up.sort();
    for id in &given_up {
        assert_eq!(markers.verdict(*id, OWNER).await, Verdict::Rollback);
    }
    // A committed one among them goes, and of the others as many as are too many.
    transaction(markers.database(), born(9 * DAY), true).await.unwrap();
    let cleaned = markers.clean(now()).await.unwrap();
    let kept = file.count("SELECT count(*) FROM checkback_marker WHERE state = 2").await;
    assert_eq!((cleaned, kept), (3, 4));
    for id in &given_up[2..] {
        assert!(matches!(transaction(markers.database(), *id, true).await, Err(MarkError::Fenced)));
        assert_eq!(markers.verdict(*id, OWNER).await, Verdict::Rollback, "what was answered stands");
    }
    assert_eq!(file.orders().await, 1);
}

async fn weak_durability_is_refused<D: TestDatabase>(engine: Engine) {
    let (place, shape) = Scratch::weak(engine).await;
    let weak = place.open_as::<D>(shape).await;
    let opened = Markers::open(weak.clone(), OWNER.group, options()).await.map(drop);
    assert!(matches!(opened, Err(DatabaseError::NotDurable(_))), "{opened:?}");
    let mut tx = weak.begin().await.unwrap();
    let marked = Markers::<D>::mark(&mut tx, TransactionId::fresh(), OWNER).await;
    assert!(matches!(marked, Err(MarkError::Database(DatabaseError::NotDurable(_)))), "{marked:?}");
}

fn refused(error: CommitError) -> MarkError {
    match error {
        CommitError::Refused(error) => MarkError::Database(error),
        other => panic!("{other:?}"),
    }
}

/// What follows would be committed without what came before.
async fn a_transaction_that_something_has_ended_is_not_committed<D: TestDatabase>(engine: Engine) {
    let place = Scratch::with_orders(engine).await;
    let markers = markers::<D>(&place).await;
    let ends = [("ROLLBACK", Verdict::Rollback), ("COMMIT", Verdict::Commit), ("ROLLBACK; BEGIN", Verdict::Rollback)];
    for ((ended_by, expected), keep) in ends.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let id = born(Duration::from_secs(60));
        let mut tx = markers.database().begin().await.unwrap();
        Markers::<D>::mark(&mut tx, id, OWNER).await.unwrap();
        for statement in ended_by.split("; ") {
            D::run(D::handle(&mut tx), statement).await.unwrap();
        }
        let committed = match keep {
            true => D::commit_and_keep(tx).await.map(drop),
            false => D::commit_work(tx).await,
        };
        assert!(matches!(committed, Err(CommitError::Ended(_))), "{ended_by}, {keep}: {committed:?}");
        assert_eq!(settled(&markers, id).await, expected, "{ended_by}");
    }
}

async fn instances_may_start_at_once<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let database = file.open::<D>().await;
        starts.spawn(async move { Markers::open(database, OWNER.group, options()).await });
    }
    let started: Vec<_> = starts.join_all().await.into_iter().map(|started| started.unwrap()).collect();
    let names: HashSet<_> = started.iter().map(Markers::database_name).collect();
    assert_eq!(names.len(), 1, "all know the database by one name: {names:?}");
    if engine == Engine::Sqlite {
        assert_eq!(file.count("SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'wal'").await, 1);
    }
    assert_eq!(file.count("SELECT count(*) FROM checkback_cleaned").await, 1);
}

/// Many checkbacks at once, where the server is strict about snapshots: none of them loses to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_snapshots_make_no_answer_unknown() {
    let place = Scratch::strict().await;
    let markers = markers::<sqlx::MySqlPool>(&place).await;
    place.run("CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, note TEXT)").await;
    let (done, dead) = (born(Duration::from_secs(60)), born(Duration::from_secs(60)));
    transaction(markers.database(), done, true).await.unwrap();
    for _ in 0..20 {
        let asked = (0..6).map(|_| markers.verdict(done, OWNER));
        let answers = futures_util::future::join_all(asked).await;
        assert_eq!(answers, [Verdict::Commit; 6]);
    }
    assert_eq!(markers.verdict(dead, OWNER).await, Verdict::Rollback);
}

#[tokio::test]
async fn disconnected_sea_orm_is_refused() {
    let opened = Markers::open(DatabaseConnection::default(), OWNER.group, options()).await;
    assert!(matches!(opened, Err(DatabaseError::Unsupported(_))));
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    let memory = SqlitePool::open("sqlite::memory:", PoolShape { connections: 1, on_connect: None }).await;
    let opened = Markers::open(memory, OWNER.group, options()).await.map(drop);
    assert!(matches!(&opened, Err(DatabaseError::NotWal(mode)) if mode == "memory"), "{opened:?}");
}
