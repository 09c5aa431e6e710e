//! Which brokers serve a topic, as the name servers say; what is known is served on while they are away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{MessageQueue, TopicRoute, perm};
use mq_protocol::topic::AUTO_CREATE;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::error::RouteError;
use crate::names::NameServers;

/// Queues of a topic that a send is about to create.
const SEEDED_QUEUES: u32 = 4;
/// A guessed route is asked for again soon: the topic exists once something was sent.
const SEEDED_FOR: Duration = Duration::from_secs(1);
const MASTER: u64 = 0;
/// Queues that a static order may name of one broker; a broker does not serve more.
const MAX_ORDER_QUEUES: u32 = 65_536;

/// One topic's queues and brokers.
#[derive(Debug)]
pub(crate) struct Route {
    topic: ByteString,
    /// Queues that take sends, by broker name and queue id, on brokers that have a master; with a static order, its
    /// queues, wherever their brokers are: a message of an order goes to its queue or nowhere.
    pub(crate) writable: Vec<Arc<MessageQueue>>,
    /// Queues to read, in the order that allocation needs.
    pub(crate) readable: Vec<Arc<MessageQueue>>,
    brokers: BTreeMap<String, BTreeMap<u64, ByteString>>,
    turn: AtomicUsize,
    source: TopicRoute,
}

impl Route {
    fn new(topic: &str, source: TopicRoute, seeded: bool) -> Self {
        let brokers: BTreeMap<String, BTreeMap<u64, ByteString>> = source
            .broker_datas
            .iter()
            .map(|broker| {
                let addresses = broker.broker_addrs.iter().map(|(id, address)| (*id, address.as_str().into()));
                (broker.broker_name.clone(), addresses.collect())
            })
            .collect();
        let has_master = |name: &str| brokers.get(name).is_some_and(|addresses| addresses.contains_key(&MASTER));
        let queue = |broker: &str, id: u32| {
            Arc::new(MessageQueue { topic: topic.into(), broker_name: broker.into(), queue_id: id })
        };
        let (mut writable, mut readable) = (Vec::new(), Vec::new());
        for data in &source.queue_datas {
            let name = &data.broker_name;
            if perm::writable(data.perm) && has_master(name) {
                let queues = if seeded { data.write_queue_nums.min(SEEDED_QUEUES) } else { data.write_queue_nums };
                writable.extend((0..queues).map(|id| queue(name, id)));
            }
            if perm::readable(data.perm) && brokers.contains_key(name) && !seeded {
                readable.extend((0..data.read_queue_nums).map(|id| queue(name, id)));
            }
        }
        if let Some(order) = source.order_topic_conf.as_deref().map(static_order).filter(|_| !seeded)
            && !order.is_empty()
        {
            writable = order.iter().flat_map(|(broker, queues)| (0..*queues).map(|id| queue(broker, id))).collect();
        }
        writable.sort();
        readable.sort();
        let turn = AtomicUsize::new(rand::random_range(0..usize::MAX / 2));
        Self { topic: topic.into(), writable, readable, brokers, turn, source }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// A number that grows with every send, to go round the queues.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn master(&self, broker: &str) -> Option<&ByteString> {
        self.brokers.get(broker)?.get(&MASTER)
    }

