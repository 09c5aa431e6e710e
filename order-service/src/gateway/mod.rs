//! The simulated third-party payment gateway: a process of its own with a database of its own. It charges, and calls the
//! merchant back until the merchant has answered 200. "Paid" is what this database says. Knows nothing of orders.

mod callback;
mod charges;
mod client;
mod process;

pub use callback::Caller;
pub use charges::{Charge, ChargeError, ChargeRequest, Charges, Totals};
pub use client::{GatewayClient, GatewayError};
pub use process::{Gateway, GatewayOptions};
