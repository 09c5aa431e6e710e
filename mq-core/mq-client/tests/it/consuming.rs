//! Groups: sharing, filters, retries, order, broadcast, shutdown; and reading by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mq_client::{
    Action, ConsumeFrom, Filter, Message, PullConsumer, PushConsumer, PushConsumerBuilder, QueueOffset, ReceivedMessage,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE, Seen, body, eventually, unique};

fn member(cluster: &Cluster, group: &str, topic: &str, filter: Filter) -> PushConsumerBuilder {
    let builder = PushConsumer::builder(&cluster.name_servers).group(group.to_owned());
    builder.subscribe(topic, filter).consume_from(ConsumeFrom::First)
}

fn noting(seen: &Seen) -> impl Fn(Vec<ReceivedMessage>) -> std::future::Ready<Action> + Send + Sync + 'static {
    let seen = seen.clone();
    move |batch| {
        batch.iter().for_each(|message| seen.add(body(message)));
        std::future::ready(Action::Ack)
    }
}

#[tokio::test]
async fn a_filter_lets_only_its_tags_through() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("tags", &producer).await;
    // "Aa" and "BB" have the same hash: the broker cannot tell them apart.
    for tag in ["a", "b", "c", "Aa", "BB"] {
        producer.send(Message::new(topic.clone(), tag).tags(tag)).await.expect("stored");
    }
    let seen = Seen::default();
    let filter = Filter::tags("a || c || Aa");
    let consumer =
        member(&cluster, &unique("g"), &topic, filter).concurrent(noting(&seen)).start().await.expect("valid");
    seen.reach(3).await;
    producer.send(Message::new(topic.clone(), "later").tags("a")).await.expect("stored");
    seen.reach(4).await;
    assert_eq!(seen.sorted(), ["Aa", "a", "c", "later"]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn members_share_the_queues_and_take_over_from_one_that_leaves() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("shared", &producer).await;
    let group = unique("g");
    let (first_seen, second_seen) = (Seen::default(), Seen::default());
    let start = async |seen: &Seen| {
        let builder = member(&cluster, &group, &topic, Filter::all());
        let builder = builder.options(|options| options.commit_interval = Duration::from_millis(50));
        builder.concurrent(noting(seen)).start().await.expect("valid")
    };
    let own = |consumer: &PushConsumer| consumer.queues().iter().filter(|queue| queue.topic == topic).count();
    let first = start(&first_seen).await;
    let all = eventually("all queues", || async { Some(own(&first)).filter(|queues| *queues > 1) }).await;
    first_seen.reach(1).await;
    // What is not committed when its queue changes hands comes twice.
    eventually("the commit", || async { (first.client().lag(&group, &topic).await == Ok(0)).then_some(()) }).await;
    let second = start(&second_seen).await;
    eventually("halves", || async { (own(&first) == all / 2 && own(&second) == all - all / 2).then_some(()) }).await;
    for number in 0..40 {
        producer.send(Message::new(topic.clone(), format!("m{number:02}"))).await.expect("stored");
    }
    eventually("all messages", || async { (first_seen.all().len() + second_seen.all().len() >= 41).then_some(()) })
        .await;
    let mut together = [first_seen.all(), second_seen.all()].concat();
    together.sort();
    let expected: Vec<String> =
        std::iter::once("first".into()).chain((0..40).map(|number| format!("m{number:02}"))).collect();
    assert_eq!(together, expected, "each once");
    assert!(second_seen.all().len() > 1);
    second.shut_down().await;
    eventually("the heritage", || async { (own(&first) == all).then_some(()) }).await;
    first.shut_down().await;
}

