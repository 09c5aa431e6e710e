//! Heartbeats, departures and expiry on the bare registry: connections without sockets, time as a number.

use mq_protocol::body::{ConsumerData, MessageModel, Subscription};

use super::*;
use crate::connection::Mail;

fn connection(id: u64) -> Connection {
    Connection::new(ConnectionId(id), "127.0.0.1:1".parse().expect("an address"))
}

fn seconds(seconds: i64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

fn consumer(client: &str, group: &str, topics: &[&str], sub_version: i64) -> HeartbeatData {
    let subscriptions = topics.iter().map(|topic| Subscription::tags(topic, "*", sub_version)).collect();
    HeartbeatData {
        client_id: client.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.into(),
            subscription_data_set: subscriptions,
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    }
}

fn producer(client: &str, group: &str, topics: &[&str]) -> HeartbeatData {
    let checkback_topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
    HeartbeatData {
        client_id: client.into(),
        producer_data_set: vec![ProducerData { group_name: group.into(), checkback_topics }],
        ..HeartbeatData::default()
    }
}

fn beat(clients: &Clients, connection: &Connection, data: &HeartbeatData, at: i64) -> Changed {
    let heartbeat = Heartbeat { connection, language: Language::JAVA, version: 493, data, now: seconds(at) };
    clients.heartbeat(&heartbeat).expect("valid")
}

fn ids(clients: &Clients, group: &str) -> Vec<String> {
    clients.consumer(group, ConsumerGroup::client_ids).unwrap_or_default()
}

#[test]
fn a_group_changes_when_members_or_subscriptions_do_and_not_otherwise() {
    let clients = Clients::default();
    let (one, two) = (connection(1), connection(2));
    for (connection, client, topics, version, changed) in [
        (&one, "c1", &["t"][..], 1, true),
        (&one, "c1", &["t"], 1, false),
        (&two, "c2", &["t"], 1, true),
        (&two, "c2", &["t"], 2, true),
        (&one, "c1", &["t"], 1, false),
        (&one, "c1", &["t", "u"], 1, true),
        (&one, "c1", &["u"], 1, true),
    ] {
        let groups = beat(&clients, connection, &consumer(client, "g", topics, version), 0);
        assert_eq!(!groups.is_empty(), changed, "{client} {topics:?} {version}");
    }
    assert_eq!(ids(&clients, "g"), ["c1", "c2"]);
    assert!(clients.subscription("g", "t").is_none());
    assert_eq!(clients.groups_of_topic("u"), ["g"]);
}

#[test]
fn an_older_subscription_does_not_replace_a_newer_one() {
    let clients = Clients::default();
    beat(&clients, &connection(1), &consumer("c1", "g", &["t"], 7), 0);
    beat(&clients, &connection(2), &consumer("c2", "g", &["t"], 3), 0);
    let held = clients.subscription("g", "t").expect("held");
    assert_eq!(held.sub_version, 7);
}

#[test]
fn broadcast_groups_are_not_told_of_changes() {
    let clients = Clients::default();
    let mut data = consumer("c1", "g", &["t"], 1);
    data.consumer_data_set[0].message_model = MessageModel::Broadcasting;
    assert!(beat(&clients, &connection(1), &data, 0).is_empty());
    assert!(clients.connection_closed(ConnectionId(1)).is_empty());
    assert!(ids(&clients, "g").is_empty());
}

#[test]
fn a_closed_connection_takes_all_of_its_clients_along() {
    let clients = Clients::default();
    beat(&clients, &connection(1), &consumer("c1", "g", &["t"], 1), 0);
    beat(&clients, &connection(2), &consumer("c2", "g", &["t"], 1), 0);
    beat(&clients, &connection(1), &consumer("c1", "h", &["t"], 1), 0);
    beat(&clients, &connection(1), &producer("c1", "p", &[]), 0);
    let mut changed = clients.connection_closed(ConnectionId(1));
    changed.sort();
    assert_eq!(changed, ["g", "h"]);
    assert_eq!(ids(&clients, "g"), ["c2"]);
    assert!(clients.producers("p").is_empty());
    assert!(clients.connection_closed(ConnectionId(1)).is_empty());
}

#[test]
fn silent_clients_are_dropped_and_disconnected_after_two_minutes() {
    let clients = Clients::default();
    let (silent, lively) = (connection(1), connection(2));
    beat(&clients, &silent, &consumer("c1", "g", &["t"], 1), 0);
    beat(&clients, &silent, &producer("c1", "p", &[]), 0);
    beat(&clients, &lively, &consumer("c2", "g", &["t"], 1), 30);
    assert!(clients.expire(seconds(120)).is_empty());
    assert_eq!(clients.expire(seconds(121)), ["g"]);
    assert_eq!(ids(&clients, "g"), ["c2"]);
    assert!(clients.producers("p").is_empty());
    assert!(silent.is_closed());
    assert!(!lively.is_closed());
}

#[test]
fn members_are_told_by_a_oneway_request() {
    let clients = Clients::default();
    let (one, two, other) = (connection(1), connection(2), connection(3));
    beat(&clients, &one, &consumer("c1", "g", &["t"], 1), 0);
    beat(&clients, &two, &consumer("c2", "g", &["t"], 1), 0);
    beat(&clients, &other, &consumer("c3", "h", &["t"], 1), 0);
    two.close();
    clients.notify("g");
    clients.notify("nobody");
    let posted = one.take_posted();
    let [Mail::Command(told)] = &posted[..] else { panic!("one request") };
    assert!(told.is_oneway());
    assert_eq!((told.code, told.ext.get("consumerGroup").map(|group| &**group)), (40, Some("g")));
    assert!(other.take_posted().is_empty());
}

#[test]
fn a_heartbeat_without_subscriptions_keeps_those_that_are_known() {
    let clients = Clients::default();
    let one = connection(1);
    let full = HeartbeatData { heartbeat_fingerprint: 77, ..consumer("c1", "g", &["t"], 1) };
    let mut light = HeartbeatData { without_sub: true, ..full.clone() };
    light.consumer_data_set[0].subscription_data_set.clear();
    assert!(!clients.knows_subscriptions(one.id(), &light), "a broker that restarted asks for them");
    beat(&clients, &one, &full, 0);
    assert!(clients.knows_subscriptions(one.id(), &light));
    assert!(beat(&clients, &one, &light, 100).is_empty());
    assert!(clients.subscription("g", "t").is_some());
    assert!(clients.expire(seconds(200)).is_empty(), "it is a sign of life");
    assert!(!clients.knows_subscriptions(one.id(), &HeartbeatData { heartbeat_fingerprint: 78, ..light }));
}

#[test]
fn the_sender_is_asked_first_then_who_declared_the_topic_then_the_others_in_turn() {
    let clients = Clients::default();
    let connections: Vec<_> = (0..4).map(connection).collect();
    for (connection, (client, topics)) in connections.iter().zip([
        ("plain", &[][..]),
        ("declared", &["orders"][..]),
        ("sender", &[]),
        ("plain2", &["other"]),
    ]) {
        beat(&clients, connection, &producer(client, "p", topics), 0);
    }
    let order_of = |sender: Option<&str>, turn: SenderTurn| -> Vec<u64> {
        let candidates = clients.producers_to_ask("p", "orders", sender, turn);
        candidates.iter().map(|(_, connection)| connection.id().0).collect()
    };
    let order = |sender: Option<&str>| order_of(sender, SenderTurn::First);
    let others = order_of(Some("sender"), SenderTurn::Last);
    assert_eq!((others[0], others[3]), (1, 2), "or last, when it did not know");
    let asked = order(Some("sender"));
    assert_eq!(asked[..2], [2, 1]);
    let firsts: HashSet<_> = (0..12).map(|_| order(Some("gone"))[1]).collect();
    assert_eq!(firsts, HashSet::from([0, 2, 3]), "after the one that declared the topic, all take turns");
    connections[2].close();
    assert_eq!(order(Some("sender"))[0], 1);
    assert!(clients.producers_to_ask("nobody", "orders", None, SenderTurn::First).is_empty());
}

#[test]
fn heartbeats_that_cannot_be_taken_are_named() {
    let many: Vec<String> = (0..5_000).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut groups = consumer("c", "g", &["t"], 1);
    groups.consumer_data_set = vec![groups.consumer_data_set[0].clone(); 5_000];
    for (data, bytes, error) in [
        (consumer("", "g", &["t"], 1), 100, "the heartbeat has no clientID"),
        (consumer("c", "g 1", &["t"], 1), 100, "the group name \"g 1\" may only have letters, digits and % | _ -"),
        (producer("c", "", &[]), 100, "the group name is empty"),
        (consumer("c", "g", &many, 1), 100, "the heartbeat names 5000 topics of a group, the limit is 1024"),
        (producer("c", "p", &many), 100, "the heartbeat names 5000 checkback topics, the limit is 1024"),
        (groups, 100, "the heartbeat names 5000 groups, the limit is 1024"),
        (consumer("c", "g", &["t"], 1), 2_000_000, "the heartbeat takes 2000000 bytes, the limit is 1048576"),
    ] {
        assert_eq!(check(&data, bytes).expect_err(error).to_string(), error);
    }
    assert!(check(&consumer("c", "g", &["t"], 1), 100).is_ok());
}

#[test]
fn a_connection_that_changes_its_id_takes_no_other_connection_along() {
    let clients = Clients::default();
    let (old, new) = (connection(1), connection(2));
    beat(&clients, &old, &producer("a", "p", &[]), 0);
    beat(&clients, &new, &producer("a", "p", &[]), 0);
    beat(&clients, &old, &producer("b", "p", &[]), 0);
    for (id, expected) in [("a", Some(&new)), ("b", Some(&old)), ("c", None)] {
        assert_eq!(clients.by_id(id).as_ref(), expected, "{id}");
    }
    clients.connection_closed(old.id());
    assert_eq!((clients.by_id("a").as_ref(), clients.by_id("b")), (Some(&new), None));
}

#[test]
fn a_connection_that_closes_takes_along_what_it_was_in_and_leaves_nothing_behind() {
    let clients = Clients::default();
    let (leaving, staying) = (connection(1), connection(2));
    for group in ["g1", "g2", "g3"] {
        beat(&clients, &leaving, &consumer("a", group, &["t"], 1), 0);
        beat(&clients, &leaving, &producer("a", group, &[]), 0);
    }
    beat(&clients, &staying, &consumer("b", "g2", &["t"], 1), 100);
    beat(&clients, &staying, &producer("b", "g2", &[]), 100);
    clients.unregister_consumer("g1", leaving.id());
    clients.unregister_producer("g1", leaving.id());
    let mut told = clients.connection_closed(leaving.id());
    told.sort_unstable();
    assert_eq!(told, ["g2", "g3"]);
    assert_eq!(clients.all_consumers().len(), 1);
    assert_eq!(clients.all_producers().keys().collect::<Vec<_>>(), ["g2"]);
    assert_eq!(clients.expire(seconds(300)), ["g2"]);
    assert!(clients.connection_closed(staying.id()).is_empty(), "it is forgotten already");
    let registry = clients.0.lock();
    assert!(registry.consumers.memberships.is_empty() && registry.producers.memberships.is_empty());
}
