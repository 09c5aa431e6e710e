//! The gate's scripts against a real Redis: who gets in, what a checkback hears, what comes back.

use mq_client::Verdict;
use mq_testkit::redis::RedisServer;
use order_service::events::Purchase;
use order_service::sales::{GatePlan, Taken};
use order_service::tables::{OrderState, sale};
use seckill_demo::gate::{BuildError, End, Gate, Remembered, Settled, Status, Turned};
use tokio::task::JoinSet;

fn plan(epoch: i64, initial: i64, per_user: i64, orders: Vec<Taken>) -> GatePlan {
    let taken: i64 = orders.iter().filter(|it| it.state != OrderState::Closed).map(|it| it.quantity).sum();
    GatePlan {
        sale: sale::Model {
            id: "s1".into(),
            item: "phone".into(),
            unit_price_minor: 1,
            currency: "CNY".into(),
            per_user,
            initial_pieces: initial,
            left_pieces: initial - taken,
            epoch,
            created_ms: 0,
        },
        orders,
    }
}

fn purchase(id: &str, user: &str, quantity: i64, epoch: i64) -> Purchase {
    Purchase { purchase_id: id.into(), sale_id: "s1".into(), user_id: user.into(), quantity, epoch }
}

async fn reserve(gate: &Gate, id: &str, user: &str, quantity: i64) -> Result<(), Turned> {
    gate.reserve(&purchase(id, user, quantity, 1)).await.unwrap()
}

async fn check(gate: &Gate, id: &str) -> Verdict {
    gate.check(&purchase(id, "anyone", 1, 1)).await.unwrap()
}

/// Sold, reserved, left.
async fn counts(gate: &Gate) -> (i64, i64, i64) {
    let status = gate.status("s1").await.unwrap().unwrap();
    assert_eq!(status.sold + status.reserved + status.left, status.initial, "{status:?}");
    (status.sold, status.reserved, status.left)
}

/// One command past the gate.
async fn redis<T: redis::FromRedisValue>(server: &RedisServer, command: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
}

#[tokio::test]
async fn a_reservation_is_made_once_per_id_and_user_and_never_beyond_the_stock() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    assert_eq!(reserve(&gate, "p0", "ann", 1).await, Err(Turned::Closed), "not warmed up");
    gate.build(&plan(1, 5, 2, vec![])).await.unwrap();
    let before = |id: &str| Err(Turned::Limited { before: Some(id.into()) });
    let cases = [
        ("p1", "ann", 2, Ok(())),
        ("p1", "ann", 2, Ok(())),
        ("p2", "ann", 1, before("p1")),
        ("p3", "bob", 3, Err(Turned::Limited { before: None })),
        ("p3", "bob", 0, Err(Turned::Limited { before: None })),
        ("p3", "bob", -1, Err(Turned::Limited { before: None })),
        ("p4", "bob", 2, Ok(())),
        ("p5", "cat", 2, Err(Turned::SoldOut)),
        ("p6", "cat", 1, Ok(())),
        ("p7", "dan", 1, Err(Turned::SoldOut)),
    ];
    for (id, user, quantity, expect) in cases {
        assert_eq!(reserve(&gate, id, user, quantity).await, expect, "{id} {user} {quantity}");
        counts(&gate).await;
    }
    assert_eq!(counts(&gate).await, (0, 5, 0));
    gate.stop("s1").await.unwrap();
    assert_eq!(reserve(&gate, "p1", "ann", 2).await, Ok(()), "a repeat is still a repeat");
    assert_eq!(reserve(&gate, "p8", "eve", 1).await, Err(Turned::Closed));
}

