//! The store's first failed sync, and how everybody hears of it.

use std::sync::OnceLock;

use mq_store::Poisoned;
use tokio_util::sync::CancellationToken;

/// Why the store gave up, once it has.
#[derive(Default)]
pub(crate) struct Failure {
    told: CancellationToken,
    reason: OnceLock<Poisoned>,
}

impl Failure {
    pub(crate) fn set(&self, reason: Poisoned) {
        // Only the first counts.
        let _ = self.reason.set(reason);
        self.told.cancel();
    }

    pub(crate) fn get(&self) -> Option<&Poisoned> {
        self.reason.get()
    }

    pub(crate) async fn happened(&self) {
        self.told.cancelled().await;
    }
}
