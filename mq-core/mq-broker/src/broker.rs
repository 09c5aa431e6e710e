//! The broker: its tables, its store, and the way it starts and stops.

use std::io;
use std::sync::Arc;

use mq_protocol::ids::LogOffset;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::serve;

/// One per process and store directory.
pub struct Broker {
    /// Set once by the store's first failed sync: from then on nothing is acknowledged.
    pub(crate) failed: CancellationToken,
    /// How far the log is on disk. The store's own thread moves it; sessions with waiting replies wake on it.
    pub(crate) durable: watch::Sender<LogOffset>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the listener failed: {0}")]
    Listener(#[from] io::Error),
    #[error("the store failed; nothing was acknowledged after that, restart to recover what is on disk")]
    Store,
}

impl Broker {
    /// Serves the listeners (the main port and, when there is one, the VIP port) until `shutdown`.
    pub async fn run(
        self: &Arc<Self>,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        serve::serve(self, listeners, &shutdown).await
    }
}
