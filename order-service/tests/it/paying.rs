//! From the callback to the red packet, on a real broker in this process.

use order_service::payments::Charged;
use order_service::tables::OrderState;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::shop::{Shop, Stamp};

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_have_an_effect_when_they_are_the_gateways_and_only_once() {
    let shop = Shop::open().await;
    let right = shop.order_to_pay("ann").await;
    let dearer = Charged { amount_minor: 1001, ..right.clone() };
    let cheaper = Charged { amount_minor: 1, ..right.clone() };
    let negative = Charged { amount_minor: -1000, ..right.clone() };
    let dollars = Charged { currency: "USD".into(), ..right.clone() };
    let nobodys = Charged { order_id: "nobody".into(), ..right.clone() };
    let unpaid = Charged { pay_id: "nothing".into(), ..right.clone() };
    let again = Charged { charge_id: "another".into(), ..right.clone() };
    let stamp = |nonce| Stamp { secret: "shared", age_s: 0, nonce };
    let cases = [
        (&right, Stamp { secret: "guessed", ..stamp("n1") }, 401, "forged_callback"),
        (&right, Stamp { age_s: 302, ..stamp("n2") }, 401, "stale_callback"),
        (&right, Stamp { age_s: -302, ..stamp("n3") }, 401, "stale_callback"),
        (&dearer, stamp("n4"), 422, "wrong_amount"),
        (&cheaper, stamp("n5"), 422, "wrong_amount"),
        (&negative, stamp("n6"), 422, "wrong_amount"),
        (&dollars, stamp("n7"), 422, "wrong_currency"),
        (&nobodys, stamp("n8"), 404, "unknown_order"),
        (&unpaid, stamp("n9"), 404, "unknown_order"),
        (&right, stamp("n4"), 409, "replayed_callback"),
        (&right, stamp("n10"), 200, "paid"),
        (&right, stamp("n10"), 409, "replayed_callback"),
        (&right, stamp("n11"), 200, "already_processed"),
        (&dearer, stamp("n12"), 422, "wrong_amount"),
        (&again, stamp("n13"), 409, "settled_by_another_charge"),
    ];
    for (charged, stamp, status, name) in cases {
        let before = shop.state("ann", &right.order_id).await;
        assert_eq!(shop.callback_with(charged, stamp).await, (status, name.to_owned()), "{}", stamp.nonce);
        let after = shop.state("ann", &right.order_id).await;
        assert_eq!(before != after, name == "paid", "{} changed the order", stamp.nonce);
    }
    shop.until("the red packet", async || shop.packets().await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_callbacks_about_one_charge_all_succeed_and_issue_one_packet() {
    let shop = std::sync::Arc::new(Shop::open().await);
    let charged = shop.order_to_pay("ann").await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (shop, charged) = (shop.clone(), charged.clone());
        calls.spawn(async move { shop.callback(&charged).await });
    }
    let replies = calls.join_all().await;
    assert_eq!(replies.iter().filter(|it| **it == (200, "paid".into())).count(), 1, "{replies:?}");
    assert_eq!(replies.iter().filter(|it| **it == (200, "already_processed".into())).count(), 19, "{replies:?}");
    let other = shop.order_to_pay("bob").await;
    shop.callback(&other).await;
    shop.until("both packets", async || shop.packets().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_and_cancelling_at_once_exactly_one_wins_and_late_money_goes_back() {
    const ORDERS: usize = 24;
    let shop = std::sync::Arc::new(Shop::open().await);
    let mut races = JoinSet::new();
    for _ in 0..ORDERS {
        let shop = shop.clone();
        races.spawn(async move {
            let charged = shop.order_to_pay("ann").await;
            let path = format!("orders/{}/cancel", charged.order_id);
            let empty = json!({});
            let (paid, cancelled) = tokio::join!(shop.callback(&charged), shop.post("ann", &path, &empty));
            let cancelled = cancelled.status().as_u16();
            (shop.state("ann", &charged.order_id).await, paid, cancelled, charged.pay_id)
        });
    }
    let mut paid_orders = 0;
    let mut owed = Vec::new();
    for (state, paid, cancelled, pay_id) in races.join_all().await {
        match state {
            OrderState::Paid => {
                assert_eq!((paid, cancelled), ((200, "paid".into()), 409));
                paid_orders += 1;
            }
            OrderState::Closed => {
                assert_eq!((paid, cancelled), ((200, "refund_due".into()), 200));
                owed.push(pay_id);
            }
            OrderState::Placed => panic!("nobody won"),
        }
    }
    owed.sort();
    shop.until("every late charge is refunded", async || {
        let mut refunds = shop.gateway.refunds();
        refunds.sort();
        refunds.dedup();
        refunds == owed
    })
    .await;
    shop.until("a packet for each paid order", async || shop.packets().await == paid_orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_cannot_be_published_is_not_accepted_and_heals_when_it_is_repeated() {
    let mut shop = Shop::open().await;
    let charged = shop.order_to_pay("ann").await;
    shop.cluster.stop_broker().await.unwrap();
    let (status, name) = shop.callback(&charged).await;
    assert_eq!((status, name.as_str()), (503, "queue_unavailable"));
    assert_eq!(shop.state("ann", &charged.order_id).await, OrderState::Placed);
    shop.cluster.restart().await.unwrap();
    shop.until("paid in the end", async || shop.callback(&charged).await.0 == 200).await;
    shop.until("the red packet", async || shop.packets().await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_interface_names_every_refusal() {
    let shop = Shop::open().await;
    let order = shop.place("ann", "k1").await;
    let post = async |user: &str, key: &str, path: &str, body: &str| -> (u16, String) {
        let request = shop.http.post(format!("{}/{path}", shop.url())).body(body.to_owned());
        let response = request.header("x-user", user).header("idempotency-key", key).send().await.unwrap();
        let status = response.status().as_u16();
        let reply: Value = response.json().await.unwrap();
        (status, reply["error"].as_str().unwrap_or("-").to_owned())
    };
    let book = r#"{"item":"book","unit_price_minor":1000}"#;
    let pen = r#"{"item":"pen","unit_price_minor":1000}"#;
    let negative = r#"{"item":"book","unit_price_minor":-1}"#;
    let huge = r#"{"item":"book","unit_price_minor":99999999999999999999}"#;
    let pay = format!("orders/{}/pay", order.id);
    let cancel = format!("orders/{}/cancel", order.id);
    let cases = [
        ("ann", "k1", "orders", book, 201, "-"),
        ("ann", "k1", "orders", pen, 422, "idempotency_key_reused"),
        ("ann", "", "orders", book, 422, "invalid_idempotency_key"),
        ("ann", "k2", "orders", negative, 422, "invalid_amount"),
        ("ann", "k2", "orders", huge, 400, "invalid_body"),
        ("ann", "k2", "orders", "{", 400, "invalid_body"),
        ("", "k2", "orders", book, 401, "no_user"),
        ("bob", "", &pay, "", 403, "not_your_order"),
        ("bob", "", &cancel, "", 403, "not_your_order"),
        ("ann", "", "orders/none/pay", "", 404, "unknown_order"),
        ("ann", "", "sales", book, 403, "not_admin"),
        ("ann", "", "nowhere", "", 404, "no_such_path"),
    ];
    for (user, key, path, body, status, name) in cases {
        assert_eq!(post(user, key, path, body).await, (status, name.to_owned()), "{user} {key} {path} {body}");
    }
    assert_eq!(shop.get("bob", &format!("orders/{}", order.id)).await.status().as_u16(), 403);
    let mine: Vec<Value> = shop.get("ann", "orders").await.json().await.unwrap();
    assert_eq!(mine.len(), 1);
}
