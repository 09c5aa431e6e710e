//! A whole flash sale in this process: cluster, order-service and the sale on a real Redis, driven over HTTP.

use std::num::NonZeroU32;
use std::time::Duration;

use mq_testkit::cluster::{Cluster, ClusterOptions};
use mq_testkit::redis::RedisServer;
use order_service::clock::Clock;
use order_service::database;
use order_service::events::{self, Purchase};
use order_service::purchases::{DelayLevel, Pace};
use order_service::sales::Figures;
use order_service::service::{Checks, OrderService, ServiceOptions};
use order_service::signature::Secret;
use reqwest::{Client, Response};
use seckill_demo::gate::{Gate, Status};
use seckill_demo::purchases::GROUP;
use seckill_demo::serve::{FlashSale, SaleOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use txn_sdk::{TxnProducer, Verdict};

const ADMIN: &str = "admin";
/// Of the cluster's fast delays: 1 s and 7 s.
const SOON: u8 = 1;
const LATE: u8 = 18;

struct Shop {
    cluster: Cluster,
    redis: RedisServer,
    http: Client,
    url: String,
    _stop: DropGuard,
    _dir: TempDir,
}

impl Shop {
    /// Unpaid orders are closed after this delay level.
    async fn open(close_after: u8) -> Shop {
        let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
        let redis = RedisServer::start().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let (listener, order_service_url) = listen().await;
        let options = ServiceOptions {
            db: database::connect(&database::sqlite_url(&dir.path().join("orders.db"))).await.unwrap(),
            clock: Clock::system(),
            name_servers: cluster.name_servers(),
            gateway_url: "http://127.0.0.1:9".into(),
            secret: Secret::new("unused"),
            callback_url: "http://127.0.0.1:9".into(),
            admin_token: Some(ADMIN.into()),
            pace: Pace {
                orders_per_second: NonZeroU32::new(1000).unwrap(),
                close_after: DelayLevel::new(close_after).unwrap(),
            },
            checks: Checks { every: Duration::from_millis(200), deadline: Duration::from_millis(2500) },
        };
        tokio::spawn(OrderService::open(options).await.unwrap().run(listener, shutdown.clone()));
        let (listener, url) = listen().await;
        let options = SaleOptions {
            redis_url: redis.url(),
            name_servers: cluster.name_servers(),
            order_service_url,
            admin_token: ADMIN.into(),
        };
        tokio::spawn(FlashSale::open(options).await.unwrap().run(listener, shutdown.clone()));
        let shop = Shop { cluster, redis, http: Client::new(), url, _stop: shutdown.drop_guard(), _dir: dir };
        shop.until("the sale is ready", async || shop.get("ann", "readyz").await.status().is_success()).await;
        shop
    }

    /// Creates sale s1 and opens it.
    async fn sell(&self, pieces: i64) {
        let new = json!({ "id": "s1", "item": "phone", "unit_price_minor": 99_900, "pieces": pieces });
        assert!(self.post("op", "sales", &new).await.status().is_success());
        assert_eq!(self.warm_up().await.0, 200);
    }

    async fn warm_up(&self) -> (u16, Value) {
        answer(self.post("op", "sales/s1/warm-up", &json!({})).await).await
    }

    async fn buy(&self, user: &str) -> (u16, Value) {
        answer(self.post(user, "sales/s1/purchases", &json!({})).await).await
    }

    async fn progress(&self, user: &str, id: &str) -> (u16, Value) {
        answer(self.get(user, &format!("sales/s1/purchases/{id}")).await).await
    }

    /// The gate's figures and the database's; each sums up to the initial stock at any time.
    async fn figures(&self) -> (Option<Status>, Figures) {
        let (_, overview) = answer(self.get("op", "sales/s1").await).await;
        let gate: Option<Status> = serde_json::from_value(overview["gate"].clone()).unwrap();
        let database: Figures = serde_json::from_value(overview["database"].clone()).unwrap();
        assert!(gate.is_none_or(|it| it.sold + it.reserved + it.left == it.initial), "{gate:?}");
        assert_eq!(database.sold + database.reserved + database.left, database.initial, "{database:?}");
        (gate, database)
    }

    /// Gate and database say the same.
    async fn settles_at(&self, sold: i64, reserved: i64, left: i64) {
        self.until(&format!("both settle at {sold} + {reserved} + {left}"), async || {
            let (gate, database) = self.figures().await;
            let gate = gate.map(|it| (it.sold, it.reserved, it.left));
            gate == Some((sold, reserved, left))
                && (database.sold, database.reserved, database.left) == (sold, reserved, left)
        })
        .await;
    }

    async fn post(&self, user: &str, path: &str, body: &Value) -> Response {
        let request = self.http.post(format!("{}/{path}", self.url)).header("x-user", user);
        request.header("x-admin-token", ADMIN).json(body).send().await.unwrap()
    }

    async fn get(&self, user: &str, path: &str) -> Response {
        self.http.get(format!("{}/{path}", self.url)).header("x-user", user).send().await.unwrap()
    }

    /// Waits for what must come true in the end.
    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}: {:?}", self.figures().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn answer(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_gets_exactly_the_stock_one_piece_each_and_unpaid_pieces_come_back() {
    let shop = std::sync::Arc::new(Shop::open(LATE).await);
    shop.sell(10).await;
    let mut buyers = JoinSet::new();
    for buyer in 0..200 {
        let shop = shop.clone();
        // Everybody clicks twice.
        let user = format!("u{}", buyer / 2);
        buyers.spawn(async move { (shop.buy(&user).await, user) });
    }
    let mut bought = Vec::new();
    for ((status, reply), user) in buyers.join_all().await {
        match status {
            202 => bought.push((user, reply["purchase_id"].as_str().unwrap().to_owned())),
            _ => assert!(matches!(reply["error"].as_str(), Some("sold_out" | "limited")), "{status} {reply}"),
        }
    }
    assert_eq!(bought.len(), 10);
    shop.settles_at(0, 10, 0).await;
    assert_eq!(shop.figures().await.1.orders, 10);
    for (user, id) in &bought {
        let (status, progress) = shop.progress(user, id).await;
        assert_eq!((status, &progress["order_id"]), (200, &json!(id)), "{progress}");
    }
    let (user, id) = &bought[0];
    assert_eq!(shop.progress("stranger", id).await.0, 403, "{user}'s purchase");
    assert_eq!(shop.warm_up().await.1["error"], "already_open");
    shop.settles_at(0, 0, 10).await;
    assert_eq!(shop.progress(user, id).await.1["order_state"], "closed");
    assert_eq!(shop.buy(user).await.1["error"], "limited", "one chance per sale");
    assert_eq!(shop.buy("late").await.0, 202, "what came back is sold again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_whose_process_died_is_settled_by_the_checkback() {
    let shop = Shop::open(LATE).await;
    shop.sell(5).await;
    let gate = Gate::connect(&shop.redis.url()).unwrap();
    let dying = TxnProducer::builder(shop.cluster.name_servers())
        .group(GROUP)
        .topics([events::SALE_PURCHASE])
        .verdicts(|_| async { Verdict::Unknown })
        .build()
        .await
        .unwrap();
    let epoch = gate.peek("s1", "ann", 1).await.unwrap().unwrap();
    // Both stored their half message; only ann came as far as the reservation.
    for (user, reserves) in [("ann", true), ("bob", false)] {
        let purchase = Purchase {
            purchase_id: format!("p-{user}"),
            sale_id: "s1".into(),
            user_id: user.into(),
            quantity: 1,
            epoch,
        };
        let message = events::message(events::SALE_PURCHASE, &purchase.purchase_id, &purchase);
        let pending = dying.begin(message).await.unwrap();
        if reserves {
            gate.reserve(&purchase).await.unwrap().unwrap();
        }
        let _dead = pending.leave();
    }
    dying.shutdown().await;
    drop(dying);
    shop.until("ann has her order", async || shop.progress("ann", "p-ann").await.1["state"] == "ordered").await;
    shop.until("bob's is given up", async || shop.progress("bob", "p-bob").await.1["reason"] == "given_up").await;
    shop.settles_at(0, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_shuts_the_sale_until_it_is_rebuilt_from_the_database() {
    let mut shop = Shop::open(LATE).await;
    shop.sell(5).await;
    let bought = shop.buy("ann").await.1["purchase_id"].as_str().unwrap().to_owned();
    shop.settles_at(0, 1, 4).await;
    shop.redis.lose().unwrap();
    shop.until("the sale is shut, not broken", async || shop.buy("bob").await.1["error"] == "closed").await;
    assert!(shop.figures().await.0.is_none());
    shop.until("the queue is drained and the gate rebuilt", async || shop.warm_up().await.0 == 200).await;
    shop.settles_at(0, 1, 4).await;
    assert_eq!(shop.buy("ann").await.1["error"], "limited", "the gate knows her from the database");
    assert_eq!(shop.buy("bob").await.0, 202);
    shop.settles_at(0, 2, 3).await;
    assert_eq!(shop.progress("ann", &bought).await.1["order_state"], "placed");
    // The pieces of an order that the lost gate reserved come back through the new one.
    shop.settles_at(0, 0, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_nothing_is_reserved() {
    let mut shop = Shop::open(SOON).await;
    shop.sell(5).await;
    shop.cluster.stop_broker().await.unwrap();
    let (status, reply) = shop.buy("ann").await;
    assert_eq!((status, &reply["error"]), (503, &json!("queue_unavailable")));
    let gate = shop.figures().await.0.unwrap();
    assert_eq!((gate.reserved, gate.left), (0, 5));
    shop.cluster.restart().await.unwrap();
    shop.until("she can buy again", async || shop.buy("ann").await.0 == 202).await;
    shop.until("her order came", async || shop.figures().await.1.orders == 1).await;
    shop.settles_at(0, 0, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_interface_names_every_refusal() {
    let shop = Shop::open(LATE).await;
    assert_eq!(shop.buy("ann").await.1["error"], "closed", "no such sale");
    shop.sell(5).await;
    let post = async |token: &str, user: &str, path: &str, body: &str| -> (u16, String) {
        let request = shop.http.post(format!("{}/{path}", shop.url)).body(body.to_owned());
        let (status, reply) =
            answer(request.header("x-user", user).header("x-admin-token", token).send().await.unwrap()).await;
        (status, reply["error"].as_str().unwrap_or("-").to_owned())
    };
    let sale = r#"{"id":"s1","item":"phone","unit_price_minor":99900,"pieces":5}"#;
    let other = r#"{"id":"s1","item":"phone","unit_price_minor":99900,"pieces":6}"#;
    let cheap = r#"{"id":"s2","item":"phone","unit_price_minor":0,"pieces":6}"#;
    let cases = [
        ("", "op", "sales", sale, 403, "not_admin"),
        ("guessed", "op", "sales/s1/warm-up", "", 403, "not_admin"),
        (ADMIN, "op", "sales", sale, 200, "-"),
        (ADMIN, "op", "sales", other, 409, "sale_exists"),
        (ADMIN, "op", "sales", cheap, 422, "invalid_amount"),
        (ADMIN, "op", "sales/s9/warm-up", "", 404, "unknown_sale"),
        ("", "", "sales/s1/purchases", "{}", 401, "no_user"),
        ("", "ann", "sales/s1/purchases", r#"{"quantity":0}"#, 409, "limited"),
        ("", "ann", "sales/s1/purchases", r#"{"quantity":-1}"#, 409, "limited"),
        ("", "ann", "sales/s1/purchases", r#"{"quantity":2}"#, 409, "limited"),
        ("", "ann", "sales/s1/purchases", r#"{"pieces":1}"#, 400, "invalid_body"),
        (ADMIN, "op", "sales/s1/stop", "", 200, "-"),
        ("", "ann", "sales/s1/purchases", "{}", 409, "closed"),
    ];
    for (token, user, path, body, status, name) in cases {
        assert_eq!(post(token, user, path, body).await, (status, name.to_owned()), "{token} {user} {path} {body}");
    }
}
