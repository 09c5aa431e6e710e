//! A broker from its first connection to its end: what runs beside the connections, and in which order all of it stops.

use std::io;
use std::sync::Arc;

use mq_store::Poisoned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::Broker;
use crate::bell::Bell;
use crate::config_file::SaveError;
use crate::registration::{self, Registrant};
use crate::{announcing, checkback, housekeeping, pop, retention, serve, timers};

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the listener failed: {0}")]
    Listener(#[from] io::Error),
    #[error("{0}; restart to recover what is on disk")]
    Store(Poisoned),
    #[error("the store could not be closed cleanly: {0}")]
    Close(#[from] mq_store::CloseError),
    #[error("the consumer offsets are not saved: {0}")]
    Offsets(#[from] SaveError),
}

impl Broker {
    /// Serves the listeners (the main port and, when there is one, the VIP port) until `shutdown`, then stops in order:
    /// no new connections, no new requests, answers out, tables saved, store closed. An error means that the process
    /// should end with a status that says so.
    pub async fn run(
        self: &Arc<Self>,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let (stop, leaving) = (CancellationToken::new(), shutdown.child_token());
        // A caller that drops this future stops the background work too.
        let _stop = (stop.clone().drop_guard(), leaving.clone().drop_guard());
        let _ring = [&*self.schedule_bell, &*self.timed.bell, &self.flush_bell, &*self.pops.bell].map(RingOnDrop);
        let schedule = self.schedule.lock().take().expect("a broker runs once");
        let delivering = tokio::task::spawn_blocking(move || schedule.run());
        let driver = self.timed.driver.lock().take();
        let timing = tokio::task::spawn_blocking(move || driver.into_iter().for_each(timers::Driver::run));
        let broker = self.clone();
        let flushing = tokio::task::spawn_blocking(move || broker.flush_on_demand());
        let checking = tokio::spawn(checkback::run(self.clone(), stop.clone()));
        let broker = self.clone();
        let reviving = tokio::task::spawn_blocking(move || pop::revive::run(&broker));
        let polls = self.pops.polls.clone();
        let polling = AbortOnDropHandle::new(tokio::spawn(async move { polls.expire().await }));
        let expiring = AbortOnDropHandle::new(tokio::spawn(self.held.clone().expire()));
        let keeping = tokio::spawn(housekeeping::run(self.clone(), stop.clone()));
        let cleaning = tokio::spawn(retention::run(self.clone(), stop.clone()));
        let announcing = tokio::spawn(announcing::run(self.clone(), self.registrations.changes(), stop.clone()));
        let registering = tokio::spawn(registration::run(
            Registrant::new(&self.config, self.store_host),
            self.topics.clone(),
            self.registrations.clone(),
            leaving.clone(),
        ));
        let served = serve::serve(self, listeners, &shutdown).await;
        stop.cancel();
        leaving.cancel();
        drop((expiring, polling));
        self.schedule_bell.stop();
        self.timed.bell.stop();
        self.pops.bell.stop();
        self.flush_bell.stop();
        for (what, task) in [
            ("delivery of delayed messages", delivering),
            ("delivery by time", timing),
            ("revival of popped messages", reviving),
            ("flushing", flushing),
            ("checkback", checking),
            ("housekeeping", keeping),
            ("removal of old files", cleaning),
            ("registration", registering),
            ("announcement of topics", announcing),
        ] {
            if let Err(error) = task.await {
                error!(%error, "the {what} ended early");
            }
        }
        served?;
        let broker = self.clone();
        let closed = tokio::task::spawn_blocking(move || broker.close()).await;
        closed.expect("closing does not panic")
    }

    /// One sync for all halves and verdicts that came meanwhile.
    fn flush_on_demand(&self) {
        while self.flush_bell.wait(None) {
            if self.store.flush().is_err() {
                // The store's listeners are told, and end the broker.
                return;
            }
        }
    }

    /// Something waits for the disk that does not wait for the next asynchronous flush.
    pub(crate) fn hurry(&self) {
        if !self.answers_wait {
            self.flush_bell.ring();
        }
    }

    /// Everything that is in memory goes to disk.
    fn close(&self) -> Result<(), RunError> {
        checkback::save(self);
        let saved = self.save_offsets();
        self.store.close()?;
        Ok(saved?)
    }
}

struct RingOnDrop<'b>(&'b Bell);

impl Drop for RingOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
