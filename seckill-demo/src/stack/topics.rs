//! What an operator does before the services start: creating their topics, so that the first message of each finds its
//! consumers waiting.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use mq_client::{Client, ClientOptions, TopicSettings};

const QUEUES: u32 = 4;
/// A broker that has just started may not have registered yet.
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub async fn create(name_server: SocketAddr, topics: &[&str]) -> Result<()> {
    let client = Client::new(ClientOptions::new(name_server.to_string()))?;
    let deadline = Instant::now() + LIMIT;
    for topic in topics {
        while let Err(error) = client.create_topic(topic, TopicSettings::with_queues(QUEUES)).await {
            if Instant::now() > deadline {
                return Err(error.into());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    client.close();
    Ok(())
}
