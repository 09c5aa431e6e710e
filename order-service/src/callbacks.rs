//! Is this callback from the gateway, fresh, and not a copy? Every attempt of the gateway carries a nonce of its own, so
//! a nonce seen twice is a replay, while a repeated attempt about the same charge is not. Knows no payment.

use sea_orm::{ActiveModelTrait, ColumnTrait, DatabaseConnection, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use thiserror::Error;

use crate::clock::Clock;
use crate::database;
use crate::signature::Secret;
use crate::tables::callback_nonce::{Column, Entity, Model};

/// How far a callback's timestamp may be from our clock, either way.
pub const MAX_AGE_SECONDS: i64 = 300;

/// Nonces are kept until their timestamp cannot be fresh any more: one from the future may be so for twice the age, and
/// whole seconds are compared.
const KEEP_NONCES_MS: i64 = (2 * MAX_AGE_SECONDS + 1) * 1000;
const MAX_NONCE_BYTES: usize = 64;

/// The three headers of a callback, as they came.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub timestamp: &'a str,
    pub nonce: &'a str,
    pub signature: &'a str,
}

#[derive(Debug, Error)]
pub enum RefusedCallback {
    #[error("the signature is not the gateway's")]
    Forged,
    #[error("the timestamp is more than {MAX_AGE_SECONDS} s from now")]
    Stale,
    #[error("this callback was received before")]
    Replayed,
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Clone, Debug)]
pub struct Callbacks {
    db: DatabaseConnection,
    clock: Clock,
    secret: Secret,
}

impl Callbacks {
    pub fn new(db: DatabaseConnection, clock: Clock, secret: Secret) -> Callbacks {
        Callbacks { db, clock, secret }
    }

    /// Accepts a callback at most once. The signature is looked at first: a stranger learns nothing else and writes
    /// nothing.
    pub async fn authenticate(&self, signed: Signed<'_>, body: &[u8]) -> Result<(), RefusedCallback> {
        let Signed { timestamp, nonce, signature } = signed;
        let well_formed = (1..=MAX_NONCE_BYTES).contains(&nonce.len());
        if !well_formed || !self.secret.verify(timestamp, nonce, body, signature) {
            return Err(RefusedCallback::Forged);
        }
        let sent_s: i64 = timestamp.parse().map_err(|_| RefusedCallback::Stale)?;
        let now_ms = self.clock.now_ms();
        if (now_ms / 1000).abs_diff(sent_s) > MAX_AGE_SECONDS.unsigned_abs() {
            return Err(RefusedCallback::Stale);
        }
        self.spend(nonce, now_ms).await
    }

    async fn spend(&self, nonce: &str, now_ms: i64) -> Result<(), RefusedCallback> {
        let tx = database::begin(&self.db).await?;
        Entity::delete_many().filter(Column::SeenMs.lt(now_ms.saturating_sub(KEEP_NONCES_MS))).exec(&tx).await?;
        let row = Model { nonce: nonce.to_owned(), seen_ms: now_ms }.into_active_model();
        match row.insert(&tx).await {
            Err(error) if database::is_duplicate(&error) => Err(RefusedCallback::Replayed),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(tx.commit().await?),
        }
    }
}
