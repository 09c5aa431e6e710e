//! Placing and reading orders.

use std::collections::HashSet;

use order_service::clock::Clock;
use order_service::orders::{NewOrder, Orders, PlaceError, ReadError};
use order_service::tables::order;
use tokio::task::JoinSet;

use crate::support::TestDatabase;

fn book() -> NewOrder {
    NewOrder { item: "book".into(), quantity: 2, unit_price_minor: 1999, currency: "CNY".into() }
}

fn id_of(reply: &str) -> String {
    serde_json::from_str::<order::Model>(reply).unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_requests_with_one_key_place_one_order() {
    let database = TestDatabase::new().await;
    let orders = Orders::new(database.db.clone(), Clock::system());
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let orders = orders.clone();
        requests.spawn(async move { orders.place("alice", "key-1", &book()).await.unwrap() });
    }
    let replies: HashSet<String> = requests.join_all().await.into_iter().collect();
    assert_eq!(replies.len(), 1, "every request gets the same reply");
    assert_eq!(orders.list("alice").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_user() {
    let database = TestDatabase::new().await;
    let orders = Orders::new(database.db.clone(), Clock::system());
    let first = orders.place("alice", "k", &book()).await.unwrap();
    assert_eq!(orders.place("alice", "k", &book()).await.unwrap(), first);
    let other = NewOrder { quantity: 3, ..book() };
    assert!(matches!(orders.place("alice", "k", &other).await, Err(PlaceError::KeyReused)));
    assert_ne!(orders.place("bob", "k", &book()).await.unwrap(), first, "another user's key is another key");
    assert_ne!(orders.place("alice", "k2", &book()).await.unwrap(), first);
}

#[tokio::test]
async fn impossible_orders_are_refused_and_leave_nothing_behind() {
    let database = TestDatabase::new().await;
    let orders = Orders::new(database.db.clone(), Clock::system());
    let cases = [
        ("k", NewOrder { quantity: 0, ..book() }, "quantity must be above zero, got 0"),
        ("k", NewOrder { quantity: -1, ..book() }, "quantity must be above zero, got -1"),
        ("k", NewOrder { unit_price_minor: -1999, ..book() }, "unit_price_minor must be above zero, got -1999"),
        ("k", NewOrder { unit_price_minor: i64::MAX, ..book() }, "is above the limit of 1000000000000"),
        ("k", NewOrder { unit_price_minor: 900_000_000_000, ..book() }, "amount_minor of 1800000000000 is above"),
        ("k", NewOrder { currency: "yuan".into(), ..book() }, "currency must be three capital letters"),
        ("k", NewOrder { item: String::new(), ..book() }, "item must have"),
        ("", book(), "Idempotency-Key must have"),
    ];
    for (key, order, expect) in cases {
        let refused = orders.place("alice", key, &order).await.unwrap_err().to_string();
        assert!(refused.contains(expect), "{order:?}: {refused}");
    }
    assert!(orders.list("alice").await.unwrap().is_empty());
    assert!(orders.place("alice", "k", &book()).await.is_ok(), "a refused request does not use its key up");
}

#[tokio::test]
async fn users_read_their_own_orders_only() {
    let database = TestDatabase::new().await;
    let orders = Orders::new(database.db.clone(), Clock::system());
    let id = id_of(&orders.place("alice", "k", &book()).await.unwrap());
    assert_eq!(orders.read("alice", &id).await.unwrap().amount_minor, 3998);
    assert!(matches!(orders.read("bob", &id).await, Err(ReadError::NotYours(_))));
    assert!(matches!(orders.read("alice", "nothing").await, Err(ReadError::Unknown(_))));
    assert!(orders.list("bob").await.unwrap().is_empty());
}
