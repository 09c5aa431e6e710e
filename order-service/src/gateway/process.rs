//! The gateway as a process: its HTTP interface and its caller, on one listener, until shutdown.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use sea_orm::DatabaseConnection;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::callback::Caller;
use super::charges::{Charge, ChargeError, ChargeRequest, Charges, Totals};
use crate::clock::Clock;
use crate::http::{self, JsonBody, Problem};
use crate::signature::Secret;

#[derive(Clone, Debug)]
pub struct GatewayOptions {
    pub db: DatabaseConnection,
    pub clock: Clock,
    pub secret: Secret,
}

#[derive(Debug)]
pub struct Gateway {
    charges: Charges,
    caller: Caller,
}

impl Gateway {
    pub async fn open(options: GatewayOptions) -> anyhow::Result<Gateway> {
        let charges = Charges::open(options.db, options.clock.clone()).await?;
        let caller = Caller::new(charges.clone(), options.clock, options.secret);
        Ok(Gateway { charges, caller })
    }

    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let calling = tokio::spawn(self.caller.run(shutdown.clone()));
        http::serve(listener, router(self.charges), shutdown).await?;
        Ok(calling.await?)
    }
}

fn router(charges: Charges) -> Router {
    Router::new()
        .route("/charge", post(charge))
        .route("/refund", post(refund))
        .route("/charges", get(totals))
        .route("/charges/{pay_id}", get(read))
        .route("/livez", get(http::alive))
        .route("/readyz", get(http::alive))
        .with_state(charges)
}

#[derive(Deserialize)]
struct Refund {
    pay_id: String,
}

type Reply<T> = Result<axum::Json<T>, Problem>;

async fn charge(State(charges): State<Charges>, JsonBody(request): JsonBody<ChargeRequest>) -> Reply<Charge> {
    Ok(axum::Json(charges.charge(&request).await?))
}

async fn refund(State(charges): State<Charges>, JsonBody(refund): JsonBody<Refund>) -> Reply<Charge> {
    Ok(axum::Json(charges.refund(&refund.pay_id).await?))
}

async fn totals(State(charges): State<Charges>) -> Reply<Totals> {
    Ok(axum::Json(charges.totals().await?))
}

async fn read(State(charges): State<Charges>, Path(pay_id): Path<String>) -> Reply<Charge> {
    Ok(axum::Json(charges.of_payment(&pay_id).await?))
}

impl From<ChargeError> for Problem {
    fn from(error: ChargeError) -> Problem {
        let (status, name) = match &error {
            ChargeError::Amount(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_amount"),
            ChargeError::CallbackUrl => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_callback_url"),
            ChargeError::OtherTerms(_) => (StatusCode::CONFLICT, "charged_with_other_terms"),
            ChargeError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_payment"),
            ChargeError::Database(_) => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
        };
        Problem::new(status, name, error)
    }
}
