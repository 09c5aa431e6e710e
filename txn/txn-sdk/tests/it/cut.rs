//! The network to the database, cut between COMMIT and its answer or anywhere else, by a proxy: who called is told "in
//! doubt" or "nothing", and rows and message agree in the end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use txn_sdk::{Consumer, Delivered, Effect, Inbox, Msg, Outcome, TxnError, Verdict};

use crate::{
    broker::Broker,
    databases::{Engine, PoolShape, Scratch, TestDatabase, on_all_databases},
    inbox::paid,
    producer::{message, producer},
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const POOL: PoolShape = PoolShape { connections: 4, on_connect: None };

on_all_databases!(
    a_cut_within_the_commit_is_in_doubt_and_settled_by_the_checkback,
    a_delivery_that_is_cut_within_its_commit_has_one_effect_and_emits_once,
    rows_and_message_agree_wherever_the_cut_falls,
);

/// Where the connection is cut, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never sees the COMMIT.
    BeforeCommit,
    /// The server has committed, and its answer is lost.
    AfterCommit,
    /// After so many more pieces that the client sends.
    AfterPieces(u32),
}

/// Between a client and the server's Unix socket.
#[derive(Clone)]
struct Proxy(Arc<Shared>);

struct Shared {
    server: PathBuf,
    armed: Mutex<Option<Cut>>,
}

impl Proxy {
    /// The proxy, and the URL that leads through it. `None` where there is no network.
    async fn before(place: &Scratch) -> Option<(Self, String)> {
        let (base, query) = place.url().split_once('?')?;
        let option = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(PathBuf::from);
        let server = match place.engine {
            Engine::Sqlite => return None,
            Engine::MariaDb | Engine::MySql => option("socket=")?,
            Engine::Postgres => option("host=")?.join(".s.PGSQL.5432"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rest = query.split('&').filter(|pair| !pair.starts_with("socket=") && !pair.starts_with("host="));
        let rest: Vec<_> = rest.collect();
        let url = format!("{}?{}", base.replace("localhost", &address.to_string()), rest.join("&"));
        let proxy = Self(Arc::new(Shared { server, armed: Mutex::new(None) }));
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = accepting.clone();
                // However it ends, both sides are closed then.
                tokio::spawn(async move { drop(proxy.carry(client).await) });
            }
        });
        Some((proxy, url))
    }

    fn arm(&self, cut: Cut) {
        *self.0.armed.lock() = Some(cut);
    }

    fn disarm(&self) {
        *self.0.armed.lock() = None;
    }

    /// What to do with a piece that the client sends.
    fn cuts(&self, piece: &[u8]) -> Option<Cut> {
        let is_commit = piece.windows(6).any(|text| text == b"COMMIT");
        let mut armed = self.0.armed.lock();
        match *armed {
            Some(Cut::BeforeCommit | Cut::AfterCommit) if is_commit => armed.take(),
            Some(Cut::AfterPieces(0)) => armed.take(),
            Some(Cut::AfterPieces(left)) => {
                *armed = Some(Cut::AfterPieces(left - 1));
                None
            }
            _ => None,
        }
    }

    async fn carry(self, client: TcpStream) -> std::io::Result<()> {
        let server = UnixStream::connect(&self.0.server).await?;
        client.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (mut sent, mut said) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            tokio::select! {
                bytes = from_client.read(&mut sent) => {
                    let piece = &sent[..bytes?];
                    if piece.is_empty() {
                        return Ok(());
                    }
                    match self.cuts(piece) {
                        None => to_server.write_all(piece).await?,
                        Some(Cut::AfterCommit) => {
                            to_server.write_all(piece).await?;
                            from_server.readable().await?;
                            return Ok(());
                        }
                        Some(_) => return Ok(()),
                    }
                }
                bytes = from_server.read(&mut said) => {
                    let piece = &said[..bytes?];
                    if piece.is_empty() {
                        return Ok(());
                    }
                    to_client.write_all(piece).await?;
                }
            }
        }
    }
}

