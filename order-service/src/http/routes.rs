//! order-service over HTTP: each handler translates one request and one reply.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use sea_orm::DatabaseConnection;
use serde_json::{Value, json};
use txn_sdk::TxnProducer;

use super::{JsonBody, Problem, User, alive, header, parse};
use crate::callbacks::{Callbacks, Signed};
use crate::closing::Closing;
use crate::orders::{NewOrder, Orders};
use crate::payments::{Charged, Payments};
use crate::sales::{Figures, GatePlan, NewSale, PurchaseOutcome, Sales, Taken};
use crate::signature::{self, NONCE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use crate::tables::{order, sale};

/// What the handlers need, each cheap to clone.
#[derive(Clone)]
pub struct App {
    pub orders: Orders,
    pub payments: Payments,
    pub callbacks: Callbacks,
    pub closing: Closing,
    pub sales: Sales,
    pub txn: TxnProducer<DatabaseConnection>,
    /// Who may manage sales; nobody, where it is not set.
    pub admin_token: Option<String>,
}

pub fn router(app: App) -> Router {
    Router::new()
        .route("/orders", post(place).get(list))
        .route("/orders/{id}", get(read))
        .route("/orders/{id}/pay", post(pay))
        .route("/orders/{id}/cancel", post(cancel))
        .route("/gateway/callback", post(callback))
        .route("/sales", post(create_sale))
        .route("/sales/{id}", get(sale_figures))
        .route("/sales/{id}/orders", get(sale_orders))
        .route("/sales/{id}/gate-plan", post(gate_plan))
        .route("/purchases/{id}", get(purchase))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .with_state(app)
}

type Reply<T> = Result<Json<T>, Problem>;

async fn place(
    State(app): State<App>,
    User(user): User,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewOrder>,
) -> Result<Response, Problem> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let reply = app.orders.place(&user, key, &new).await?;
    Ok((StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], reply).into_response())
}

async fn list(State(app): State<App>, User(user): User) -> Reply<Vec<order::Model>> {
    Ok(Json(app.orders.list(&user).await?))
}

async fn read(State(app): State<App>, User(user): User, Path(id): Path<String>) -> Reply<order::Model> {
    Ok(Json(app.orders.read(&user, &id).await?))
}

async fn pay(State(app): State<App>, User(user): User, Path(id): Path<String>) -> Result<Response, Problem> {
    let payment = app.payments.start(&user, &id).await?;
    let reply = json!({ "pay_id": payment.id, "order_id": payment.order_id,
        "amount_minor": payment.amount_minor, "currency": payment.currency });
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

async fn cancel(State(app): State<App>, User(user): User, Path(id): Path<String>) -> Reply<order::Model> {
    Ok(Json(app.closing.cancel(&user, &id).await?))
}

async fn callback(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Reply<Value> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed =
        Signed { timestamp: text(TIMESTAMP_HEADER), nonce: text(NONCE_HEADER), signature: text(SIGNATURE_HEADER) };
    app.callbacks.authenticate(signed, &body).await?;
    let charged: Charged = parse(&body)?;
    let settled = app.payments.settle(&charged).await?;
    Ok(Json(json!({ "result": settled })))
}

async fn create_sale(State(app): State<App>, _: Admin, JsonBody(new): JsonBody<NewSale>) -> Reply<sale::Model> {
    Ok(Json(app.sales.create(&new).await?))
}

async fn sale_figures(State(app): State<App>, Path(id): Path<String>) -> Reply<Figures> {
    Ok(Json(app.sales.figures(&id).await?))
}

async fn sale_orders(State(app): State<App>, _: Admin, Path(id): Path<String>) -> Reply<Vec<Taken>> {
    Ok(Json(app.sales.orders(&id).await?))
}

async fn gate_plan(State(app): State<App>, _: Admin, Path(id): Path<String>) -> Reply<GatePlan> {
    Ok(Json(app.sales.plan_gate(&id).await?))
}

async fn purchase(State(app): State<App>, _: Admin, Path(id): Path<String>) -> Reply<PurchaseOutcome> {
    Ok(Json(app.sales.outcome(&id).await?))
}

async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.txn.producer().is_registered() {
        return Ok("ok: registered for checkback\n");
    }
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_registered", "not registered for checkback at the broker"))
}

/// A request that carries the admin token.
struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let given = header(parts, "x-admin-token").unwrap_or_default();
        match &app.admin_token {
            Some(token) if signature::same(token.as_bytes(), given.as_bytes()) => Ok(Admin),
            _ => Err(Problem::new(StatusCode::FORBIDDEN, "not_admin", "the X-Admin-Token header is missing or wrong")),
        }
    }
}
