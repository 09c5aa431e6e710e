//! What the HTTP faces of the services share: JSON in, named errors out, and serving until shutdown. The handlers of
//! order-service are in `routes`; no handler decides anything.

mod problem;
mod routes;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Router, extract::DefaultBodyLimit};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use problem::Problem;
pub use routes::{App, router};

use crate::orders;

/// No request of the shop is longer.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Answers until shutdown, then finishes what is being answered.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = router.fallback(not_found).layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", "nothing is served here")
}

pub async fn alive() -> &'static str {
    "ok\n"
}

/// A JSON body; what is wrong with it is a named error like any other.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(|e| {
            let status = e.status();
            Problem::new(status, "unreadable_body", e)
        })?;
        parse(&body).map(JsonBody)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "invalid_body", e))
}

/// Who asks: the `X-User` header, which the login in front of the shop sets.
#[derive(Debug)]
pub struct User(pub String);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let user = header(parts, "x-user").filter(|user| orders::is_valid_id(user));
        user.map(|user| User(user.to_owned())).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "no_user",
                "the X-User header must name the user (1 to 64 characters)",
            )
        })
    }
}

pub(crate) fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}
