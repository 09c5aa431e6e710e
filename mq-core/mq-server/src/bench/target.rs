//! Where the load goes: a broker's address and the topic's queues.

use anyhow::{Context, Result, bail, ensure};
use mq_protocol::body::{self, TopicRoute, perm};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{GetMaxOffset, GetMinOffset, GetRouteInfo, Header};
use mq_protocol::ids::QueueId;
use mq_protocol::topic::AUTO_CREATE;

use super::connection::Connection;
use super::frames::Template;
use super::options::Target;

#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) address: String,
    pub(super) topic: String,
    pub(super) queues: u32,
}

impl Target {
    pub(super) async fn resolve(&self) -> Result<Destination> {
        ensure!(self.queues > 0, "a topic has at least one queue");
        let topic = self.topic.clone();
        let Some(name_server) = &self.namesrv else {
            return Ok(Destination { address: self.addr.clone(), topic, queues: self.queues });
        };
        let mut connection = Connection::open(name_server).await?;
        for asked in [&*self.topic, AUTO_CREATE] {
            let Some(route) = route(&mut connection, asked).await? else { continue };
            let writable = route.queue_datas.iter().find(|queue| perm::writable(queue.perm));
            let queue = writable.with_context(|| format!("no broker takes sends to {asked}"))?;
            let mut brokers = route.broker_datas.iter().filter(|broker| broker.broker_name == queue.broker_name);
            let master = brokers.find_map(|broker| broker.broker_addrs.get(&0));
            let address = master.with_context(|| format!("{} has no master", queue.broker_name))?.clone();
            let queues = if asked == topic { queue.write_queue_nums } else { self.queues.min(queue.write_queue_nums) };
            return Ok(Destination { address, topic, queues });
        }
        bail!("{name_server} knows neither topic {topic} nor a broker that creates topics")
    }
}

async fn route(connection: &mut Connection, topic: &str) -> Result<Option<TopicRoute>> {
    let header = GetRouteInfo { topic: topic.into(), accept_standard_json_only: Some(true) };
    let command = Command::request_with(request::GET_ROUTEINFO_BY_TOPIC, &header);
    let mut route = None;
    ask(connection, command, |answer| {
        if answer.code == 0 {
            route = Some(body::from_json("route", answer.body)?);
        }
        Ok(())
    })
    .await?;
    Ok(route)
}

impl Destination {
    /// A queue's first offset, and the one behind its last.
    pub(super) async fn bounds(&self, connection: &mut Connection, queue: u32) -> Result<(u64, u64)> {
        let (topic, queue_id) = (self.topic.as_str().into(), QueueId(queue));
        let min = GetMinOffset { topic, queue_id, bname: None };
        let min = offset(connection, Command::request_with(request::GET_MIN_OFFSET, &min)).await?;
        let max = GetMaxOffset { topic: self.topic.as_str().into(), queue_id, committed: Some(true), bname: None };
        let max = offset(connection, Command::request_with(request::GET_MAX_OFFSET, &max)).await?;
        Ok((min, max))
    }
}

async fn offset(connection: &mut Connection, command: Command) -> Result<u64> {
    let mut offset = 0;
    ask(connection, command, |answer| {
        ensure!(answer.code == 0, "the broker does not know the queue: {}", answer.refusal());
        offset = answer.number("offset")?;
        Ok(())
    })
    .await?;
    Ok(offset)
}

async fn ask(
    connection: &mut Connection,
    command: Command,
    read: impl FnMut(super::frames::Answer<'_>) -> Result<()>,
) -> Result<()> {
    let mut out = Vec::new();
    Template::new(command).put(&mut out, 0, 0, 0);
    connection.write(&out).await?;
    connection.answers(read).await
}

/// Encodes any header into a request.
pub(super) fn request_of(code: i32, header: &impl Header) -> Template {
    Template::new(Command::request_with(code, header))
}
