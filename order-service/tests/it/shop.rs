//! A whole shop in this process: cluster, order-service and red packets, with a gateway that only takes notes. The test
//! plays the gateway's callbacks itself.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use mq_testkit::cluster::{Cluster, ClusterOptions};
use order_service::clock::Clock;
use order_service::database;
use order_service::gateway::ChargeRequest;
use order_service::payments::Charged;
use order_service::purchases::{DelayLevel, Pace};
use order_service::red_packets::{Count, RedPacketOptions, RedPackets};
use order_service::service::{Checks, OrderService, ServiceOptions};
use order_service::signature::{NONCE_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};
use order_service::tables::{OrderState, order};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(crate) const ADMIN: &str = "admin";

pub(crate) struct Shop {
    pub(crate) cluster: Cluster,
    pub(crate) gateway: NotingGateway,
    pub(crate) http: Client,
    orders_url: String,
    packets_url: String,
    _stop: DropGuard,
    _dir: TempDir,
}

/// What the service asked the gateway for.
#[derive(Clone, Default)]
pub(crate) struct NotingGateway {
    charges: Arc<Mutex<Vec<ChargeRequest>>>,
    refunds: Arc<Mutex<Vec<String>>>,
}

impl NotingGateway {
    pub(crate) fn refunds(&self) -> Vec<String> {
        self.refunds.lock().unwrap().clone()
    }

    fn router(self) -> Router {
        Router::new().route("/charge", post(Self::charge)).route("/refund", post(Self::refund)).with_state(self)
    }

    async fn charge(State(gateway): State<Self>, Json(request): Json<ChargeRequest>) {
        gateway.charges.lock().unwrap().push(request);
    }

    async fn refund(State(gateway): State<Self>, Json(refund): Json<Value>) {
        gateway.refunds.lock().unwrap().push(refund["pay_id"].as_str().unwrap().to_owned());
    }
}

impl Shop {
    pub(crate) async fn open() -> Shop {
        let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let gateway = NotingGateway::default();
        let (gateway_listener, gateway_url) = listen().await;
        let notes = gateway.clone().router();
        tokio::spawn(async move { axum::serve(gateway_listener, notes).await });

        let (listener, orders_url) = listen().await;
        let options = ServiceOptions {
            db: database::connect(&database::sqlite_url(&dir.path().join("orders.db"))).await.unwrap(),
            clock: Clock::system(),
            name_servers: cluster.name_servers(),
            gateway_url,
            secret: Secret::new("shared"),
            callback_url: format!("{orders_url}/gateway/callback"),
            admin_token: Some(ADMIN.into()),
            pace: Pace { orders_per_second: NonZeroU32::new(1000).unwrap(), close_after: DelayLevel::new(3).unwrap() },
            checks: Checks { every: Duration::from_millis(200), deadline: Duration::from_millis(2500) },
        };
        tokio::spawn(OrderService::open(options).await.unwrap().run(listener, shutdown.clone()));

        let (listener, packets_url) = listen().await;
        let db = database::connect(&database::sqlite_url(&dir.path().join("packets.db"))).await.unwrap();
        let options = RedPacketOptions { db, clock: Clock::system(), name_servers: cluster.name_servers() };
        tokio::spawn(RedPackets::open(options).await.unwrap().run(listener, shutdown.clone()));

        let http = Client::new();
        let shop = Shop { cluster, gateway, http, orders_url, packets_url, _stop: shutdown.drop_guard(), _dir: dir };
        shop.until("order-service is ready", async || shop.get("ann", "readyz").await.status().is_success()).await;
        shop
    }

    pub(crate) fn url(&self) -> &str {
        &self.orders_url
    }

    /// Places an order of 1,000 and starts its payment; what the gateway would call back with.
    pub(crate) async fn order_to_pay(&self, user: &str) -> Charged {
        let placed = self.place(user, &Uuid::now_v7().to_string()).await;
        let paying: Value =
            self.post(user, &format!("orders/{}/pay", placed.id), &json!({})).await.json().await.unwrap();
        Charged {
            charge_id: format!("charge-{}", placed.id),
            pay_id: paying["pay_id"].as_str().unwrap().to_owned(),
            order_id: placed.id,
            amount_minor: 1000,
            currency: "CNY".into(),
        }
    }

    pub(crate) async fn place(&self, user: &str, key: &str) -> order::Model {
        let request = self.http.post(format!("{}/orders", self.orders_url)).header("x-user", user);
        let order = json!({ "item": "book", "unit_price_minor": 1000 });
        request.header("idempotency-key", key).json(&order).send().await.unwrap().json().await.unwrap()
    }

    pub(crate) async fn post(&self, user: &str, path: &str, body: &Value) -> Response {
        let request = self.http.post(format!("{}/{path}", self.orders_url)).header("x-user", user);
        request.header("x-admin-token", ADMIN).json(body).send().await.unwrap()
    }

    pub(crate) async fn get(&self, user: &str, path: &str) -> Response {
        let request = self.http.get(format!("{}/{path}", self.orders_url)).header("x-user", user);
        request.header("x-admin-token", ADMIN).send().await.unwrap()
    }

    pub(crate) async fn state(&self, user: &str, order_id: &str) -> OrderState {
        let order: order::Model = self.get(user, &format!("orders/{order_id}")).await.json().await.unwrap();
        order.state
    }

    /// An authentic callback, as the gateway makes them.
    pub(crate) async fn callback(&self, charged: &Charged) -> (u16, String) {
        let stamp = Stamp { secret: "shared", age_s: 0, nonce: &Uuid::now_v7().to_string() };
        self.callback_with(charged, stamp).await
    }

    /// The status and the `result` or `error` of the reply.
    pub(crate) async fn callback_with(&self, charged: &Charged, stamp: Stamp<'_>) -> (u16, String) {
        let body = serde_json::to_vec(charged).unwrap();
        let timestamp = (Clock::system().now_ms() / 1000 - stamp.age_s).to_string();
        let signature = Secret::new(stamp.secret).sign(&timestamp, stamp.nonce, &body);
        let request = self.http.post(format!("{}/gateway/callback", self.orders_url));
        let request = request.header(TIMESTAMP_HEADER, timestamp).header(NONCE_HEADER, stamp.nonce);
        let response = request.header(SIGNATURE_HEADER, signature).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        let reply: Value = response.json().await.unwrap();
        (status, reply["result"].as_str().or(reply["error"].as_str()).unwrap().to_owned())
    }

    pub(crate) async fn packets(&self) -> u64 {
        let count: Count = reqwest::get(format!("{}/packets", self.packets_url)).await.unwrap().json().await.unwrap();
        count.packets
    }

    /// Waits for what must come true in the end.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How a callback is signed.
#[derive(Clone, Copy)]
pub(crate) struct Stamp<'s> {
    pub(crate) secret: &'s str,
    pub(crate) age_s: i64,
    pub(crate) nonce: &'s str,
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}