async fn a_cut_within_the_commit_is_in_doubt_and_settled_by_the_checkback<D: TestDatabase>(engine: Engine) {
    for (cut, settled, orders) in [(Cut::BeforeCommit, Verdict::Rollback, 0), (Cut::AfterCommit, Verdict::Commit, 1)] {
        let (broker, place) = (Broker::start().await, Scratch::with_orders(engine).await);
        let Some((proxy, url)) = Proxy::before(&place).await else { return };
        let txn = producer(&broker, D::open(&url, POOL).await, Duration::ZERO).await;
        let mut transaction = txn.begin(message()).await.unwrap();
        D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
        proxy.arm(cut);
        let sent = transaction.commit().await.unwrap();
        assert_eq!(sent.outcome, Outcome::InDoubt, "{cut:?}");
        assert_eq!(broker.last().ends, [], "{cut:?}: never a verdict that is not known");
        assert_eq!(broker.settle(0).await, settled, "{cut:?}");
        assert_eq!(place.orders().await, orders, "{cut:?}");
        // The pool is none the worse.
        let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
        assert_eq!((sent.outcome, place.orders().await), (Outcome::Committed, orders + 1), "{cut:?}");
    }
}

async fn a_delivery_that_is_cut_within_its_commit_has_one_effect_and_emits_once<D: TestDatabase>(engine: Engine) {
    for (cut, again) in [(Cut::BeforeCommit, Delivered::Done), (Cut::AfterCommit, Delivered::Duplicate)] {
        let (broker, place) = (Broker::start().await, Scratch::with_orders(engine).await);
        let Some((proxy, url)) = Proxy::before(&place).await else { return };
        let txn = producer(&broker, D::open(&url, POOL).await, Duration::ZERO).await;
        let consumer = Consumer::builder("127.0.0.1:1").group("red-packet").inbox(Inbox::of(&txn)).on_emitting(
            "ORDER_PAID",
            async |tx: &mut Effect<D>, _: Msg<Value>| {
                D::run(tx.handle(), INSERT_ORDER).await?;
                tx.emit(message()).await.map(drop).map_err(|error| error.to_string())
            },
        );
        proxy.arm(cut);
        assert!(matches!(consumer.deliver(paid(1)).await, Delivered::Later(_)), "{cut:?}");
        assert_eq!(broker.last().ends, [], "{cut:?}: never a verdict that is not known");
        assert_eq!(consumer.deliver(paid(1)).await, again, "{cut:?}");
        for index in 0..broker.halves().len() {
            broker.settle(index).await;
        }
        assert_eq!((place.orders().await, broker.published().len()), (1, 1), "{cut:?}");
    }
}

/// The connection ends before each piece that a transaction sends, one after the other, until one comes through whole.
async fn rows_and_message_agree_wherever_the_cut_falls<D: TestDatabase>(engine: Engine) {
    let (broker, place) = (Broker::start().await, Scratch::with_orders(engine).await);
    let Some((proxy, url)) = Proxy::before(&place).await else { return };
    let txn = producer(&broker, D::open(&url, POOL).await, Duration::ZERO).await;
    let (mut orders, mut outcomes) = (0, [0, 0, 0]);
    for pieces in 0.. {
        let before = broker.halves().len();
        proxy.arm(Cut::AfterPieces(pieces));
        let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await;
        let came_through = proxy.0.armed.lock().is_some();
        proxy.disarm();
        for index in before..broker.halves().len() {
            let verdict = broker.settle(index).await;
            orders += i64::from(verdict == Verdict::Commit);
            let half = &broker.halves()[index];
            assert!(half.ends.iter().all(|end| *end == verdict), "{pieces} pieces: {half:?}, {verdict:?}");
        }
        assert_eq!(place.orders().await, orders, "{pieces} pieces: {sent:?}");
        match sent.map(|sent| sent.outcome) {
            Ok(Outcome::Committed) => outcomes[0] += 1,
            Ok(Outcome::InDoubt) => outcomes[1] += 1,
            Ok(Outcome::RolledBack(_)) | Err(TxnError::Database(_) | TxnError::CommitRefused(_)) => outcomes[2] += 1,
            Err(error) => panic!("{pieces} pieces: {error}"),
        }
        if came_through {
            break;
        }
    }
    assert!(outcomes.iter().all(|seen| *seen > 0), "committed, in doubt, nothing: {outcomes:?}");
}
