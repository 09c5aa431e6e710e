//! Transactions for operators as a JSON API, on the metrics port: the bodies of the requests 7001 to 7005, by path.
//!
//! There is no authentication, so what changes something is answered only to this machine, and never to a web page that
//! a browser here has open: such a page can neither send JSON unasked nor choose the name by which it calls us.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mq_broker::{Broker, Refused};
use mq_protocol::body::{self, TxnDeed, TxnName, TxnQuery};
use mq_protocol::codes::{request, response};
use serde::Serialize;

/// A deed takes a few hundred.
const MAX_BODY_BYTES: usize = 16 << 10;

pub(crate) fn routes(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/api/txn", get(list))
        .route("/api/txn/{half}", get(show))
        .route("/api/txn/check", post(check))
        .route("/api/txn/resolve", post(resolve))
        .route("/api/txn/resume", post(resume))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(broker)
}

type Peer = Extension<SocketAddr>;

async fn list(State(broker): State<Arc<Broker>>, peer: Peer, Query(query): Query<TxnQuery>) -> Response {
    answer(broker, request::TXN_LIST, &query, peer.0).await
}

async fn show(State(broker): State<Arc<Broker>>, peer: Peer, Path(half): Path<u64>) -> Response {
    answer(broker, request::TXN_SHOW, &TxnName { half: Some(half), ..TxnName::default() }, peer.0).await
}

async fn check(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Json<TxnDeed>) -> Response {
    change(broker.0, request::TXN_CHECK, peer.0, &headers, &deed).await
}

async fn resolve(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Json<TxnDeed>) -> Response {
    change(broker.0, request::TXN_RESOLVE, peer.0, &headers, &deed).await
}

async fn resume(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Json<TxnDeed>) -> Response {
    change(broker.0, request::TXN_RESUME, peer.0, &headers, &deed).await
}

async fn change(broker: Arc<Broker>, code: i32, peer: SocketAddr, headers: &HeaderMap, deed: &TxnDeed) -> Response {
    if !peer.ip().is_loopback() || !is_local(headers) {
        let reason = "transactions are settled from the broker's own machine only, by its loopback address";
        return refused(StatusCode::FORBIDDEN, reason);
    }
    answer(broker, code, deed, peer).await
}

/// Whether the caller means this machine by name. A page of elsewhere that made its own name point here does not.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].contains(&name)
}

async fn answer(broker: Arc<Broker>, code: i32, question: &impl Serialize, peer: SocketAddr) -> Response {
    let question = body::to_json(question);
    // It reads the disk, and may wait for it.
    let done = tokio::task::spawn_blocking(move || broker.operate(code, &question, peer)).await;
    match done {
        Ok(Ok(body)) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Ok(Err(Refused { code, reason })) => refused(status(code), &reason),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the broker failed at this request, see its log"),
    }
}

fn status(code: i32) -> StatusCode {
    match code {
        response::QUERY_NOT_FOUND => StatusCode::NOT_FOUND,
        response::INVALID_PARAMETER => StatusCode::BAD_REQUEST,
        response::ILLEGAL_OPERATION => StatusCode::CONFLICT,
        response::SYSTEM_BUSY | response::SERVICE_NOT_AVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(status: StatusCode, reason: &str) -> Response {
    (status, Json(serde_json::json!({ "error": reason }))).into_response()
}
