//! The end of a broker: orderly, or because its disk failed.

use mq_protocol::codes::response;

use crate::harness::{Pull, Send, World, pulled};

#[tokio::test]
async fn an_orderly_stop_answers_what_it_has_read_and_closes_every_connection() {
    let world = World::new();
    let broker = world.start().await;
    let (mut client, mut idle) = (broker.connect().await, broker.connect().await);
    let mut opaques = Vec::new();
    for n in 0..50 {
        opaques.push(client.post(Send::to("T").body(n.to_string()).command()).await);
    }
    for opaque in opaques {
        assert_eq!(client.answer(opaque).await.code, response::SUCCESS);
    }
    client.post(Pull::of("T", 0, 50).waiting(std::time::Duration::from_secs(15)).command()).await;
    broker.stop().await.unwrap();
    assert!(client.read().await.is_none());
    assert!(idle.read().await.is_none());
    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(pulled(&client.call(Pull::of("T", 0, 0).command()).await).3, 50);
}
