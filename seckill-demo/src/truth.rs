//! order-service as the flash sale sees it: an HTTP interface that knows what was really sold.

use std::time::Duration;

use order_service::sales::{Figures, GatePlan, NewSale, PurchaseOutcome, Taken};
use order_service::tables::sale;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum TruthError {
    #[error("order-service does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// Its own named error, to be passed on.
    #[error("order-service refused ({status}): {message}")]
    Refused { status: StatusCode, name: String, message: String },
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    message: String,
}

#[derive(Clone, Debug)]
pub struct Truth {
    http: Client,
    base_url: String,
    admin_token: String,
}

impl Truth {
    pub fn new(base_url: impl Into<String>, admin_token: impl Into<String>) -> Truth {
        Truth { http: Client::new(), base_url: base_url.into(), admin_token: admin_token.into() }
    }

    pub async fn create_sale(&self, new: &NewSale) -> Result<sale::Model, TruthError> {
        self.ask(self.http.post(self.url("sales")).json(new)).await
    }

    pub async fn figures(&self, sale_id: &str) -> Result<Figures, TruthError> {
        self.ask(self.http.get(self.url(&format!("sales/{sale_id}")))).await
    }

    pub async fn orders(&self, sale_id: &str) -> Result<Vec<Taken>, TruthError> {
        self.ask(self.http.get(self.url(&format!("sales/{sale_id}/orders")))).await
    }

    pub async fn plan_gate(&self, sale_id: &str) -> Result<GatePlan, TruthError> {
        self.ask(self.http.post(self.url(&format!("sales/{sale_id}/gate-plan")))).await
    }

    pub async fn outcome(&self, purchase_id: &str) -> Result<PurchaseOutcome, TruthError> {
        self.ask(self.http.get(self.url(&format!("purchases/{purchase_id}")))).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base_url.trim_end_matches('/'))
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, TruthError> {
        let response = request.timeout(ANSWER_WITHIN).header("x-admin-token", &self.admin_token).send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.json().await?);
        }
        let Refusal { error: name, message } = response.json().await?;
        Err(TruthError::Refused { status, name, message })
    }
}
