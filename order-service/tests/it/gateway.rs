//! The simulated gateway charges once and calls back until it is answered 200, also after a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use order_service::clock::Clock;
use order_service::database;
use order_service::gateway::{ChargeRequest, Gateway, GatewayClient, GatewayOptions, Totals};
use order_service::payments::Charged;
use order_service::signature::{NONCE_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Answers 503 to the first callbacks and 200 to the rest, and tells what it was sent.
#[derive(Clone)]
struct Merchant {
    refuse: Arc<AtomicUsize>,
    calls: UnboundedSender<(HeaderMap, Bytes)>,
}

impl Merchant {
    async fn start(refuse: usize) -> (String, UnboundedReceiver<(HeaderMap, Bytes)>) {
        let (calls, received) = unbounded_channel();
        let merchant = Merchant { refuse: Arc::new(AtomicUsize::new(refuse)), calls };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callback", listener.local_addr().unwrap());
        let router = Router::new().route("/callback", post(Merchant::called)).with_state(merchant);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, received)
    }

    async fn called(State(merchant): State<Merchant>, headers: HeaderMap, body: Bytes) -> StatusCode {
        merchant.calls.send((headers, body)).unwrap();
        let refuse = merchant.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refuse.is_ok() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}

struct Running {
    url: String,
    _stop: DropGuard,
    stopped: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn start_gateway(path: &std::path::Path) -> Running {
    let db = database::connect(&database::sqlite_url(path)).await.unwrap();
    let options = GatewayOptions { db, clock: Clock::system(), secret: Secret::new("shared") };
    let gateway = Gateway::open(options).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let stopped = tokio::spawn(gateway.run(listener, shutdown.clone()));
    Running { url, _stop: shutdown.drop_guard(), stopped }
}

fn request(callback_url: &str) -> ChargeRequest {
    ChargeRequest {
        pay_id: "pay-1".into(),
        order_id: "order-1".into(),
        amount_minor: 500,
        currency: "CNY".into(),
        callback_url: callback_url.into(),
    }
}

async fn totals(gateway: &Running) -> Totals {
    reqwest::get(format!("{}/charges", gateway.url)).await.unwrap().json().await.unwrap()
}

async fn until_answered(gateway: &Running) -> Totals {
    loop {
        let totals = totals(gateway).await;
        if totals.answered == totals.charges {
            return totals;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_merchant_is_called_until_it_answers_and_every_attempt_is_signed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start_gateway(&dir.path().join("gateway.db")).await;
    let (url, mut calls) = Merchant::start(2).await;
    GatewayClient::new(&gateway.url).charge(&request(&url)).await.unwrap();
    let mut nonces = Vec::new();
    for _ in 0..3 {
        let (headers, body) = calls.recv().await.unwrap();
        let text = |name| headers.get(name).unwrap().to_str().unwrap().to_owned();
        let nonce = text(NONCE_HEADER);
        assert!(Secret::new("shared").verify(&text(TIMESTAMP_HEADER), &nonce, &body, &text(SIGNATURE_HEADER)));
        let charged: Charged = serde_json::from_slice(&body).unwrap();
        assert_eq!((charged.order_id.as_str(), charged.amount_minor), ("order-1", 500));
        assert!(!nonces.contains(&nonce), "a nonce is used once");
        nonces.push(nonce);
    }
    assert_eq!(until_answered(&gateway).await, Totals { charges: 1, answered: 1, refunded: 0 });
    assert!(calls.try_recv().is_err(), "an answered merchant is left alone");
}

#[tokio::test]
async fn a_payment_is_charged_once_and_refunded_once() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start_gateway(&dir.path().join("gateway.db")).await;
    let (url, _calls) = Merchant::start(0).await;
    let client = GatewayClient::new(&gateway.url);
    client.charge(&request(&url)).await.unwrap();
    client.charge(&request(&url)).await.unwrap();
    let dearer = ChargeRequest { amount_minor: 501, ..request(&url) };
    assert!(client.charge(&dearer).await.unwrap_err().to_string().contains("charged_with_other_terms"));
    for amount_minor in [0, -1, i64::MAX] {
        let refused = client.charge(&ChargeRequest { amount_minor, ..request(&url) }).await.unwrap_err();
        assert!(refused.to_string().contains("invalid_amount"), "{amount_minor}: {refused}");
    }
    client.refund("pay-1").await.unwrap();
    client.refund("pay-1").await.unwrap();
    assert!(client.refund("pay-2").await.unwrap_err().to_string().contains("unknown_payment"));
    assert_eq!(until_answered(&gateway).await, Totals { charges: 1, answered: 1, refunded: 1 });
}

#[tokio::test]
async fn a_restarted_gateway_goes_on_calling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.db");
    let first = start_gateway(&path).await;
    let (url, mut calls) = Merchant::start(1).await;
    GatewayClient::new(&first.url).charge(&request(&url)).await.unwrap();
    calls.recv().await.unwrap();
    drop(first._stop);
    first.stopped.await.unwrap().unwrap();
    let second = start_gateway(&path).await;
    calls.recv().await.unwrap();
    assert_eq!(until_answered(&second).await, Totals { charges: 1, answered: 1, refunded: 0 });
}
