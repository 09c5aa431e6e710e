//! SIGTERM and SIGINT: the first asks to stop in order, a second one ends the process at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A token that the first signal cancels.
pub(crate) fn shutdown() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            // Before the log line: a terminal that is gone must not keep the process from stopping.
            stop.cancel();
            tracing::info!("stopping; a second signal ends the process at once");
        }
    });
    Ok(token)
}