    /// This member of a broker's group, else its master, else any.
    pub(crate) fn member(&self, broker: &str, id: u64) -> Option<&ByteString> {
        let members = self.brokers.get(broker)?;
        members.get(&id).or_else(|| members.get(&MASTER)).or_else(|| members.values().next())
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &ByteString> {
        self.brokers.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn masters(&self) -> impl Iterator<Item = &ByteString> {
        self.brokers.values().filter_map(|members| members.get(&MASTER))
    }

    /// The brokers that have a master, by name.
    pub(crate) fn named_masters(&self) -> impl Iterator<Item = (&str, &ByteString)> {
        self.brokers.iter().filter_map(|(name, members)| Some((name.as_ref(), members.get(&MASTER)?)))
    }

    /// Whether a send that fails on this broker can go to another.
    pub(crate) fn has_other_writable(&self, broker: &str) -> bool {
        self.writable.iter().any(|queue| queue.broker_name != broker)
    }
}

/// `broker:queues;broker:queues`, as an operator wrote it. What is not of that form is passed over.
fn static_order(text: &str) -> BTreeMap<&str, u32> {
    let read = |part| {
        let (broker, queues) = str::split_once(part, ':')?;
        Some((broker.trim(), queues.trim().parse::<u32>().ok()?.min(MAX_ORDER_QUEUES)))
    };
    text.split(';').filter_map(read).filter(|(_, queues)| *queues > 0).collect()
}

/// All routes that this client asked for.
pub(crate) struct Routes {
    names: NameServers,
    known: RwLock<HashMap<ByteString, Arc<Route>>>,
    /// Routes of topics that do not exist yet, made from the topic that new topics inherit from.
    seeded: RwLock<HashMap<ByteString, (Arc<Route>, Instant)>>,
    /// Topics to keep asking for although nobody knows them yet.
    wanted: RwLock<BTreeSet<ByteString>>,
}

impl Routes {
    pub(crate) fn new(names: NameServers) -> Self {
        Self { names, known: RwLock::default(), seeded: RwLock::default(), wanted: RwLock::default() }
    }

    pub(crate) fn names(&self) -> &NameServers {
        &self.names
    }

    /// The route to send by. A topic that does not exist yet gets the brokers that would create it.
    pub(crate) async fn for_sending(&self, topic: &ByteString) -> Result<Arc<Route>, RouteError> {
        if let Some(known) = self.known(topic) {
            return Ok(known);
        }
        let seeded = self.seeded.read().get(topic).cloned();
        if let Some((route, until)) = &seeded
            && *until > Instant::now()
        {
            return Ok(route.clone());
        }
        let asked = match self.refresh(topic).await {
            Err(RouteError::NoTopic { topic, names }) => self.seed(topic, names).await,
            other => other,
        };
        // Brokers that are away are no reason to forget them.
        asked.or_else(|error| seeded.map(|(route, _)| route).ok_or(error))
    }

    /// The route to read by.
    pub(crate) async fn get(&self, topic: &ByteString) -> Result<Arc<Route>, RouteError> {
        match self.known(topic) {
            Some(known) => Ok(known),
            None => self.refresh(topic).await,
        }
    }

    pub(crate) fn known(&self, topic: &str) -> Option<Arc<Route>> {
        self.known.read().get(topic).cloned()
    }

    /// The route to send by, if it was ever found.
    pub(crate) fn found(&self, topic: &str) -> Option<Arc<Route>> {
        self.known(topic).or_else(|| self.seeded.read().get(topic).map(|(route, _)| route.clone()))
    }

    /// Asks the name servers. When they are away, or do not know the topic any more, what is known stays.
    pub(crate) async fn refresh(&self, topic: &ByteString) -> Result<Arc<Route>, RouteError> {
        match self.names.route(topic).await {
            Ok(source) => Ok(self.learn(topic, source)),
            Err(error) => self.known(topic).ok_or(error),
        }
    }

    fn learn(&self, topic: &ByteString, source: TopicRoute) -> Arc<Route> {
        let mut known = self.known.write();
        if let Some(same) = known.get(topic).filter(|route| route.source == source) {
            return same.clone();
        }
        let route = Arc::new(Route::new(topic, source, false));
        known.insert(topic.clone(), route.clone());
        self.seeded.write().remove(topic);
        route
    }

    async fn seed(&self, topic: ByteString, names: String) -> Result<Arc<Route>, RouteError> {
        let source = match self.names.route(&ByteString::from_static(AUTO_CREATE)).await {
            Ok(source) => source,
            Err(RouteError::NoTopic { .. }) => return Err(RouteError::NoTopic { topic, names }),
            Err(error) => return Err(error),
        };
        let route = Arc::new(Route::new(&topic, source, true));
        self.seeded.write().insert(topic, (route.clone(), Instant::now() + SEEDED_FOR));
        Ok(route)
    }

    /// Keeps this topic's route fresh from now on, even if nobody knows it yet.
    pub(crate) fn want(&self, topic: ByteString) {
        self.wanted.write().insert(topic);
    }

    pub(crate) fn missing(&self) -> Vec<ByteString> {
        let known = self.known.read();
        self.wanted.read().iter().filter(|topic| !known.contains_key(*topic)).cloned().collect()
    }

    pub(crate) async fn refresh_all(&self) {
        let mut topics: BTreeSet<ByteString> = self.known.read().keys().cloned().collect();
        topics.extend(self.wanted.read().iter().cloned());
        for topic in topics {
            if let Err(error) = self.refresh(&topic).await {
                tracing::debug!(%error, "route not refreshed");
            }
        }
    }

    /// Every broker of every route; `slaves` too, or masters only.
    pub(crate) fn addresses(&self, slaves: bool) -> BTreeSet<ByteString> {
        let known = self.known.read();
        let seeded = self.seeded.read();
        let routes = known.values().chain(seeded.values().map(|(route, _)| route));
        if slaves {
            routes.flat_map(|route| route.addresses().cloned()).collect()
        } else {
            routes.flat_map(|route| route.masters().cloned()).collect()
        }
    }

    /// The master of a broker, from whichever route knows it.
    pub(crate) fn master_of(&self, broker: &str) -> Option<ByteString> {
        let known = self.known.read();
        let seeded = self.seeded.read();
        known.values().chain(seeded.values().map(|(route, _)| route)).find_map(|route| route.master(broker).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(perms: &[(&str, u32, bool)]) -> TopicRoute {
        let mut route = TopicRoute::default();
        for (index, (name, perm, master)) in perms.iter().enumerate() {
            let id = if *master { 0 } else { 1 };
            route.broker_datas.push(mq_protocol::body::BrokerData {
                broker_addrs: [(id, format!("10.0.0.{index}:1"))].into(),
                broker_name: (*name).into(),
                ..Default::default()
            });
            route.queue_datas.push(mq_protocol::body::QueueData {
                broker_name: (*name).into(),
                perm: *perm,
                read_queue_nums: 2,
                write_queue_nums: 8,
                topic_sys_flag: 0,
            });
        }
        route
    }

    #[test]
    fn queues_follow_permissions_and_masters_and_are_sorted() {
        for (perms, seeded, writable, readable) in [
            (&[("b", 6, true), ("a", 6, true)][..], false, 16, 4),
            (&[("a", 4, true)], false, 0, 2),
            (&[("a", 2, true)], false, 8, 0),
            (&[("a", 6, false)], false, 0, 2),
            (&[("a", 7, true)], true, 4, 0),
        ] {
            let route = Route::new("T", source(perms), seeded);
            assert_eq!((route.writable.len(), route.readable.len()), (writable, readable), "{perms:?}");
            assert!(route.writable.is_sorted() && route.readable.is_sorted());
        }
        let route = Route::new("T", source(&[("a", 6, true), ("s", 6, false)]), false);
        assert_eq!(route.master("s"), None);
        assert_eq!(route.member("s", 0).map(|address| &**address), Some("10.0.0.1:1"));
        assert!(!route.has_other_writable("a"));
    }
    #[test]
    fn a_static_order_says_where_to_send_and_all_queues_are_read() {
        let names = |order: &str, seeded| {
            let source =
                TopicRoute { order_topic_conf: Some(order.into()), ..source(&[("a", 6, true), ("b", 4, true)]) };
            let route = Route::new("T", source, seeded);
            assert_eq!(route.readable.len(), if seeded { 0 } else { 4 }, "{order:?}");
            let writable = route.writable.iter().map(|queue| format!("{}{}", queue.broker_name, queue.queue_id));
            writable.collect::<Vec<_>>().join(" ")
        };
        for (order, writable) in [
            ("a:2;b:1", "a0 a1 b0"),
            ("gone:2", "gone0 gone1"),
            (" b : 1 ;", "b0"),
            ("b:1;a:x;c", "b0"),
            ("", "a0 a1 a2 a3 a4 a5 a6 a7"),
            ("nonsense", "a0 a1 a2 a3 a4 a5 a6 a7"),
            ("a:0", "a0 a1 a2 a3 a4 a5 a6 a7"),
        ] {
            assert_eq!(names(order, false), writable, "{order:?}");
        }
        assert_eq!(names("b:1", true), "a0 a1 a2 a3", "a topic that does not exist yet has no order");
        assert_eq!(static_order("a:4000000000")["a"], MAX_ORDER_QUEUES);
    }
}
