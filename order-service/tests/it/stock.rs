//! The database is the truth about a sale's pieces.

use order_service::clock::Clock;
use order_service::database;
use order_service::events::Purchase;
use order_service::purchases::{self, Refusal};
use order_service::sales::{NewSale, SaleError, Sales};
use sea_orm::DatabaseConnection;
use tokio::task::JoinSet;

use crate::support::TestDatabase;

fn sale(pieces: i64, per_user: i64) -> NewSale {
    NewSale {
        id: "s1".into(),
        item: "phone".into(),
        unit_price_minor: 99_900,
        currency: "CNY".into(),
        pieces,
        per_user,
    }
}

fn purchase(user: &str, quantity: i64, epoch: i64) -> Purchase {
    let purchase_id = format!("p-{user}-{quantity}-{epoch}");
    Purchase { purchase_id, sale_id: "s1".into(), user_id: user.into(), quantity, epoch }
}

async fn place(db: &DatabaseConnection, purchase: &Purchase) -> Result<(), Refusal> {
    let tx = database::begin(db).await.unwrap();
    let placed = purchases::place(&tx, purchase, 0).await.unwrap();
    if placed.is_ok() {
        tx.commit().await.unwrap()
    } else {
        tx.rollback().await.unwrap()
    }
    placed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_buyers_race_for_the_last_pieces_and_none_is_sold_twice() {
    let database = TestDatabase::new().await;
    let sales = Sales::new(database.db.clone(), Clock::system());
    sales.create(&sale(7, 1)).await.unwrap();
    let epoch = sales.plan_gate("s1").await.unwrap().sale.epoch;
    let mut buyers = JoinSet::new();
    for buyer in 0..100 {
        let db = database.db.clone();
        buyers.spawn(async move { place(&db, &purchase(&format!("u{buyer}"), 1, epoch)).await });
    }
    let outcomes = buyers.join_all().await;
    assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 7);
    assert_eq!(outcomes.iter().filter(|it| **it == Err(Refusal::SoldOut)).count(), 93);
    let figures = sales.figures("s1").await.unwrap();
    assert_eq!((figures.sold, figures.reserved, figures.left, figures.orders), (0, 7, 0, 7));
}

#[tokio::test]
async fn purchases_that_the_rows_cannot_keep_are_refused_with_the_reason() {
    let database = TestDatabase::new().await;
    let sales = Sales::new(database.db.clone(), Clock::system());
    sales.create(&sale(4, 2)).await.unwrap();
    sales.plan_gate("s1").await.unwrap();
    let epoch = sales.plan_gate("s1").await.unwrap().sale.epoch;
    let elsewhere = Purchase { sale_id: "s2".into(), ..purchase("a", 1, epoch) };
    let cases = [
        (elsewhere, Err(Refusal::UnknownSale)),
        (purchase("a", 1, epoch - 1), Err(Refusal::OldGate)),
        (purchase("a", 1, epoch + 1), Err(Refusal::OldGate)),
        (purchase("a", 3, epoch), Err(Refusal::Quantity)),
        (purchase("a", 0, epoch), Err(Refusal::Quantity)),
        (purchase("a", -1, epoch), Err(Refusal::Quantity)),
        (purchase("a", 2, epoch), Ok(())),
        (purchase("a", 1, epoch), Err(Refusal::Limited)),
        (purchase("b", 1, epoch), Ok(())),
        (purchase("c", 2, epoch), Err(Refusal::SoldOut)),
        (purchase("c", 1, epoch), Ok(())),
    ];
    for (purchase, expect) in cases {
        assert_eq!(place(&database.db, &purchase).await, expect, "{purchase:?}");
        let figures = sales.figures("s1").await.unwrap();
        assert_eq!(figures.sold + figures.reserved + figures.left, figures.initial, "{purchase:?}");
    }
}

#[tokio::test]
async fn a_sale_is_created_once_with_its_terms() {
    let database = TestDatabase::new().await;
    let sales = Sales::new(database.db.clone(), Clock::system());
    let created = sales.create(&sale(10, 1)).await.unwrap();
    assert_eq!(sales.create(&sale(10, 1)).await.unwrap(), created);
    assert!(matches!(sales.create(&sale(11, 1)).await, Err(SaleError::Exists(_))));
    assert!(matches!(sales.plan_gate("s9").await, Err(SaleError::Unknown(_))));
    for broken in [
        sale(0, 1),
        sale(-1, 1),
        sale(i64::MAX, 1),
        sale(10, 0),
        NewSale { unit_price_minor: -1, ..sale(10, 1) },
        NewSale { id: "a b".into(), ..sale(10, 1) },
        NewSale { id: "{s}".into(), ..sale(10, 1) },
        NewSale { currency: "x".into(), ..sale(10, 1) },
    ] {
        assert!(matches!(sales.create(&broken).await, Err(SaleError::Amount(_) | SaleError::Id)), "{broken:?}");
    }
}
