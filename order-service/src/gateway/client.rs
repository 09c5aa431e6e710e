//! The merchant's side of the gateway's HTTP interface.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::json;
use thiserror::Error;

use super::charges::ChargeRequest;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("the payment gateway does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("the payment gateway refused: {status} {body}")]
    Refused { status: StatusCode, body: String },
}

#[derive(Clone, Debug)]
pub struct GatewayClient {
    http: Client,
    base_url: String,
}

impl GatewayClient {
    /// `base_url` as in `http://127.0.0.1:8090`.
    pub fn new(base_url: impl Into<String>) -> GatewayClient {
        GatewayClient { http: Client::new(), base_url: base_url.into() }
    }

    pub async fn charge(&self, request: &ChargeRequest) -> Result<(), GatewayError> {
        self.post("charge", &json!(request)).await
    }

    pub async fn refund(&self, pay_id: &str) -> Result<(), GatewayError> {
        self.post("refund", &json!({ "pay_id": pay_id })).await
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> Result<(), GatewayError> {
        let url = format!("{}/{path}", self.base_url.trim_end_matches('/'));
        accepted(self.http.post(url).timeout(ANSWER_WITHIN).json(body).send().await?).await
    }
}

async fn accepted(response: Response) -> Result<(), GatewayError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    Err(GatewayError::Refused { status, body: response.text().await? })
}
