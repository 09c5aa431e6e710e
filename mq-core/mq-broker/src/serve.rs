//! Accepting connections, up to the limit, and waiting for all of them at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::broker::{Broker, RunError};
use crate::connection::{Connection, ConnectionId};
use crate::limits::{ACCEPT_PAUSE, MAX_CONNECTIONS};
use crate::session::Session;

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Serves until `shutdown` or until the store fails; returns when the last connection is gone.
pub(crate) async fn serve(
    broker: &Arc<Broker>,
    listeners: Vec<TcpListener>,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept(broker.clone(), listener, places.clone(), shutdown.clone()));
    }
    while loops.join_next().await.is_some() {}
    broker.failed.get().map_or(Ok(()), |reason| Err(RunError::Store(reason.clone())))
}

async fn accept(broker: Arc<Broker>, listener: TcpListener, places: Arc<Semaphore>, shutdown: CancellationToken) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
            () = shutdown.cancelled() => break,
            () = broker.failed.happened() => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    warn!(%peer, limit = MAX_CONNECTIONS, "connection refused: the limit of connections is reached");
                    continue;
                };
                let session = open(&broker, socket, Connection::new(next_id(), peer), &shutdown);
                sessions.spawn(async move {
                    session.run().await;
                    drop(place);
                });
            }
            // Out of file descriptors, or the peer left before it was accepted: neither ends the broker.
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if broker.failed.get().is_some() {
        // Nothing that waits for the disk may be acknowledged any more.
        sessions.abort_all();
    }
    while sessions.join_next().await.is_some() {}
}

fn next_id() -> ConnectionId {
    ConnectionId(NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed))
}

fn open(broker: &Arc<Broker>, socket: TcpStream, connection: Connection, shutdown: &CancellationToken) -> Session {
    debug!(?connection, "connected");
    if let Err(error) = socket.set_nodelay(true) {
        debug!(?connection, %error, "cannot set TCP_NODELAY");
    }
    Session::new(broker.clone(), socket, connection, shutdown.child_token())
}
