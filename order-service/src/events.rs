//! What order-service says and hears on the queue: topics and the bodies of their messages (JSON). The flash sale
//! imports these names; neither side imports the other's tables.

use mq_client::Message;
use serde::{Deserialize, Serialize};

/// An order was paid: published if and only if the payment committed.
pub const ORDER_PAID: &str = "ORDER_PAID";
/// An order was closed unpaid, or a purchase was refused: its reservation is free again.
pub const ORDER_CLOSED: &str = "ORDER_CLOSED";
/// Plain delayed message: close this order if it is still unpaid.
pub const ORDER_CLOSE_DUE: &str = "ORDER_CLOSE_DUE";
/// A reservation at the flash sale's gate: make an order of it.
pub const SALE_PURCHASE: &str = "SALE_PURCHASE";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPaid {
    pub order_id: String,
    pub user_id: String,
    pub sale_id: Option<String>,
    pub amount_minor: i64,
    pub currency: String,
    pub paid_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderClosed {
    /// The purchase's id where no order was made.
    pub order_id: String,
    pub user_id: String,
    pub sale_id: Option<String>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseDue {
    pub order_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purchase {
    /// Also the id of the order that it becomes.
    pub purchase_id: String,
    pub sale_id: String,
    pub user_id: String,
    pub quantity: i64,
    /// The build of the gate that reserved it.
    pub epoch: i64,
}

/// The message of an event: JSON, found by the order's id.
pub fn message<T: Serialize>(topic: &'static str, order_id: &str, event: &T) -> Message {
    let body = serde_json::to_vec(event).expect("an event has no map with odd keys");
    Message::new(topic, body).key(order_id.to_owned())
}
