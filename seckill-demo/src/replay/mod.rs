//! "The order is paid, but there is no red packet": every place where it can be lost, with real processes that die there.

mod case;
pub mod command;
pub mod naive;
mod outcome;
mod points;
mod settled;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use outcome::{Outcome, Proof, Report, Row};
pub use points::{Crash, Failpoint, POINTS, Place, Point, Way, select};

/// Stacks of four processes each that run side by side: they mostly wait.
const PARALLEL_CASES: usize = 4;

#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Places or parts of point names; empty: all.
    pub points: Vec<String>,
    /// Paid orders of each case; the second one crashes.
    pub orders: usize,
    /// Where each case keeps its files and log.
    pub data: PathBuf,
}

/// Plays every selected point both ways.
pub async fn paid_no_red_packet(options: ReplayOptions, progress: impl Fn(&str)) -> Result<Report> {
    ensure!(options.orders >= 2, "--orders must be at least 2: the second order is the one that crashes");
    let points = select(&options.points);
    ensure!(!points.is_empty(), "no crash point is called that; see --help for their names");
    let (mut rows, mut cases) = (points.iter().map(|point| Row::new(point)).collect::<Vec<_>>(), JoinSet::new());
    let places = Arc::new(Semaphore::new(PARALLEL_CASES));
    for (index, point) in points.into_iter().enumerate() {
        for way in [Way::Naive, Way::Transactional].into_iter().filter(|way| point.failpoint(*way).is_some()) {
            let (places, orders) = (places.clone(), options.orders);
            let dir = options.data.join(format!("{index:02}-{way:?}").to_lowercase());
            cases.spawn(async move {
                let _place = places.acquire_owned().await?;
                let outcome = case::play(point, way, orders, &dir).await;
                outcome.map(|outcome| (index, way, outcome))
            });
        }
    }
    let all = cases.len();
    while let Some(played) = cases.join_next().await {
        let (index, way, outcome) = played??;
        progress(&format!("{}/{all}", all - cases.len()));
        rows[index].put(way, outcome);
    }
    Ok(Report::new("paid-no-red-packet", options.orders, rows))
}