#[tokio::test]
async fn a_look_at_the_gate_says_what_a_reservation_would_and_changes_nothing() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(4, 2, 2, vec![])).await.unwrap();
    gate.reserve(&purchase("p1", "ann", 1, 4)).await.unwrap().unwrap();
    let cases = [
        ("bob", 1, Ok(4)),
        ("bob", 2, Err(Turned::SoldOut)),
        ("bob", 3, Err(Turned::Limited { before: None })),
        ("bob", 0, Err(Turned::Limited { before: None })),
        ("ann", 1, Err(Turned::Limited { before: Some("p1".into()) })),
    ];
    for (user, quantity, expect) in cases {
        assert_eq!(gate.peek("s1", user, quantity).await.unwrap(), expect, "{user} {quantity}");
    }
    assert_eq!(counts(&gate).await, (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_buyers_race_for_the_last_pieces() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 7, 1, vec![])).await.unwrap();
    let mut buyers = JoinSet::new();
    for buyer in 0..100 {
        let gate = gate.clone();
        buyers.spawn(async move { reserve(&gate, &format!("p{buyer}"), &format!("u{buyer}"), 1).await });
    }
    let outcomes = buyers.join_all().await;
    assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 7);
    assert_eq!(outcomes.iter().filter(|it| **it == Err(Turned::SoldOut)).count(), 93);
    assert_eq!(counts(&gate).await, (0, 7, 0));
}

#[tokio::test]
async fn a_checkback_commits_what_is_reserved_and_fences_what_is_not() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 5, 1, vec![])).await.unwrap();
    reserve(&gate, "p1", "ann", 1).await.unwrap();
    assert_eq!(check(&gate, "p1").await, Verdict::Commit);
    assert_eq!(check(&gate, "late").await, Verdict::Rollback);
    assert_eq!(reserve(&gate, "late", "bob", 1).await, Err(Turned::Fenced), "what was given up stays so");
    assert_eq!(gate.purchase("s1", "late").await.unwrap(), Some(Remembered::Fenced));
    assert_eq!(counts(&gate).await, (0, 1, 4));
    for (end, settled) in [(End::Sold, Settled::Now), (End::Released, Settled::Before)] {
        assert_eq!(gate.settle("s1", "p1", end).await.unwrap(), settled);
        assert_eq!(check(&gate, "p1").await, Verdict::Commit, "the verdict stays");
    }
}

#[tokio::test]
async fn pieces_come_back_once() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 5, 2, vec![])).await.unwrap();
    reserve(&gate, "p1", "ann", 2).await.unwrap();
    reserve(&gate, "p2", "bob", 1).await.unwrap();
    let cases = [
        ("p1", End::Released, Settled::Now, (0, 1, 4)),
        ("p1", End::Released, Settled::Before, (0, 1, 4)),
        ("p1", End::Sold, Settled::Before, (0, 1, 4)),
        ("p2", End::Sold, Settled::Now, (1, 0, 4)),
        ("p2", End::Sold, Settled::Before, (1, 0, 4)),
        ("p2", End::Released, Settled::Before, (1, 0, 4)),
        ("p3", End::Released, Settled::Unknown, (1, 0, 4)),
    ];
    for (id, end, settled, expect) in cases {
        assert_eq!(gate.settle("s1", id, end).await.unwrap(), settled, "{id} {end:?}");
        assert_eq!(counts(&gate).await, expect, "{id} {end:?}");
    }
    assert!(matches!(reserve(&gate, "p4", "ann", 1).await, Err(Turned::Limited { .. })), "one chance per sale");
}

