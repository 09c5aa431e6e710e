//! Registration, expiry and removal on the bare table: time is a number.

use super::*;

const EXPIRY: Duration = Duration::from_secs(120);

fn identity(name: &str, id: u64, addr: &str) -> Identity {
    Identity { cluster: "C".into(), name: name.into(), id, addr: addr.into() }
}

fn registration(broker: Identity, counter: i64, topics: &[&str]) -> Registration {
    Registration {
        broker,
        ha_addr: Some("ha".into()),
        zone: None,
        acting_master: false,
        timeout: None,
        version: DataVersion { counter, ..DataVersion::default() },
        topics: topics
            .iter()
            .map(|topic| ((*topic).to_owned(), TopicConfig::new(*topic, 4, perm::READ_WRITE)))
            .collect(),
    }
}

fn seconds(seconds: i64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

/// A table with master a (connection 1) of topics T and U, heard at second 0.
fn with_master() -> Routes {
    let mut routes = Routes::new(EXPIRY, 1_000, 1_000_000);
    let whole = registration(identity("a", 0, "a:1"), 1, &["T", "U"]);
    routes.register(whole, ConnectionId(1), seconds(0)).expect("registers");
    routes
}

fn perm_of(routes: &Routes, topic: &str) -> Option<u32> {
    routes.route(topic).map(|route| route.queue_datas[0].perm)
}

#[test]
fn a_new_broker_must_register_its_whole_table_and_may_then_add_single_topics() {
    let mut routes = Routes::new(EXPIRY, 1_000, 1_000_000);
    let single = |counter| registration(identity("a", 0, "a:1"), counter, &["X"]);
    let refused = routes.register(single(1), ConnectionId(1), seconds(0));
    assert_eq!(refused, Err(RegisterError::SingleTopicFirst("a".into())));
    assert_eq!(routes.clusters(), ClusterInfo::default());
    let mut routes = with_master();
    routes.register(single(2), ConnectionId(1), seconds(1)).expect("an increment");
    assert_eq!(routes.topics(), ["T", "U", "X"]);
}

#[test]
fn a_silent_broker_leaves_the_routes_after_its_timeout_and_not_before() {
    for (timeout, at, alive) in [
        (None, 120, true),
        (None, 121, false),
        (Some(Duration::from_secs(3)), 3, true),
        (Some(Duration::from_secs(3)), 4, false),
    ] {
        let mut routes = Routes::new(EXPIRY, 1_000, 1_000_000);
        let registration = Registration { timeout, ..registration(identity("a", 0, "a:1"), 1, &["T", "U"]) };
        routes.register(registration, ConnectionId(1), seconds(0)).expect("registers");
        routes.expire(seconds(at));
        assert_eq!(routes.route("T").is_some(), alive, "{timeout:?} at {at}");
        assert_eq!(routes.topics().is_empty(), !alive);
    }
    let mut routes = with_master();
    routes.touch("C", "a:1", seconds(100));
    assert!(routes.expire(seconds(200)).is_empty(), "a heartbeat is a sign of life");
    assert_eq!(routes.expire(seconds(221)).len(), 1);
}

#[test]
fn a_closed_connection_removes_its_broker_unless_it_came_back_over_another() {
    let mut routes = with_master();
    let again = registration(identity("a", 0, "a:1"), 1, &["T", "U"]);
    routes.register(again, ConnectionId(2), seconds(1)).expect("registers");
    assert!(routes.connection_closed(ConnectionId(1)).is_empty());
    assert!(routes.route("T").is_some());
    assert_eq!(routes.connection_closed(ConnectionId(2)), [identity("a", 0, "a:1")]);
    assert!(routes.route("T").is_none());
}

#[test]
fn a_wiped_permission_comes_back_only_with_a_changed_version() {
    let mut routes = with_master();
    assert_eq!(routes.set_writable("a", false), 2);
    assert_eq!(perm_of(&routes, "T"), Some(perm::READ));
    let again = |counter| registration(identity("a", 0, "a:1"), counter, &["T", "U"]);
    routes.register(again(1), ConnectionId(1), seconds(1)).expect("registers");
    assert_eq!(perm_of(&routes, "T"), Some(perm::READ), "same version");
    routes.register(again(2), ConnectionId(1), seconds(2)).expect("registers");
    assert_eq!(perm_of(&routes, "T"), Some(perm::READ_WRITE), "new version");
    routes.set_writable("a", false);
    assert_eq!((routes.set_writable("a", true), perm_of(&routes, "T")), (2, Some(perm::READ_WRITE)));
    assert_eq!(routes.set_writable("nobody", false), 0);
}

#[test]
fn a_slave_learns_its_master_and_keeps_one_row_when_it_is_promoted() {
    let mut routes = with_master();
    let slave = registration(identity("a", 1, "a:2"), 1, &["T", "OnlyOnSlave"]);
    let learnt = routes.register(slave, ConnectionId(2), seconds(0)).expect("registers");
    assert_eq!(learnt, Registered { master_addr: Some("a:1".into()), ha_addr: Some("ha".into()) });
    assert!(routes.route("OnlyOnSlave").is_none(), "topics come from the master");
    routes.connection_closed(ConnectionId(1));
    assert!(routes.route("T").is_some(), "the slave still serves reads");
    let promoted = registration(identity("a", 0, "a:2"), 2, &["T", "U"]);
    routes.register(promoted, ConnectionId(2), seconds(1)).expect("registers");
    let addrs = &routes.broker("a").expect("known").broker_addrs;
    assert_eq!(addrs.iter().collect::<Vec<_>>(), [(&0, &"a:2".to_owned())]);
}

#[test]
fn an_older_state_does_not_take_over_a_live_address() {
    let mut routes = Routes::new(EXPIRY, 1_000, 1_000_000);
    let with_state = |addr: &str, state_version| Registration {
        version: DataVersion { state_version, ..DataVersion::default() },
        ..registration(identity("a", 0, addr), 0, &["T", "U"])
    };
    routes.register(with_state("a:1", 5), ConnectionId(1), seconds(0)).expect("registers");
    assert!(matches!(
        routes.register(with_state("a:2", 4), ConnectionId(2), seconds(0)),
        Err(RegisterError::Outdated { .. })
    ));
    routes.register(with_state("a:3", 5), ConnectionId(3), seconds(0)).expect("an equal state takes over");
    assert_eq!(routes.broker("a").expect("known").broker_addrs[&0], "a:3");
}

#[test]
fn deleting_a_topic_may_be_limited_to_a_cluster() {
    let mut routes = with_master();
    let other = Identity { cluster: "D".into(), ..identity("b", 0, "b:1") };
    routes.register(registration(other, 1, &["T", "V"]), ConnectionId(2), seconds(0)).expect("registers");
    assert_eq!(routes.topics_of_cluster("D"), ["T", "V"]);
    routes.delete_topic("T", Some("D"));
    let route = routes.route("T").expect("still in C");
    assert_eq!(route.broker_datas.iter().map(|broker| &*broker.broker_name).collect::<Vec<_>>(), ["a"]);
    routes.delete_topic("T", None);
    assert!(routes.route("T").is_none());
    assert_eq!(routes.topics(), ["U", "V"]);
}

#[test]
fn unregistering_one_broker_leaves_the_others_of_its_topic() {
    let mut routes = with_master();
    routes
        .register(registration(identity("b", 0, "b:1"), 1, &["T", "V"]), ConnectionId(2), seconds(0))
        .expect("registers");
    routes.unregister(&identity("a", 0, "a:1"));
    let route = routes.route("T").expect("b serves it");
    assert_eq!((route.broker_datas.len(), &*route.queue_datas[0].broker_name), (1, "b"));
    assert_eq!(routes.topics(), ["T", "V"]);
    let moved = identity("b", 0, "elsewhere:1");
    routes.unregister(&moved);
    assert!(routes.route("T").is_some(), "an address that is not held removes nothing");
}

#[test]
fn brokers_and_topics_are_limited_and_make_room_when_they_go() {
    let mut routes = Routes::new(EXPIRY, 2, 4);
    let mut register = |name: &str, addr: &str, topics: &[&str]| {
        let outcome = routes.register(registration(identity(name, 0, addr), 1, topics), ConnectionId(1), seconds(0));
        let rows: usize = routes.topics.values().map(BTreeMap::len).sum();
        assert_eq!((routes.rows, routes.brokers.len()), (rows, routes.alive.len()), "{name} {addr}");
        outcome.map(drop)
    };
    let too_many_topics = |count| Err(RegisterError::TooManyTopics { count, limit: 4 });
    let too_many_brokers = Err(RegisterError::TooManyBrokers { limit: 2 });
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    for (name, addr, topics, expected) in [
        ("a", "a:1", &["T", "U"][..], Ok(())),
        ("b", "b:1", &["T", "V", "W"], too_many_topics(5)),
        ("b", "b:1", &["T", "V"], Ok(())),
        ("c", "c:1", &["T", "U"], too_many_brokers.clone()),
        ("b", "b:1", &["X"], too_many_topics(5)),
        ("a", "a:1", &["T", "U"], Ok(())),
        ("c", "a:1", &["T", "U"], Ok(())),
        ("a", "d:1", &["T", "U"], too_many_brokers),
        ("b", &long, &["T"], Err(RegisterError::NameTooLong { what: "broker's address", bytes: MAX_NAME_BYTES + 1 })),
    ] {
        assert_eq!(register(name, addr, topics), expected, "{name} {addr} {topics:?}");
    }
    assert!(routes.broker("a").is_none(), "its address has another name now");
    let queue = |broker: &str| queue_data(broker, &TopicConfig::new("X", 1, perm::READ_WRITE));
    assert_eq!(routes.add_topic("X", vec![queue("b")]), too_many_topics(5));
    routes.delete_topic("V", None);
    assert_eq!(routes.add_topic("X", vec![queue("b")]), Ok(()));
    routes.unregister(&identity("b", 0, "b:1"));
    assert_eq!(routes.rows, 2);
}
