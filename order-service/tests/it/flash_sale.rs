//! The order side of a flash sale: purchases come from the queue, unpaid orders go by a delayed message.

use std::sync::{Arc, Mutex};

use mq_client::Producer;
use order_service::events::{self, CloseDue, OrderClosed, Purchase};
use order_service::listen::Listener;
use order_service::sales::{Figures, GatePlan};
use order_service::tables::OrderState;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shop::Shop;

/// A shop with one sale, a producer that plays the gate, and everything that ORDER_CLOSED said.
struct Sale {
    shop: Shop,
    producer: Producer,
    epoch: i64,
    closed: Arc<Mutex<Vec<OrderClosed>>>,
    _stop: DropGuard,
}

impl Sale {
    async fn open(pieces: i64) -> Sale {
        let shop = Shop::open().await;
        let new = json!({ "id": "s1", "item": "phone", "unit_price_minor": 500, "pieces": pieces });
        assert!(shop.post("op", "sales", &new).await.status().is_success());
        let plan: GatePlan = shop.post("op", "sales/s1/gate-plan", &json!({})).await.json().await.unwrap();
        let producer = Producer::builder(shop.cluster.name_servers()).group("gate").build().await.unwrap();
        let closed: Arc<Mutex<Vec<OrderClosed>>> = Arc::default();
        let heard = closed.clone();
        let listener = Listener::new(&shop.cluster.name_servers(), "test-closed");
        let listener = listener.on(events::ORDER_CLOSED, move |event: OrderClosed| {
            heard.lock().unwrap().push(event);
            async { Ok::<(), std::convert::Infallible>(()) }
        });
        let shutdown = CancellationToken::new();
        tokio::spawn(listener.run_until(shutdown.clone()));
        Sale { shop, producer, epoch: plan.sale.epoch, closed, _stop: shutdown.drop_guard() }
    }

    async fn send(&self, id: &str, user: &str, epoch: i64) {
        let (purchase_id, user_id) = (id.to_owned(), user.to_owned());
        let purchase = Purchase { purchase_id, sale_id: "s1".into(), user_id, quantity: 1, epoch };
        self.producer.send(events::message(events::SALE_PURCHASE, id, &purchase)).await.unwrap();
    }

    async fn send_close(&self, id: &str) {
        let due = CloseDue { order_id: id.to_owned() };
        self.producer.send(events::message(events::ORDER_CLOSE_DUE, id, &due)).await.unwrap();
    }

    async fn figures(&self) -> Figures {
        let figures: Figures = self.shop.get("op", "sales/s1").await.json().await.unwrap();
        assert_eq!(figures.sold + figures.reserved + figures.left, figures.initial, "{figures:?}");
        figures
    }

    fn closed(&self) -> Vec<(String, String)> {
        let mut closed: Vec<_> =
            self.closed.lock().unwrap().iter().map(|it| (it.order_id.clone(), it.reason.clone())).collect();
        closed.sort();
        closed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_order_is_closed_and_its_piece_returned_once_however_often_the_messages_come() {
    let sale = Sale::open(3).await;
    sale.send_close("p1").await; // before there is an order: does nothing
    for _ in 0..3 {
        sale.send("p1", "ann", sale.epoch).await;
    }
    sale.shop.until("the order is there", async || sale.figures().await.orders == 1).await;
    for _ in 0..3 {
        sale.send_close("p1").await;
    }
    sale.shop.until("the order is closed", async || sale.closed().len() == 1).await;
    sale.send("p2", "bob", sale.epoch).await;
    sale.shop.until("its own delayed message came too", async || sale.closed().len() == 2).await;
    let unpaid = |id: &str| (id.to_owned(), "unpaid".to_owned());
    assert_eq!(sale.closed(), [unpaid("p1"), unpaid("p2")]);
    let figures = sale.figures().await;
    assert_eq!((figures.sold, figures.reserved, figures.left, figures.orders), (0, 0, 3, 2));
    assert_eq!(sale.shop.state("ann", "p1").await, OrderState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn purchases_beyond_the_truth_are_refused_and_their_reservations_given_back() {
    let sale = Sale::open(2).await;
    sale.send("old", "old", sale.epoch - 1).await;
    sale.send("p1", "ann", sale.epoch).await;
    sale.shop.until("ann's order", async || sale.figures().await.orders == 1).await;
    sale.send("p2", "ann", sale.epoch).await;
    sale.send("p3", "bob", sale.epoch).await;
    sale.shop.until("bob's order", async || sale.figures().await.orders == 2).await;
    sale.send("p4", "cat", sale.epoch).await;
    sale.send("p4", "cat", sale.epoch).await;
    let refused = |id: &str, why: &str| (id.to_owned(), why.to_owned());
    let expect = [refused("old", "old_gate"), refused("p2", "limited"), refused("p4", "sold_out")];
    sale.shop.until("the refusals", async || expect.iter().all(|it| sale.closed().contains(it))).await;
    let outcome: serde_json::Value = sale.shop.get("op", "purchases/p4").await.json().await.unwrap();
    assert_eq!(outcome, json!({ "state": "refused", "reason": "sold_out" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_of_a_sale_stays_paid_when_its_close_comes() {
    let sale = Sale::open(2).await;
    sale.send("p1", "ann", sale.epoch).await;
    sale.shop.until("the order is there", async || sale.figures().await.orders == 1).await;
    let paying: serde_json::Value = sale.shop.post("ann", "orders/p1/pay", &json!({})).await.json().await.unwrap();
    let charged = order_service::payments::Charged {
        charge_id: "c1".into(),
        pay_id: paying["pay_id"].as_str().unwrap().into(),
        order_id: "p1".into(),
        amount_minor: 500,
        currency: "CNY".into(),
    };
    assert_eq!(sale.shop.callback(&charged).await, (200, "paid".into()));
    sale.send_close("p1").await;
    // A later order has the same delay: when it is closed, the close that went ahead of p1 was due, too.
    sale.send("p2", "bob", sale.epoch).await;
    sale.shop.until("the later order is closed", async || sale.closed().len() == 1).await;
    assert_eq!(sale.shop.state("ann", "p1").await, OrderState::Paid);
    let figures = sale.figures().await;
    assert_eq!((figures.sold, figures.reserved, figures.left), (1, 0, 1));
    assert_eq!(sale.closed(), [("p2".to_owned(), "unpaid".to_owned())]);
}
