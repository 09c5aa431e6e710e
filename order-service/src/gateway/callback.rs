//! Calls merchants back about their charges until each has answered 200. What is pending stands in the table, so a
//! restarted gateway goes on where it was.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::Client;
use sea_orm::DbErr;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::charges::{Charge, Charges};
use crate::clock::Clock;
use crate::payments::Charged;
use crate::signature::{NONCE_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// How many merchants are called at once.
const CALLS: usize = 32;
/// How soon a new charge or a due retry is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A merchant has this long to answer: it may be waiting for its broker.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Caller {
    charges: Charges,
    clock: Clock,
    secret: Secret,
    http: Client,
}

impl Caller {
    pub fn new(charges: Charges, clock: Clock, secret: Secret) -> Caller {
        Caller { charges, clock, secret, http: Client::new() }
    }

    /// A merchant that hangs holds up one call, not the others'.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut calls = JoinSet::new();
        let mut in_flight = HashSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(done) = calls.join_next() => {
                    in_flight.remove(&done.expect("a call does not panic"));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Err(error) = self.start_due(&mut calls, &mut in_flight).await {
                        tracing::warn!(%error, "cannot read the pending callbacks");
                    }
                }
            }
        }
    }

    async fn start_due(&self, calls: &mut JoinSet<String>, in_flight: &mut HashSet<String>) -> Result<(), DbErr> {
        for charge in self.charges.due(CALLS as u64).await? {
            if in_flight.len() < CALLS && in_flight.insert(charge.id.clone()) {
                let caller = self.clone();
                calls.spawn(async move {
                    if let Err(error) = caller.call(&charge).await {
                        tracing::warn!(%error, "cannot note how a callback went");
                    }
                    charge.id
                });
            }
        }
        Ok(())
    }

    async fn call(&self, charge: &Charge) -> Result<(), DbErr> {
        match self.post(charge).await {
            Ok(status) if status == reqwest::StatusCode::OK => self.charges.answered(charge).await,
            outcome => {
                tracing::debug!(pay_id = charge.pay_id, ?outcome, "callback not answered, will call again");
                self.charges.retry_later(charge).await
            }
        }
    }

    async fn post(&self, charge: &Charge) -> Result<reqwest::StatusCode, reqwest::Error> {
        let charged = Charged {
            charge_id: charge.id.clone(),
            pay_id: charge.pay_id.clone(),
            order_id: charge.order_id.clone(),
            amount_minor: charge.amount_minor,
            currency: charge.currency.clone(),
        };
        let body = serde_json::to_vec(&charged).expect("a charge has no map with odd keys");
        let timestamp = (self.clock.now_ms() / 1000).to_string();
        let nonce = Uuid::now_v7().to_string();
        let signature = self.secret.sign(&timestamp, &nonce, &body);
        let request = self.http.post(&charge.callback_url).timeout(ANSWER_WITHIN).header(TIMESTAMP_HEADER, timestamp);
        let request = request.header(NONCE_HEADER, nonce).header(SIGNATURE_HEADER, signature);
        let request = request.header("content-type", "application/json").body(body);
        Ok(request.send().await?.status())
    }
}
