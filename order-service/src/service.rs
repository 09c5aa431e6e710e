//! order-service as a process: its tables, its transactional producer, its HTTP interface, and the consumers that make
//! and close the orders of flash sales.

use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use txn_sdk::TxnProducer;

use crate::callbacks::Callbacks;
use crate::clock::Clock;
use crate::closing::Closing;
use crate::database::create_table;
use crate::events::{self, CloseDue, Purchase};
use crate::gateway::GatewayClient;
use crate::http::{self, App};
use crate::listen::Listener;
use crate::orders::Orders;
use crate::payments::Payments;
use crate::purchases::{Pace, Purchases};
use crate::refunds::Refunds;
use crate::sales::Sales;
use crate::signature::Secret;
use crate::tables::{callback_nonce, idempotency_key, order, payment, purchase, sale};

/// The producer group; every instance of the service answers for the others.
pub const GROUP: &str = "order-service";
/// The group that makes orders of a sale's purchases; what it has not consumed is on its way to an order.
pub const PURCHASES_GROUP: &str = "order-service-purchases";
const CLOSING_GROUP: &str = "order-service-closing";

#[derive(Clone, Debug)]
pub struct ServiceOptions {
    pub db: DatabaseConnection,
    pub clock: Clock,
    pub name_servers: String,
    pub gateway_url: String,
    pub secret: Secret,
    /// Where the gateway reaches this service.
    pub callback_url: String,
    pub admin_token: Option<String>,
    pub pace: Pace,
    pub checks: Checks,
}

/// How the broker asks about undecided transactions, and from which age it is told "rolled back".
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// The broker's `transactionCheckInterval`.
    pub every: Duration,
    /// A transaction that takes longer may be fenced off.
    pub deadline: Duration,
}

pub struct OrderService {
    app: App,
    purchases: Purchases,
    refunds: Refunds,
    txn: TxnProducer<DatabaseConnection>,
    name_servers: String,
}

impl OrderService {
    pub async fn open(options: ServiceOptions) -> anyhow::Result<OrderService> {
        let ServiceOptions { db, clock, name_servers, .. } = options;
        create_tables(&db).await?;
        let txn = TxnProducer::builder(&name_servers)
            .group(GROUP)
            .topics([events::ORDER_PAID, events::ORDER_CLOSED])
            .checks_every(options.checks.every)
            .database(db.clone())
            .deadline(options.checks.deadline)
            .build()
            .await?;
        let gateway = GatewayClient::new(options.gateway_url);
        let callback_url = options.callback_url;
        let app = App {
            orders: Orders::new(db.clone(), clock.clone()),
            payments: Payments::new(db.clone(), clock.clone(), gateway.clone(), txn.clone(), callback_url),
            callbacks: Callbacks::new(db.clone(), clock.clone(), options.secret),
            closing: Closing::new(db.clone(), clock.clone(), txn.clone()),
            sales: Sales::new(db.clone(), clock.clone()),
            txn: txn.clone(),
            admin_token: options.admin_token,
        };
        let purchases = Purchases::new(db.clone(), clock.clone(), txn.clone(), options.pace);
        let refunds = Refunds::new(db, clock, gateway);
        Ok(OrderService { app, purchases, refunds, txn, name_servers })
    }

    /// Serves until shutdown; then finishes what runs and answers checkbacks until the end.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let OrderService { app, purchases, refunds, txn, name_servers } = self;
        let closing = app.closing.clone();
        let buying =
            Listener::new(&name_servers, PURCHASES_GROUP).on(events::SALE_PURCHASE, move |purchase: Purchase| {
                let purchases = purchases.clone();
                async move { purchases.accept(&purchase).await.map(drop) }
            });
        let closing = Listener::new(&name_servers, CLOSING_GROUP).on(events::ORDER_CLOSE_DUE, move |due: CloseDue| {
            let closing = closing.clone();
            async move { closing.close(&due.order_id, "unpaid").await.map(drop) }
        });
        tokio::try_join!(
            async { Ok(http::serve(listener, http::router(app), shutdown.clone()).await?) },
            buying.run_until(shutdown.clone()),
            closing.run_until(shutdown.clone()),
            refunding(refunds, shutdown.clone()),
        )?;
        txn.shutdown().await;
        Ok(())
    }
}

async fn refunding(refunds: Refunds, shutdown: CancellationToken) -> anyhow::Result<()> {
    refunds.run(shutdown).await;
    Ok(())
}

/// Creates what is missing of order-service's tables.
pub async fn create_tables(db: &DatabaseConnection) -> Result<(), DbErr> {
    create_table(db, order::Entity).await?;
    create_table(db, idempotency_key::Entity).await?;
    create_table(db, payment::Entity).await?;
    create_table(db, callback_nonce::Entity).await?;
    create_table(db, sale::Entity).await?;
    create_table(db, purchase::Entity).await
}
