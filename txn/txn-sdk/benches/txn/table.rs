//! The table of `make bench-txn`, and its place in a page.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Extent;
use crate::measuring::{Figures, Run, Store, Way};

const BEGIN: &str = "<!-- make bench-txn -->";
const END: &str = "<!-- end of make bench-txn -->";

type Figure = fn(&Run) -> f64;

pub(crate) fn print(figures: &Figures, extent: &Extent, page: Option<&Path>) -> Result<()> {
    let text = table(figures, extent);
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let Some(page) = page else { return Ok(()) };
    let old = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{} lacks {BEGIN}", page.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} lacks {END}", page.display()))?;
    std::fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}"))?;
    Ok(())
}

fn table(figures: &Figures, extent: &Extent) -> String {
    let mut out = String::from(
        "| | SDK | outbox and relay | Java client on Apache | SDK to outbox |\n|---|---:|---:|---:|---:|\n",
    );
    let (full, paced) = (format!("{} at once", extent.workers), format!("{} a second", extent.rate));
    let rows: [(&str, &str, bool, Figure); 8] = [
        (&full, "transactions/s", true, |run| run.rate),
        (&full, "commit to consumer, p50 ms", true, |run| run.p50_ms),
        (&full, "commit to consumer, p99 ms", true, |run| run.p99_ms),
        (&full, "µs CPU of the service", true, |run| run.service_us),
        (&full, "µs CPU of the broker", true, |run| run.broker_us),
        (&paced, "commit to consumer, p50 ms", false, |run| run.p50_ms),
        (&paced, "commit to consumer, p99 ms", false, |run| run.p99_ms),
        (&paced, "µs CPU of the service", false, |run| run.service_us),
    ];
    for (store, store_name) in [(Store::Postgres, "PostgreSQL"), (Store::Sqlite, "SQLite")] {
        for (pace, name, is_full, figure) in rows {
            let of = |way| {
                let runs = figures.get(&(store, way));
                runs.map(|runs| (if is_full { &runs.full } else { &runs.paced }).iter().map(figure).collect::<Vec<_>>())
            };
            let [sdk, outbox, java] = [Way::Sdk, Way::Outbox, Way::Java].map(of);
            let ratio = sdk.as_ref().zip(outbox.as_ref()).map_or("–".to_owned(), |(sdk, outbox)| {
                format!("{:.2}", median(sdk.iter().zip(outbox).map(|(sdk, outbox)| sdk / outbox)))
            });
            let said = |runs: Option<Vec<f64>>| {
                let middle = runs.map(|runs| median(runs.into_iter()));
                middle.map_or("–".to_owned(), |value| format!("{value:.*}", decimals(value)))
            };
            let (sdk, outbox, java) = (said(sdk), said(outbox), said(java));
            writeln!(out, "| {store_name}, {pace}: {name} | {sdk} | {outbox} | {java} | {ratio} |")
                .expect("memory takes text");
        }
    }
    out
}

fn decimals(value: f64) -> usize {
    if value < 100.0 { 1 } else { 0 }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
