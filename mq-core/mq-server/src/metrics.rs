//! The broker's figures over HTTP, for Prometheus: `GET /metrics`.

use std::future::IntoFuture;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mq_broker::Broker;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Scrapes at once: each may read the log.
const MAX_SCRAPES: usize = 2;

#[derive(Clone)]
struct Scraped {
    broker: Arc<Broker>,
    scrapes: Arc<Semaphore>,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(broker: Arc<Broker>, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    let state = Scraped { broker, scrapes: Arc::new(Semaphore::new(MAX_SCRAPES)) };
    let router = Router::new().route("/metrics", get(scrape)).with_state(state);
    tokio::select! {
        served = axum::serve(listener, router).into_future() => served.context("metrics are not served any more"),
        // A scrape that is on its way is not worth waiting for.
        () = shutdown.cancelled() => Ok(()),
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
