//! What the processes of a replay left in their tables, read beside them: the only thing that a replay counts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, Statement};

/// A reader of the gateway's and the red packets' files.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    gateway: DatabaseConnection,
    red_packets: DatabaseConnection,
}

impl Tables {
    /// Both services must have made their tables.
    pub(super) async fn open(gateway: &Path, red_packets: &Path) -> Result<Self> {
        let open = async |path: &Path| {
            let mut options = ConnectOptions::new(format!("sqlite://{}?mode=ro", path.display()));
            options.sqlx_logging(false);
            sea_orm::Database::connect(options).await.with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self { gateway: open(gateway).await?, red_packets: open(red_packets).await? })
    }

    /// Orders that the gateway charged.
    pub(super) async fn paid(&self) -> Result<Vec<String>> {
        column(&self.gateway, "SELECT order_id FROM charges ORDER BY charged_ms").await
    }

    /// Whether the merchant has answered for every charge.
    pub(super) async fn all_answered(&self) -> Result<bool> {
        Ok(column(&self.gateway, "SELECT order_id FROM charges WHERE answered_ms IS NULL").await?.is_empty())
    }

    /// Red packets of each order.
    pub(super) async fn packets(&self) -> Result<BTreeMap<String, usize>> {
        let mut packets = BTreeMap::new();
        for order in column(&self.red_packets, "SELECT order_id FROM red_packets").await? {
            *packets.entry(order).or_default() += 1;
        }
        Ok(packets)
    }
}

async fn column(db: &DatabaseConnection, sql: &str) -> Result<Vec<String>> {
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await?;
    rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
}
