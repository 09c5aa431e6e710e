//! What the tests share: databases in a temporary directory, a clock that is set by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use order_service::clock::Clock;
use order_service::{database, service};
use sea_orm::DatabaseConnection;
use tempfile::TempDir;

/// An order database of its own, removed with the value.
pub(crate) struct TestDatabase {
    pub(crate) db: DatabaseConnection,
    _dir: TempDir,
}

impl TestDatabase {
    pub(crate) async fn new() -> TestDatabase {
        let dir = tempfile::tempdir().unwrap();
        let db = database::connect(&database::sqlite_url(&dir.path().join("orders.db"))).await.unwrap();
        service::create_tables(&db).await.unwrap();
        TestDatabase { db, _dir: dir }
    }
}

/// Stands still until it is moved.
#[derive(Clone)]
pub(crate) struct HandClock(Arc<AtomicI64>);

impl HandClock {
    pub(crate) fn at_ms(now_ms: i64) -> HandClock {
        HandClock(Arc::new(AtomicI64::new(now_ms)))
    }

    pub(crate) fn advance_ms(&self, by: i64) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = self.0.clone();
        Clock::new(move || now.load(Ordering::SeqCst))
    }
}
