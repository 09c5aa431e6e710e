//! A reservation in Redis as the truth about a transaction: reserve and check are one script each, as docs/SDK.md shows
//! them, on a real redis-server.

use std::time::Duration;

use mq_testkit::{process::workspace, redis::RedisServer};
use redis::{Script, aio::ConnectionManager};
use txn_sdk::{Asked, Outcome, Own, TxnProducer, Verdict};

use crate::{broker::Broker, producer::message};

/// `KEYS: what is reserved, what is left. ARGV: transaction id.`
const RESERVE: &str = "
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return redis.call('HGET', KEYS[1], ARGV[1]) end
if tonumber(redis.call('GET', KEYS[2]) or '0') < 1 then return 'sold out' end
redis.call('DECR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], 'reserved')
return 'reserved'
";

/// The same keys. What is not reserved is fenced off in the same step.
const CHECK: &str = "
redis.call('HSETNX', KEYS[1], ARGV[1], 'fenced')
return redis.call('HGET', KEYS[1], ARGV[1])
";

const KEYS: [&str; 2] = ["reservations", "left"];

async fn call(redis: &ConnectionManager, script: &str, id: impl ToString) -> redis::RedisResult<String> {
    let script = Script::new(script);
    script.key(KEYS[0]).key(KEYS[1]).arg(id.to_string()).invoke_async(&mut redis.clone()).await
}

async fn answer(redis: ConnectionManager, asked: Asked) -> Verdict {
    match call(&redis, CHECK, asked.transaction_id).await.as_deref() {
        Ok("reserved") => Verdict::Commit,
        Ok("fenced") => Verdict::Rollback,
        Ok(_) | Err(_) => Verdict::Unknown,
    }
}

async fn seller(broker: &Broker, redis: &ConnectionManager) -> TxnProducer<Own> {
    let asked_of = redis.clone();
    let builder = TxnProducer::builder(broker.address()).group("flash-sale").topics(["ORDER_PAID"]);
    builder.verdicts(move |asked| answer(asked_of.clone(), asked)).build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_and_its_checkback_never_both_win() {
    let server = tokio::task::spawn_blocking(RedisServer::start).await.unwrap().unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::aio::ConnectionManagerConfig::new()
        .set_response_timeout(Some(Duration::from_secs(60)))
        .set_number_of_retries(1);
    let redis = ConnectionManager::new_with_config(client, config).await.unwrap();
    let () = redis::cmd("SET").arg(KEYS[1]).arg(60).query_async(&mut redis.clone()).await.unwrap();
    let broker = Broker::start().await;
    let txn = seller(&broker, &redis).await;
    txn.registered().await;

    let (mut reserved, mut fenced) = (0, 0);
    for index in 0..80 {
        let pending = txn.begin(message()).await.unwrap();
        let id = pending.id();
        // The broker asks while the reservation is on its way, now and then before it.
        if index % 4 == 0 {
            broker.check(index).await;
        }
        let (done, asked) = tokio::join!(call(&redis, RESERVE, id), broker.check(index));
        let expected = match done.unwrap().as_str() {
            "reserved" => {
                assert_eq!(pending.commit().await.outcome, Outcome::Committed);
                reserved += 1;
                Verdict::Commit
            }
            "fenced" => {
                let _in_doubt = pending.leave(); // the checkback has told the broker
                fenced += 1;
                Verdict::Rollback
            }
            said => panic!("{said}"),
        };
        assert_eq!((asked, broker.check(index).await), (expected, expected), "{index}");
    }
    assert!(reserved > 0 && fenced >= 20, "{reserved} reserved, {fenced} fenced");
    let left: i64 = redis::cmd("GET").arg(KEYS[1]).query_async(&mut redis.clone()).await.unwrap();
    assert_eq!((left + reserved, broker.published().len() as i64), (60, reserved));
    txn.shutdown().await;

    // Another instance answers for this one; while the store does not answer nobody is told anything.
    let other = seller(&broker, &redis).await;
    assert_eq!(broker.check(0).await, Verdict::Rollback, "it was asked before it reserved");
    drop(server);
    assert_eq!(broker.check(1).await, Verdict::Unknown);
    other.shutdown().await;
}

#[test]
fn the_page_shows_these_scripts() {
    let page = std::fs::read_to_string(workspace().join("docs/SDK.md")).unwrap();
    for script in [RESERVE, CHECK] {
        assert!(page.contains(script.trim()), "docs/SDK.md has no longer:\n{script}");
    }
}
