//! Every error that a client sees: `{"error": name, "message": …}` with a status. The one place that chooses them for
//! order-service.

use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sea_orm::DbErr;
use serde_json::json;

use crate::callbacks::RefusedCallback;
use crate::closing::CloseError;
use crate::orders::{PlaceError, ReadError};
use crate::payments::{SettleError, StartError};
use crate::sales::SaleError;

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    name: &'static str,
    message: String,
}

impl Problem {
    pub fn new(status: StatusCode, name: &'static str, message: impl fmt::Display) -> Problem {
        Problem { status, name, message: message.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(error = self.name, message = self.message, "cannot answer");
        }
        (self.status, Json(json!({ "error": self.name, "message": self.message }))).into_response()
    }
}

impl From<DbErr> for Problem {
    fn from(error: DbErr) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", error)
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Problem {
        let name = match error {
            PlaceError::Database(error) => return error.into(),
            PlaceError::Amount(_) => "invalid_amount",
            PlaceError::Item => "invalid_item",
            PlaceError::Key => "invalid_idempotency_key",
            PlaceError::KeyReused => "idempotency_key_reused",
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, name, error)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::Database(error) => error.into(),
            ReadError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, "unknown_order", error),
            ReadError::NotYours(_) => Problem::new(StatusCode::FORBIDDEN, "not_your_order", error),
        }
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Problem {
        match error {
            StartError::Database(error) => error.into(),
            StartError::Read(error) => error.into(),
            StartError::NotPayable { .. } => Problem::new(StatusCode::CONFLICT, "not_payable", error),
            StartError::Gateway(_) => Problem::new(StatusCode::BAD_GATEWAY, "gateway_unavailable", error),
        }
    }
}

impl From<RefusedCallback> for Problem {
    fn from(error: RefusedCallback) -> Problem {
        let (status, name) = match error {
            RefusedCallback::Database(error) => return error.into(),
            RefusedCallback::Forged => (StatusCode::UNAUTHORIZED, "forged_callback"),
            RefusedCallback::Stale => (StatusCode::UNAUTHORIZED, "stale_callback"),
            RefusedCallback::Replayed => (StatusCode::CONFLICT, "replayed_callback"),
        };
        Problem::new(status, name, error)
    }
}

impl From<SettleError> for Problem {
    fn from(error: SettleError) -> Problem {
        let (status, name) = match error {
            SettleError::Database(error) => return error.into(),
            SettleError::UnknownOrder { .. } => (StatusCode::NOT_FOUND, "unknown_order"),
            SettleError::WrongAmount { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_amount"),
            SettleError::WrongCurrency { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_currency"),
            SettleError::AnotherCharge { .. } => (StatusCode::CONFLICT, "settled_by_another_charge"),
            SettleError::Publish(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable"),
            SettleError::InDoubt => (StatusCode::SERVICE_UNAVAILABLE, "in_doubt"),
        };
        Problem::new(status, name, error)
    }
}

impl From<CloseError> for Problem {
    fn from(error: CloseError) -> Problem {
        let (status, name) = match error {
            CloseError::Database(error) => return error.into(),
            CloseError::Read(error) => return error.into(),
            CloseError::Paid(_) => (StatusCode::CONFLICT, "already_paid"),
            CloseError::Publish(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable"),
            CloseError::InDoubt => (StatusCode::SERVICE_UNAVAILABLE, "in_doubt"),
        };
        Problem::new(status, name, error)
    }
}

impl From<SaleError> for Problem {
    fn from(error: SaleError) -> Problem {
        let (status, name) = match error {
            SaleError::Database(error) => return error.into(),
            SaleError::Amount(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_amount"),
            SaleError::Id => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_sale_id"),
            SaleError::Exists(_) => (StatusCode::CONFLICT, "sale_exists"),
            SaleError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_sale"),
        };
        Problem::new(status, name, error)
    }
}
