//! The flash sale as a process: its HTTP interface, its checkbacks, and the consumer that ends reservations when their
//! orders were paid or closed.

use order_service::events::{self, OrderClosed, OrderPaid};
use order_service::listen::Listener;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::gate::{End, Gate, GateError, Settled};
use crate::http::{self, App};
use crate::purchases::Purchases;
use crate::sales::Sales;
use crate::truth::Truth;

const SETTLING_GROUP: &str = "seckill-gate";

#[derive(Clone, Debug)]
pub struct SaleOptions {
    pub redis_url: String,
    pub name_servers: String,
    pub order_service_url: String,
    /// Manages sales here and at order-service.
    pub admin_token: String,
}

pub struct FlashSale {
    app: App,
    gate: Gate,
    name_servers: String,
}

#[derive(Debug, Error)]
enum SettleError {
    #[error("no gate stands for sale {0}; this waits until it is warmed up")]
    NoGate(String),
    #[error(transparent)]
    Gate(#[from] GateError),
}

impl FlashSale {
    pub async fn open(options: SaleOptions) -> anyhow::Result<FlashSale> {
        let gate = Gate::connect(&options.redis_url)?;
        let truth = Truth::new(options.order_service_url, options.admin_token.clone());
        let purchases = Purchases::open(&options.name_servers, gate.clone(), truth.clone()).await?;
        let sales = Sales::new(gate.clone(), truth, purchases.queue());
        let app = App { sales, purchases, gate: gate.clone(), admin_token: options.admin_token };
        Ok(FlashSale { app, gate, name_servers: options.name_servers })
    }

    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let FlashSale { app, gate, name_servers } = self;
        let purchases = app.purchases.clone();
        let (paid_gate, closed_gate) = (gate.clone(), gate);
        let settling = Listener::new(&name_servers, SETTLING_GROUP)
            .on(events::ORDER_PAID, move |paid: OrderPaid| {
                settle(paid_gate.clone(), paid.sale_id, paid.order_id, End::Sold)
            })
            .on(events::ORDER_CLOSED, move |closed: OrderClosed| {
                settle(closed_gate.clone(), closed.sale_id, closed.order_id, End::Released)
            });
        tokio::try_join!(
            async { Ok(order_service::http::serve(listener, http::router(app), shutdown.clone()).await?) },
            settling.run_until(shutdown.clone()),
        )?;
        purchases.shutdown().await;
        Ok(())
    }
}

/// Orders outside of sales are nothing to the gate.
async fn settle(gate: Gate, sale_id: Option<String>, order_id: String, end: End) -> Result<(), SettleError> {
    let Some(sale_id) = sale_id else { return Ok(()) };
    match gate.settle(&sale_id, &order_id, end).await? {
        Settled::Now | Settled::Before | Settled::Unknown => Ok(()),
        Settled::NoGate => Err(SettleError::NoGate(sale_id)),
    }
}
