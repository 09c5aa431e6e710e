//! Name server and broker as processes of their own.

use std::net::TcpListener;

use mq_protocol::codes::response;

use crate::process::Mq;
use crate::wire::Client;

#[test]
fn a_broker_finds_a_name_server_that_comes_late_or_comes_back_and_says_goodbye_to_it() {
    let directory = tempfile::tempdir().expect("a directory");
    // Free when it is dropped; the name server comes back to the same port.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port().to_string();
    let at = format!("127.0.0.1:{port}");
    let store = directory.path().to_str().expect("a plain path");
    let mut broker = Mq::start(&["broker", "--store", store, "--port", "0", "-n", &at]);
    let name_server = || {
        let mut mq = Mq::start(&["namesrv", "--port", &port]);
        mq.until_ready();
        mq
    };

    let first = name_server();
    let mut client = Client::connect(first.address("name server "));
    client.until_route_is("TBW102", response::SUCCESS);
    broker.until_ready();
    Client::connect(broker.broker()).send("orders", "one");
    client.until_route_is("orders", response::SUCCESS);

    first.kill();
    let second = name_server();
    let mut client = Client::connect(second.address("name server "));
    client.until_route_is("orders", response::SUCCESS);

    assert!(broker.stop().success());
    assert_eq!(client.route("orders"), response::TOPIC_NOT_EXIST, "it unregistered before it ended");
    assert!(second.stop().success());
}

#[test]
fn a_broker_without_a_name_server_serves_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().to_str().expect("a plain path");
    let mut broker = Mq::start(&["broker", "--store", store, "--port", "0"]);
    broker.until_ready();
    assert!(broker.said.iter().any(|line| line.starts_with("registered   nowhere")), "{:?}", broker.said);
    assert_eq!(Client::connect(broker.broker()).send("orders", "one").queue_offset.0, 0);
    assert!(broker.stop().success());
}
