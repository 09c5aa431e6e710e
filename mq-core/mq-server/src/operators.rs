//! Transactions for operators as a JSON API, on the metrics port: the bodies of the requests 7001 to 7005 and 7007, by path.
//!
//! There is no authentication, so what changes something is answered only to this machine, and never to a web page that
//! a browser here has open: such a page can neither send JSON unasked nor choose the name by which it calls us.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use mq_broker::{Broker, Refused};
use mq_protocol::body::{self, TxnDeed, TxnName, TxnQuery, TxnResumeAll};
use mq_protocol::codes::{request, response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A deed takes a few hundred.
const MAX_BODY_BYTES: usize = 16 << 10;
/// Of [`TxnQuery`], and of [`TxnDeed`].
const QUESTION_FIELDS: [&str; 5] = ["parked", "from", "limit", "group", "topic"];
const DEED_FIELDS: [&str; 5] = ["half", "confirm", "verdict", "by", "parked"];
/// Of [`TxnResumeAll`].
const MANY_FIELDS: [&str; 6] = ["confirm", "by", "from", "limit", "group", "topic"];

pub(crate) fn routes(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/api/txn", get(list))
        .route("/api/txn/{half}", get(show))
        .route("/api/txn/check", post(check))
        .route("/api/txn/resolve", post(resolve))
        .route("/api/txn/resume", post(resume))
        .route("/api/txn/resume-all", post(resume_all))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(broker)
}

type Peer = Extension<SocketAddr>;
/// What is wrong with a question, in the API's own shape.
type Slip = (StatusCode, String);

async fn list(State(broker): State<Arc<Broker>>, peer: Peer, uri: Uri) -> Response {
    match question(&uri) {
        Ok(query) => answer(broker, request::TXN_LIST, &query, peer.0).await,
        Err((status, reason)) => refused(status, &reason),
    }
}

/// `7` is a half, `p7` the copy of one that was given up.
async fn show(State(broker): State<Arc<Broker>>, peer: Peer, Path(number): Path<String>) -> Response {
    let name = match number.strip_prefix('p') {
        Some(copy) => copy.parse().map(|copy| TxnName { parked: Some(copy), ..TxnName::default() }),
        None => number.parse().map(|half| TxnName { half: Some(half), ..TxnName::default() }),
    };
    match name {
        Ok(name) => answer(broker, request::TXN_SHOW, &name, peer.0).await,
        Err(_) => {
            refused(StatusCode::BAD_REQUEST, &format!("{number:?} is no number of a half, nor of a parked one (p7)"))
        }
    }
}

async fn check(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Bytes) -> Response {
    change(broker.0, request::TXN_CHECK, peer.0, &headers, one(&headers, &deed)).await
}

async fn resolve(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Bytes) -> Response {
    change(broker.0, request::TXN_RESOLVE, peer.0, &headers, one(&headers, &deed)).await
}

async fn resume(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Bytes) -> Response {
    change(broker.0, request::TXN_RESUME, peer.0, &headers, one(&headers, &deed)).await
}

async fn resume_all(broker: State<Arc<Broker>>, peer: Peer, headers: HeaderMap, deed: Bytes) -> Response {
    let deed = fields(&headers, &deed, &MANY_FIELDS).map(with_its_number).and_then(read::<TxnResumeAll>);
    change(broker.0, request::TXN_RESUME_ALL, peer.0, &headers, deed).await
}

async fn change<T: Serialize>(
    broker: Arc<Broker>,
    code: i32,
    peer: SocketAddr,
    headers: &HeaderMap,
    deed: Result<T, Slip>,
) -> Response {
    if !peer.ip().is_loopback() || !is_local(headers) {
        let reason = "transactions are settled from the broker's own machine only, by its loopback address";
        return refused(StatusCode::FORBIDDEN, reason);
    }
    match deed {
        Ok(deed) => answer(broker, code, &deed, peer).await,
        Err((status, reason)) => refused(status, &reason),
    }
}

fn question(uri: &Uri) -> Result<TxnQuery, Slip> {
    let bad = |rejected: QueryRejection| (StatusCode::BAD_REQUEST, rejected.body_text());
    let Query(fields) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(bad)?;
    known(fields.iter().map(|(name, _)| name), &QUESTION_FIELDS)?;
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(bad)
}

fn one(headers: &HeaderMap, body: &[u8]) -> Result<TxnDeed, Slip> {
    let fields = fields(headers, body, &DEED_FIELDS)?;
    if !["half", "parked"].iter().any(|name| fields.contains_key(*name)) {
        return Err((StatusCode::BAD_REQUEST, "half is missing: which one is meant?".into()));
    }
    read(fields)
}

/// A slip in a name must not pass for "not given": that would be another half, or all of them.
fn fields(headers: &HeaderMap, body: &[u8], all: &[&str]) -> Result<Map<String, Value>, Slip> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is to be sent as application/json".into()));
    }
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(unreadable)?;
    known(fields.keys(), all)?;
    Ok(fields)
}

/// What confirms many is their number, as text or as one.
fn with_its_number(mut fields: Map<String, Value>) -> Map<String, Value> {
    if let Some(confirm) = fields.get_mut("confirm").filter(|confirm| confirm.is_u64()) {
        *confirm = confirm.to_string().into();
    }
    fields
}

fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Slip> {
    serde_json::from_value(Value::Object(fields)).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Slip {
    (StatusCode::BAD_REQUEST, error.to_string())
}

fn known<'n>(mut names: impl Iterator<Item = &'n String>, all: &[&str]) -> Result<(), Slip> {
    match names.find(|name| !all.contains(&name.as_str())) {
        Some(strange) => Err((StatusCode::BAD_REQUEST, format!("{strange:?} is none of {}", all.join(", ")))),
        None => Ok(()),
    }
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
        Ok(Ok(body)) => document(StatusCode::OK, &body),
        Ok(Err(Refused { code, reason })) => refused(status(code), &reason),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the broker failed at this request, see its log"),
    }
}

fn status(code: i32) -> StatusCode {
    match code {
        response::QUERY_NOT_FOUND => StatusCode::NOT_FOUND,
        response::INVALID_PARAMETER => StatusCode::BAD_REQUEST,
        response::ILLEGAL_OPERATION | response::CONSUMER_NOT_ONLINE => StatusCode::CONFLICT,
        response::SYSTEM_BUSY | response::SERVICE_NOT_AVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(status: StatusCode, reason: &str) -> Response {
    document(status, &body::to_json(&serde_json::json!({ "error": reason })))
}

/// One line of JSON.
fn document(status: StatusCode, json: &[u8]) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], [json, b"\n"].concat()).into_response()
}
