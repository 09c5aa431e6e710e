//! Whether a topic has been consumed to its end by a group, asked of the broker.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mq_client::{Client, ClientOptions};

const POLL: Duration = Duration::from_millis(100);

/// A topic of one broker, and the group that reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) name_server: SocketAddr,
    pub(super) topic: &'static str,
    pub(super) group: &'static str,
}

impl Queue {
    /// Waits until the group has committed the end of every queue.
    pub(super) async fn drained(&self, limit: Duration) -> Result<()> {
        let client = Client::new(ClientOptions::new(self.name_server.to_string()))?;
        let deadline = Instant::now() + limit;
        loop {
            let lag = client.lag(self.group, self.topic).await?;
            if lag == 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "{} of {} still has {lag} messages to read", self.group, self.topic);
            tokio::time::sleep(POLL).await;
        }
        client.close();
        Ok(())
    }
}
