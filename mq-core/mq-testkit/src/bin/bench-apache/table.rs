//! The table of goals: both columns, their ratio, and whether it is met.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measuring::OVERLOAD;
use crate::{Figures, Options};

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One line of the table; absent figures are not a number.
struct Row {
    name: String,
    apache: f64,
    ours: f64,
    decimals: usize,
    goal: Goal,
}

enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Times Apache's.
    Times(f64),
    /// Nobody set one; fewer is better.
    Fewer,
    None,
}

impl Row {
    fn ratio(&self) -> f64 {
        match self.goal {
            Goal::AtMost(_) | Goal::Fewer => self.apache / self.ours,
            Goal::AtLeast(_) | Goal::None => f64::NAN,
            Goal::Times(_) => self.ours / self.apache,
        }
    }

    fn print(&self, out: &mut String) {
        let figure = |value: f64| {
            if value.is_nan() { "–".to_owned() } else { format!("{value:.*}", self.decimals) }
        };
        let ratio = if self.ratio().is_nan() { "–".to_owned() } else { format!("{:.1}x", self.ratio()) };
        let (goal, met) = match self.goal {
            Goal::AtMost(limit) => (format!("at most {limit:.*}", self.decimals), Some(self.ours <= limit)),
            Goal::AtLeast(limit) => (format!("at least {limit:.*}", self.decimals), Some(self.ours >= limit)),
            Goal::Times(times) => {
                (format!("at least {times:.0}x"), (!self.ratio().is_nan()).then(|| self.ratio() >= times))
            }
            Goal::Fewer | Goal::None => ("–".to_owned(), None),
        };
        let met = met.map_or("–", |met| if met { "met" } else { "**not met**" });
        let (name, apache, ours) = (&self.name, figure(self.apache), figure(self.ours));
        writeln!(out, "| {name} | {apache} | {ours} | {ratio} | {goal} | {met} |").expect("memory takes text");
    }
}

pub(crate) fn table(columns: &BTreeMap<(&str, &str), Figures>, more: &Figures, options: &Options) -> String {
    let mut syncs: Vec<f64> = columns.values().filter_map(|figures| figures.get("sync")).flatten().copied().collect();
    syncs.sort_by(f64::total_cmp);
    let figure = |flush, who, name: &str| {
        columns.get(&(flush, who)).and_then(|figures| figures.get(name)).map_or(f64::NAN, |values| median(values))
    };
    let sync_at =
        |part: f64| syncs.get((syncs.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    let mut rows = Vec::new();
    let mut row = |name: String, flush, figure_name: &str, decimals, goal| {
        let (apache, ours) = (figure(flush, "apache", figure_name), figure(flush, "ours", figure_name));
        rows.push(Row { name, apache, ours, decimals, goal });
    };
    for (flush, send_cpu, txn_times) in [("ASYNC_FLUSH", 5.0, 5.0), ("SYNC_FLUSH", 7.0, 10.0)] {
        row(format!("{flush}: send, µs CPU"), flush, "send.cpu", 2, Goal::AtMost(send_cpu));
        row(format!("{flush}: send, messages/s"), flush, "send.rate", 0, Goal::Times(4.0));
        row(format!("{flush}: batches of 64, µs CPU a message"), flush, "batch.cpu", 2, Goal::AtMost(1.0));
        row(format!("{flush}: batches of 64, messages/s"), flush, "batch.rate", 0, Goal::Times(1.0));
        let is_async = flush == "ASYNC_FLUSH";
        let goal = if is_async { Goal::AtMost(12.0) } else { Goal::Fewer };
        row(format!("{flush}: transaction, µs CPU"), flush, "txn.cpu", 2, goal);
        row(format!("{flush}: transactions/s"), flush, "txn.rate", 0, Goal::Times(txn_times));
        row(format!("{flush}: pull of 32, µs CPU a message"), flush, "pull.cpu", 2, Goal::AtMost(0.9));
        row(format!("{flush}: pull of 32, messages/s"), flush, "pull.rate", 0, Goal::Times(1.0));
        row(format!("{flush}: pop of 32 and its acknowledgement, µs CPU a message"), flush, "pop.cpu", 2, Goal::Fewer);
        row(format!("{flush}: pop of 32 and its acknowledgement, messages/s"), flush, "pop.rate", 0, Goal::Times(1.0));
        let syncs = if is_async { 0.0 } else { 2.0 };
        let (p50, p99) = (0.3 + syncs * sync_at(0.5), 1.0 + syncs * sync_at(0.99));
        row(format!("{flush}: send to receive at 1,000/s, p50 ms"), flush, "latency.p50", 3, Goal::AtMost(p50));
        row(format!("{flush}: send to receive at 1,000/s, p99 ms"), flush, "latency.p99", 3, Goal::AtMost(p99));
        row(format!("{flush}: anonymous MiB after start"), flush, "memory at start", 0, Goal::AtMost(64.0));
        row(format!("{flush}: anonymous MiB in these runs, most"), flush, "memory", 0, Goal::AtMost(256.0));
        row(format!("{flush}: requests refused as busy"), flush, "refused", 0, Goal::None);
        row(format!("{flush}: start to first acknowledgement, empty, s"), flush, "start", 2, Goal::AtMost(0.2));
    }
    let mut only_ours = |name: &str, value: f64, decimals, limit| {
        rows.push(Row { name: name.into(), apache: f64::NAN, ours: value, decimals, goal: Goal::AtMost(limit) });
    };
    let of = |name: &str| more.get(name).map_or(f64::NAN, |values| median(values));
    only_ours("anonymous MiB with 1 to 1,000 topics and connections, most", of("memory"), 0, 256.0);
    only_ours("anonymous MiB under overload by the clock, most", of("flood memory"), 0, 256.0);
    only_ours("15,000 idle connections, KiB each", of("idle"), 1, 20.0);
    let gib = options.clean_gib;
    only_ours(&format!("start with {gib} GiB after a clean stop, s"), of("clean start"), 2, 0.5);
    let gib = options.unclean_gib;
    only_ours(&format!("start with {gib} GiB after kill -9, s"), of("unclean start"), 2, 3.0 * gib as f64);
    only_ours("cost of 1,000 topics, times that of 1", of("1000 topics") / of("1 topic"), 2, 1.2);
    only_ours("cost of 100 connections, times that of 1", of("100 connections") / of("1 connection"), 2, 1.2);
    for (name, rate) in [
        ("overload: rate with 64,000 requests in flight, part of that with 256".to_owned(), "1000 connections, rate"),
        (format!("overload: rate when {OVERLOAD:.0} times it is offered, part of it"), "flood, rate"),
    ] {
        let ours = of(rate) / of("1 topic, rate");
        rows.push(Row { name, apache: f64::NAN, ours, decimals: 2, goal: Goal::AtLeast(0.8) });
    }
    let mut out = String::from("| | Apache 5.5 | ours | ratio | goal | |\n|---|---:|---:|---:|---|---|\n");
    rows.iter().for_each(|row| row.print(&mut out));
    let (p50, p99) = (sync_at(0.5), sync_at(0.99));
    writeln!(
        out,
        "\nA write of 1 KiB with its fdatasync took p50 {p50:.2} ms, p99 {p99:.2} ms on this disk, in the same run."
    )
    .expect("memory takes text");
    out
}
