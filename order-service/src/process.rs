//! What every process of the shop does first: logging, failpoints from the environment, and a clean stop on signals.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Logs to standard error (`RUST_LOG`, otherwise `info`), and arms the crash points that `FAILPOINTS` names.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    txn_sdk::failpoints::arm();
}

/// Cancelled by the first SIGTERM, SIGINT or (a closed terminal) SIGHUP.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        // Before the log line: a terminal that is gone must not keep the process from stopping.
        stop.cancel();
        tracing::info!("stopping");
    });
    Ok(shutdown)
}