#[tokio::test]
async fn a_failed_message_comes_again_and_ends_in_the_dead_letter_topic() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("retried", &producer).await;
    let sent = producer.send(Message::new(topic.clone(), "bad").tags("t").key("k")).await.expect("stored");
    let (group, seen) = (unique("g"), Seen::default());
    let log = seen.clone();
    let handler = move |batch: Vec<ReceivedMessage>| {
        let message = &batch[0];
        log.add(format!("{} {} {}", body(message), message.reconsume_times, message.topic));
        let action = if message.tags() == Some("t") { Action::RetryAfterLevel(1) } else { Action::Ack };
        std::future::ready(action)
    };
    let builder = member(&cluster, &group, &topic, Filter::all()).concurrent(handler);
    let consumer = builder.options(|options| options.max_reconsume_times = Some(2)).start().await.expect("valid");
    let dead = format!("%DLQ%{group}");
    let letters = eventually("the dead letter", || async {
        Some(cluster.read_all(&dead).await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!((letters.len(), body(&letters[0])), (1, "bad".into()));
    assert_eq!(letters[0].message_id, sent.message_id);
    let tries: Vec<String> = seen.all().into_iter().filter(|line| line.starts_with("bad")).collect();
    assert_eq!(tries, [format!("bad 0 {topic}"), format!("bad 1 {topic}"), format!("bad 2 {topic}")]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn a_panicking_handler_counts_as_a_failure() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("panics", &producer).await;
    let (calls, seen) = (Arc::new(AtomicUsize::new(0)), Seen::default());
    let log = seen.clone();
    let handler = move |batch: Vec<ReceivedMessage>| {
        let (calls, log) = (calls.clone(), log.clone());
        async move {
            assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "the first call fails");
            log.add(format!("{} {}", body(&batch[0]), batch[0].reconsume_times));
            Action::Ack
        }
    };
    let consumer =
        member(&cluster, &unique("g"), &topic, Filter::all()).concurrent(handler).start().await.expect("valid");
    seen.reach(1).await;
    assert_eq!(seen.all(), ["first 1"]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn orderly_consumers_repeat_a_failed_message_before_the_next_one() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("orderly", &producer).await;
    for number in 0..10 {
        producer.send_by_hash(Message::new(topic.clone(), number.to_string()), "key").await.expect("stored");
    }
    let seen = Seen::default();
    let log = seen.clone();
    let handler = move |batch: Vec<ReceivedMessage>| {
        let message = &batch[0];
        if body(message) != "first" {
            log.add(format!("{}.{}", body(message), message.reconsume_times));
        }
        let fails = body(message) == "4" && message.reconsume_times < 2;
        std::future::ready(if fails { Action::RetryLater } else { Action::Ack })
    };
    let builder = member(&cluster, &unique("g"), &topic, Filter::all()).orderly(handler);
    let consumer = builder.options(|options| options.orderly_pause = Duration::from_millis(20)).start().await;
    seen.reach(12).await;
    assert_eq!(seen.all(), ["0.0", "1.0", "2.0", "3.0", "4.0", "4.1", "4.2", "5.0", "6.0", "7.0", "8.0", "9.0"]);
    consumer.expect("valid").shut_down().await;
}

#[tokio::test]
async fn orderly_members_hand_queues_over_without_mixing_the_order() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("handover", &producer).await;
    let (group, seen) = (unique("g"), Seen::default());
    let start = async || {
        let log = seen.clone();
        let handler = move |batch: Vec<ReceivedMessage>| {
            log.add(format!("{}:{}", batch[0].queue.queue_id, body(&batch[0])));
            async {
                tokio::time::sleep(Duration::from_millis(2)).await;
                Action::Ack
            }
        };
        member(&cluster, &group, &topic, Filter::all()).orderly(handler).start().await.expect("valid")
    };
    let first = start().await;
    let mut second = None;
    for number in 0..120 {
        let key = ["a", "b", "c", "d"][number % 4];
        producer.send_by_hash(Message::new(topic.clone(), format!("{number:03}")), key).await.expect("stored");
        if number == 40 {
            second = Some(start().await);
        }
    }
    let second = second.expect("started");
    let each_once = || {
        let mut all = seen.all();
        all.sort();
        all.dedup();
        all.len()
    };
    eventually("all messages", || async { (each_once() == 121).then_some(()) }).await;
    for queue in 0..16 {
        let of_queue: Vec<String> = seen
            .all()
            .into_iter()
            .filter(|line| line.starts_with(&format!("{queue}:")) && !line.ends_with("first"))
            .collect();
        let mut unrepeated = of_queue.clone();
        unrepeated.dedup();
        assert!(unrepeated.is_sorted(), "queue {queue}: {of_queue:?}");
    }
    first.shut_down().await;
    second.shut_down().await;
}

#[tokio::test]
async fn an_orderly_queue_that_comes_back_waits_for_the_batch_that_is_still_handled() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("back", &producer).await;
    let (group, seen) = (unique("g"), Seen::default());
    let (inside, finish) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (entered, may_end, log) = (inside.clone(), finish.clone(), seen.clone());
    let slow = move |batch: Vec<ReceivedMessage>| {
        let (entered, may_end, log) = (entered.clone(), may_end.clone(), log.clone());
        async move {
            log.add(batch[0].queue.queue_id.to_string());
            if entered.fetch_add(1, Ordering::SeqCst) > 0 {
                log.add("two at once");
            }
            may_end.cancelled().await;
            entered.fetch_sub(1, Ordering::SeqCst);
            Action::Ack
        }
    };
    let first = member(&cluster, &group, &topic, Filter::all()).orderly(slow);
    let first = first.client_options(|options| options.instance = Some(unique("m"))).start().await.expect("valid");
    seen.reach(1).await;
    let count = |consumer: &PushConsumer| consumer.queues().iter().filter(|queue| queue.topic == topic).count();
    let all = count(&first);
    let busy: usize = seen.all()[0].parse().expect("a queue");
    let has_it = |consumer: &PushConsumer| {
        consumer.queues().iter().any(|queue| queue.topic == topic && queue.queue_id as usize == busy)
    };
    // Members share in the order of their ids, here "m": the one before it gets the first half, the one behind the rest.
    let name = if busy < all.div_ceil(2) { "a" } else { "z" };
    let other = member(&cluster, &group, &topic, Filter::all()).orderly(noting(&Seen::default()));
    let other = other.client_options(|options| options.instance = Some(unique(name))).start().await.expect("valid");
    eventually("the queue is given away", || async { (!has_it(&first)).then_some(()) }).await;
    other.shut_down().await;
    eventually("the other queues", || async { (count(&first) == all - 1).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // a second one, if there were one, would have begun
    finish.cancel();
    eventually("the queue is back", || async { has_it(&first).then_some(()) }).await;
    assert_eq!(seen.all().len(), 1, "it was committed before the queue was read again: {:?}", seen.all());
    first.shut_down().await;
}

#[tokio::test]
async fn broadcast_gives_every_member_every_message_and_a_file_keeps_the_place() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("broadcast", &producer).await;
    let directory = tempfile::tempdir().expect("a directory");
    let group = unique("g");
    let start = async |seen: &Seen, file: &str| {
        let builder = member(&cluster, &group, &topic, Filter::all()).concurrent(noting(seen));
        builder.broadcast_with_file(directory.path().join(file)).start().await.expect("valid")
    };
    let (one, two) = (Seen::default(), Seen::default());
    let (first, second) = (start(&one, "one").await, start(&two, "two").await);
    producer.send(Message::new(topic.clone(), "to all")).await.expect("stored");
    for seen in [&one, &two] {
        seen.reach(2).await;
        assert_eq!(seen.sorted(), ["first", "to all"]);
    }
    first.shut_down().await;
    producer.send(Message::new(topic.clone(), "missed")).await.expect("stored");
    let again = Seen::default();
    let first = start(&again, "one").await;
    again.reach(1).await;
    assert_eq!(again.all(), ["missed"]);
    first.shut_down().await;
    second.shut_down().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_hand_and_nothing_comes_twice() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("drained", &producer).await;
    let (group, seen) = (unique("g"), Seen::default());
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (log, starting, finishing) = (seen.clone(), begun.clone(), finish.clone());
    let handler = move |batch: Vec<ReceivedMessage>| {
        let (log, starting, finishing) = (log.clone(), starting.clone(), finishing.clone());
        async move {
            starting.notify_one();
            finishing.notified().await;
            log.add(body(&batch[0]));
            Action::Ack
        }
    };
    let consumer = member(&cluster, &group, &topic, Filter::all()).concurrent(handler).start().await.expect("valid");
    begun.notified().await;
    let stopping = tokio::spawn(consumer.shut_down());
    finish.notify_one();
    stopping.await.expect("no panic");
    assert_eq!(seen.all(), ["first"]);

    let later = Seen::default();
    let consumer =
        member(&cluster, &group, &topic, Filter::all()).concurrent(noting(&later)).start().await.expect("valid");
    producer.send(Message::new(topic.clone(), "after")).await.expect("stored");
    later.reach(1).await;
    assert_eq!(later.all(), ["after"]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn reading_by_hand_seeks_and_commits() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("by-hand", &producer).await;
    for number in 0..50 {
        producer.send(Message::new(topic.clone(), number.to_string())).await.expect("stored");
    }
    let group = unique("g");
    let open = async || {
        let reader = PullConsumer::builder(&cluster.name_servers).group(group.clone()).consume_from(ConsumeFrom::First);
        let reader = reader.build().await.expect("valid");
        reader.assign(reader.queues(&topic).await.expect("a route")).await.expect("positions");
        reader
    };
    let read = async |reader: &PullConsumer, count: usize| {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            let messages = reader.poll(PATIENCE).await.expect("answered");
            assert!(!messages.is_empty(), "{} of {count}", bodies.len());
            bodies.extend(messages.iter().map(body));
        }
        bodies
    };
    let reader = open().await;
    assert_eq!(read(&reader, 51).await.len(), 51);
    assert!(reader.poll(Duration::from_millis(50)).await.expect("answered").is_empty());
    reader.commit().await.expect("acknowledged");
    let queue = reader.assigned().remove(0);
    let max = reader.max_offset(&queue).await.expect("answered");
    assert_eq!((reader.position(&queue), reader.committed(&queue).await.expect("answered")), (Some(max), Some(max)));
    reader.seek_to_begin(&queue).await.expect("assigned");
    assert_eq!(read(&reader, max.0 as usize).await.len() as u64, max.0);
    reader.close().await;

    let heir = open().await;
    assert!(heir.poll(Duration::from_millis(50)).await.expect("answered").is_empty(), "all is committed");
    producer.send(Message::new(topic.clone(), "new")).await.expect("stored");
    assert_eq!(read(&heir, 1).await, ["new"]);
    heir.close().await;
}

#[tokio::test]
async fn a_group_that_stands_behind_the_end_of_its_queues_goes_on_at_the_end() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("beyond", &producer).await;
    for orderly in [false, true] {
        let (group, seen) = (unique("g"), Seen::default());
        let reader = PullConsumer::builder(&cluster.name_servers).group(group.clone()).build().await.expect("valid");
        let queues = reader.queues(&topic).await.expect("a route");
        for queue in &queues {
            reader.commit_at(queue, QueueOffset(1000)).await.expect("acknowledged");
        }
        reader.close().await;
        let member = member(&cluster, &group, &topic, Filter::all());
        let member = if orderly { member.orderly(noting(&seen)) } else { member.concurrent(noting(&seen)) };
        let consumer = member.start().await.expect("valid");
        let stands = async || {
            for queue in &queues {
                if consumer.client().committed(&group, queue).await.expect("answered") == Some(QueueOffset(1000)) {
                    return None;
                }
            }
            Some(())
        };
        eventually("the positions", stands).await;
        producer.send(Message::new(topic.clone(), "later")).await.expect("stored");
        seen.reach(1).await;
        assert_eq!(seen.all(), ["later"]);
        consumer.shut_down().await;
    }
}

#[tokio::test]
async fn a_topic_that_appears_later_is_consumed() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = unique("later");
    let seen = Seen::default();
    let consumer = member(&cluster, &unique("g"), &topic, Filter::all()).concurrent(noting(&seen)).start().await;
    producer.send(Message::new(topic.clone(), "hello")).await.expect("stored");
    seen.reach(1).await;
    consumer.expect("valid").shut_down().await;
}
