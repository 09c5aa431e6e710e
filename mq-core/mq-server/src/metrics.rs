//! The broker's HTTP port: its figures for Prometheus (`GET /metrics`), and what `operators` serves beside them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mq_broker::Broker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Scrapes at once: each may read the log.
const MAX_SCRAPES: usize = 2;
/// Connections at once; beyond it a new one is closed at once. One request each: a scraper makes a new one every time.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// How long the head may take to arrive, and all of the request with its answer.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
const DONE_WITHIN: Duration = Duration::from_secs(60);
/// Rest after an error of the listener (a full descriptor table, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Scraped {
    broker: Arc<Broker>,
    scrapes: Arc<Semaphore>,
}

/// Serves until `shutdown`. A scrape that is on its way is not worth waiting for then.
pub(crate) async fn serve(broker: Arc<Broker>, listener: TcpListener, shutdown: CancellationToken) {
    let state = Scraped { broker, scrapes: Arc::new(Semaphore::new(MAX_SCRAPES)) };
    let operators = crate::operators::routes(Arc::clone(&state.broker));
    let router = Router::new().route("/metrics", get(scrape)).with_state(state).merge(operators);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection to the metrics port failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!(%peer, limit = MAX_CONNECTIONS, "too many connections to the metrics port; this one is closed");
            continue;
        };
        let (router, stop) = (router.clone().layer(Extension(peer)), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = answer(socket, router) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn answer(socket: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    match timeout(DONE_WITHIN, connection).await {
        Ok(Ok(())) => {}
        // The peer's matter.
        Ok(Err(error)) => debug!(%error, "a request to the metrics port failed"),
        Err(_) => debug!("a request to the metrics port took longer than {DONE_WITHIN:?}"),
    }
}

async fn scrape(State(Scraped { broker, scrapes }): State<Scraped>) -> Response {
    let Ok(permit) = scrapes.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others are scraping; try again").into_response();
    };
    let text = tokio::task::spawn_blocking(move || {
        let text = broker.metrics();
        drop(permit);
        text
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the figures could not be gathered, see the log").into_response(),
    }
}