#[tokio::test]
async fn a_restarted_redis_shuts_the_gate_until_it_is_built_anew() {
    let mut server = RedisServer::start().unwrap();
    let first = Gate::connect(&server.url()).unwrap();
    first.build(&plan(1, 5, 1, vec![])).await.unwrap();
    reserve(&first, "p1", "ann", 1).await.unwrap();
    redis::<()>(&server, &["SAVE"]).await.unwrap();
    server.lose().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    let kept = gate.status("s1").await.unwrap().unwrap();
    assert!(!kept.open && kept.reserved == 1, "the data survived, the trust did not: {kept:?}");
    assert_eq!(reserve(&gate, "p2", "bob", 1).await, Err(Turned::Closed));
    assert_eq!(gate.peek("s1", "bob", 1).await.unwrap(), Err(Turned::Closed));
    assert_eq!(gate.settle("s1", "p1", End::Released).await.unwrap(), Settled::NoGate);
    assert_eq!(check(&gate, "p1").await, Verdict::Commit, "order-service refuses it, if need be");

    let taken = |id: &str, user: &str, state| Taken { order_id: id.into(), user_id: user.into(), quantity: 1, state };
    let orders = vec![
        taken("p1", "ann", OrderState::Placed),
        taken("p8", "cat", OrderState::Paid),
        taken("p9", "dan", OrderState::Closed),
    ];
    gate.build(&plan(2, 5, 1, orders)).await.unwrap();
    assert_eq!(counts(&gate).await, (1, 1, 3));
    assert_eq!(reserve(&gate, "late", "eve", 1).await, Err(Turned::Closed), "it was let in by the old gate");
    assert_eq!(check(&gate, "late").await, Verdict::Rollback);
    let before = Turned::Limited { before: Some("p9".into()) };
    assert_eq!(gate.reserve(&purchase("p10", "dan", 1, 2)).await.unwrap(), Err(before));
    assert_eq!(gate.settle("s1", "p1", End::Released).await.unwrap(), Settled::Now);
    assert_eq!(counts(&gate).await, (1, 0, 4));
}

#[tokio::test]
async fn a_gate_is_built_by_the_newest_plan_only_and_nothing_is_settled_meanwhile() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 5, 1, vec![])).await.unwrap();
    reserve(&gate, "p1", "ann", 1).await.unwrap();
    gate.dismantle("s1").await.unwrap();
    assert_eq!(gate.settle("s1", "p1", End::Released).await.unwrap(), Settled::NoGate);
    assert_eq!(reserve(&gate, "p2", "bob", 1).await, Err(Turned::Closed));
    gate.build(&plan(3, 5, 1, vec![])).await.unwrap();
    for old in [1, 2, 3] {
        assert!(matches!(gate.build(&plan(old, 9, 9, vec![])).await, Err(BuildError::Superseded)), "epoch {old}");
    }
    let expect = Status { open: true, epoch: 3, initial: 5, left: 5, reserved: 0, sold: 0 };
    assert_eq!(gate.status("s1").await.unwrap(), Some(expect));
}

#[tokio::test]
async fn a_redis_that_may_evict_gets_no_gate() {
    let server = RedisServer::start().unwrap();
    redis::<()>(&server, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    assert!(matches!(gate.build(&plan(1, 5, 1, vec![])).await, Err(BuildError::Evicts)));
    assert_eq!(reserve(&gate, "p1", "ann", 1).await, Err(Turned::Closed));
}

#[tokio::test]
async fn reservations_never_expire() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 5, 1, vec![])).await.unwrap();
    reserve(&gate, "p1", "ann", 1).await.unwrap();
    check(&gate, "p2").await;
    let keys: Vec<String> = redis(&server, &["KEYS", "*"]).await.unwrap();
    assert_eq!(keys.len(), 3, "{keys:?}");
    for key in keys {
        assert_eq!(redis::<i64>(&server, &["TTL", &key]).await.unwrap(), -1, "{key}");
    }
}

#[tokio::test]
async fn without_redis_nobody_gets_in() {
    let server = RedisServer::start().unwrap();
    let gate = Gate::connect(&server.url()).unwrap();
    gate.build(&plan(1, 5, 1, vec![])).await.unwrap();
    drop(server);
    assert!(gate.peek("s1", "ann", 1).await.is_err());
    assert!(gate.reserve(&purchase("p1", "ann", 1, 1)).await.is_err());
    assert!(gate.check(&purchase("p1", "ann", 1, 1)).await.is_err());
    assert!(!gate.is_reachable().await);
}
