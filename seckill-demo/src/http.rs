//! The flash sale over HTTP: each handler translates one request and one reply.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use order_service::http::{JsonBody, Problem, User, alive};
use order_service::sales::NewSale;
use order_service::signature;
use order_service::tables::sale;
use serde::Deserialize;

use crate::gate::{BuildError, Gate, GateError, Status, Turned};
use crate::purchases::{BuyError, Progress, ProgressError, Purchases};
use crate::sales::{Overview, Sales, WarmUpError};
use crate::truth::TruthError;

#[derive(Clone)]
pub struct App {
    pub sales: Sales,
    pub purchases: Purchases,
    pub gate: Gate,
    pub admin_token: String,
}

pub fn router(app: App) -> Router {
    Router::new()
        .route("/sales", post(create))
        .route("/sales/{sale}", get(overview))
        .route("/sales/{sale}/warm-up", post(warm_up))
        .route("/sales/{sale}/stop", post(stop))
        .route("/sales/{sale}/purchases", post(buy))
        .route("/sales/{sale}/purchases/{id}", get(progress))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .with_state(app)
}

type Reply<T> = Result<Json<T>, Failure>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Buy {
    #[serde(default = "one")]
    quantity: i64,
}

fn one() -> i64 {
    1
}

async fn create(State(app): State<App>, _: Admin, JsonBody(new): JsonBody<NewSale>) -> Reply<sale::Model> {
    Ok(Json(app.sales.create(&new).await?))
}

async fn overview(State(app): State<App>, Path(sale): Path<String>) -> Reply<Overview> {
    Ok(Json(app.sales.overview(&sale).await?))
}

async fn warm_up(State(app): State<App>, _: Admin, Path(sale): Path<String>) -> Reply<Status> {
    Ok(Json(app.sales.warm_up(&sale).await?))
}

async fn stop(State(app): State<App>, _: Admin, Path(sale): Path<String>) -> Reply<()> {
    Ok(Json(app.sales.stop(&sale).await?))
}

async fn buy(
    State(app): State<App>,
    User(user): User,
    Path(sale): Path<String>,
    JsonBody(buy): JsonBody<Buy>,
) -> Result<Response, Failure> {
    let bought = app.purchases.buy(&sale, &user, buy.quantity).await?;
    Ok((StatusCode::ACCEPTED, Json(bought)).into_response())
}

async fn progress(
    State(app): State<App>,
    User(user): User,
    Path((sale, id)): Path<(String, String)>,
) -> Reply<Progress> {
    Ok(Json(app.purchases.progress(&sale, &user, &id).await?))
}

/// Ready to sell: registered for checkbacks, and the gate's Redis answers.
async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    let missing = |name, what| Problem::new(StatusCode::SERVICE_UNAVAILABLE, name, what);
    if !app.purchases.is_registered() {
        return Err(missing("not_registered", "not registered for checkback at the broker"));
    }
    if !app.gate.is_reachable().await {
        return Err(missing("gate_unavailable", "the gate's Redis does not answer"));
    }
    Ok("ok: registered for checkback, gate reachable\n")
}

/// A request that carries the admin token.
struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let given = parts.headers.get("x-admin-token").map_or(&b""[..], |token| token.as_bytes());
        if signature::same(app.admin_token.as_bytes(), given) {
            return Ok(Admin);
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "not_admin", "the X-Admin-Token header is missing or wrong"))
    }
}

/// A named error, or order-service's answer passed on as it came.
enum Failure {
    Ours(Problem),
    Theirs { status: StatusCode, name: String, message: String },
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Ours(problem) => problem.into_response(),
            Failure::Theirs { status, name, message } => {
                (status, Json(serde_json::json!({ "error": name, "message": message }))).into_response()
            }
        }
    }
}

fn ours(status: StatusCode, name: &'static str, error: impl std::fmt::Display) -> Failure {
    Failure::Ours(Problem::new(status, name, error))
}

impl From<GateError> for Failure {
    fn from(error: GateError) -> Failure {
        ours(StatusCode::SERVICE_UNAVAILABLE, "gate_unavailable", error)
    }
}

impl From<TruthError> for Failure {
    fn from(error: TruthError) -> Failure {
        match error {
            TruthError::Unreachable(_) => ours(StatusCode::BAD_GATEWAY, "order_service_unavailable", error),
            TruthError::Refused { status, name, message } => Failure::Theirs { status, name, message },
        }
    }
}

impl From<WarmUpError> for Failure {
    fn from(error: WarmUpError) -> Failure {
        match error {
            WarmUpError::Truth(error) => error.into(),
            WarmUpError::Build(BuildError::Gate(error)) => error.into(),
            WarmUpError::Queue(_) => ours(StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable", error),
            WarmUpError::Open => ours(StatusCode::CONFLICT, "already_open", error),
            WarmUpError::NotDrained(_) => ours(StatusCode::CONFLICT, "not_drained", error),
            WarmUpError::Build(BuildError::Evicts) => ours(StatusCode::CONFLICT, "redis_evicts", error),
            WarmUpError::Build(BuildError::Superseded) => ours(StatusCode::CONFLICT, "superseded", error),
        }
    }
}

impl From<BuyError> for Failure {
    fn from(error: BuyError) -> Failure {
        let (status, name) = match &error {
            BuyError::Gate(_) => (StatusCode::SERVICE_UNAVAILABLE, "gate_unavailable"),
            BuyError::Queue(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable"),
            BuyError::Turned(Turned::Closed) => (StatusCode::CONFLICT, "closed"),
            BuyError::Turned(Turned::Limited { .. }) => (StatusCode::CONFLICT, "limited"),
            BuyError::Turned(Turned::SoldOut) => (StatusCode::CONFLICT, "sold_out"),
            BuyError::Turned(Turned::Fenced) => (StatusCode::CONFLICT, "given_up"),
        };
        ours(status, name, error)
    }
}

impl From<ProgressError> for Failure {
    fn from(error: ProgressError) -> Failure {
        match error {
            ProgressError::Gate(error) => error.into(),
            ProgressError::Truth(error) => error.into(),
            ProgressError::NotYours(_) => ours(StatusCode::FORBIDDEN, "not_your_purchase", error),
        }
    }
}
