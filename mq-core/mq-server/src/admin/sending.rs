//! Messages that an operator sends by hand, to see that they arrive and how long that takes: `mq admin message send` and
//! `mq admin cluster latency`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use mq_client::{Admin, Message, MessageQueue, Producer, SendReceipt, TRACE_TOPIC};

use super::{Sheet, moment, pair};

/// Sends of one command.
const MOST_SENDS: i64 = 10_000;
pub(super) const GROUP: &str = "mq-admin";

#[derive(Debug, Args)]
pub(super) struct SendOptions {
    topic: String,
    body: String,
    #[arg(long)]
    tags: Option<String>,
    /// What operators find it by; several times for several keys.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = pair)]
    properties: Vec<(String, String)>,
    /// Delivered so much later: 30s, 5m, 2h.
    #[arg(long, value_parser = moment::duration)]
    delay: Option<Duration>,
    /// Only to this broker, by its name.
    #[arg(long)]
    broker: Option<String>,
    /// Only to this queue.
    #[arg(long)]
    queue: Option<u32>,
    /// How often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_SENDS))]
    count: u32,
    /// Leaves a trace, as clients that trace do.
    #[arg(long)]
    trace: bool,
}

impl SendOptions {
    fn message(&self) -> Message {
        let mut message = Message::new(self.topic.as_str(), self.body.clone());
        if let Some(tags) = &self.tags {
            message = message.tags(tags.as_str());
        }
        if !self.keys.is_empty() {
            message = message.keys(&self.keys);
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        self.properties.iter().fold(message, |message, (name, value)| message.property(name.as_str(), value.as_str()))
    }

    /// `None`: wherever a producer would send.
    async fn queues(&self, producer: &Producer) -> Result<Option<Vec<MessageQueue>>> {
        if self.broker.is_none() && self.queue.is_none() {
            return Ok(None);
        }
        let mut queues = producer.queues(&self.topic).await?;
        queues.retain(|it| self.broker.as_ref().is_none_or(|name| it.broker_name == *name));
        queues.retain(|it| self.queue.is_none_or(|id| it.queue_id == id));
        ensure!(!queues.is_empty(), "{} has no such queue that takes sends: see `mq admin topic route`", self.topic);
        Ok(Some(queues))
    }
}

/// A row for each send.
pub(super) async fn send(admin: &Admin, options: &SendOptions) -> Result<Sheet> {
    let trace = options.trace.then(|| TRACE_TOPIC.into());
    let builder =
        Producer::builder("").client(admin.client().clone()).group(GROUP).options(|settings| settings.trace = trace);
    let producer = builder.build().await?;
    let queues = options.queues(&producer).await?;
    let mut sheet = Sheet::new(&["broker", "queue", "offset", "unique key", "offset id", "outcome", "took ms"]);
    let mut times = Times::default();
    for turn in 0..options.count as usize {
        let queue = queues.as_ref().map(|queues| &queues[turn % queues.len()]);
        let (receipt, took) = timed(&producer, options.message(), queue).await?;
        times.add(took);
        sheet.row([
            receipt.queue.broker_name.as_str().into(),
            receipt.queue.queue_id.into(),
            receipt.queue_offset.0.into(),
            receipt.message_id.to_string().into(),
            receipt.offset_message_id.to_string().into(),
            format!("{:?}", receipt.status).into(),
            millis(took),
        ]);
    }
    producer.close().await;
    Ok(sheet.remark(format!("mean {} ms, slowest {} ms", millis(times.mean()), millis(times.slowest))))
}

/// How long sends to each broker take: each has a topic of its own name.
pub(super) async fn latency(admin: &Admin, count: u32) -> Result<Sheet> {
    let producer = Producer::builder("").client(admin.client().clone()).group(GROUP).build().await?;
    let mut sheet = Sheet::new(&["cluster", "broker", "sends", "mean ms", "slowest ms"]);
    for master in admin.masters().await? {
        let mut times = Times::default();
        for _ in 0..count {
            let message = Message::new(master.name.as_str(), "how long does it take?");
            let sent = timed(&producer, message, None).await;
            times.add(sent.with_context(|| format!("broker {}", master.name))?.1);
        }
        let [mean, slowest] = [times.mean(), times.slowest].map(millis);
        sheet.row([master.cluster.into(), master.name.into(), count.into(), mean, slowest]);
    }
    producer.close().await;
    Ok(sheet)
}

async fn timed(producer: &Producer, message: Message, to: Option<&MessageQueue>) -> Result<(SendReceipt, Duration)> {
    let began = Instant::now();
    let receipt = match to {
        Some(queue) => producer.send_to_queue(message, queue).await?,
        None => producer.send(message).await?,
    };
    Ok((receipt, began.elapsed()))
}

#[derive(Default)]
struct Times {
    count: u32,
    total: Duration,
    slowest: Duration,
}

impl Times {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.total += took;
        self.slowest = self.slowest.max(took);
    }

    fn mean(&self) -> Duration {
        self.total / self.count.max(1)
    }
}

fn millis(took: Duration) -> serde_json::Value {
    ((took.as_secs_f64() * 10_000.0).round() / 10.0).into()
}
