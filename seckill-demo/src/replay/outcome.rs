//! What the tables say after a run, and what the whole replay proves. Pure: counts in, verdict and text out.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::points::{Crash, Place, Point, Way};

/// Orders by what happened to them, counted from the gateway's and the red packets' tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Orders that the gateway charged.
    pub paid: usize,
    pub packets: usize,
    /// Paid orders without a packet.
    pub lost: usize,
    /// Packets beyond the first of a paid order.
    pub duplicate: usize,
    /// Packets of orders that were not paid.
    pub ghost: usize,
    /// From the crash until every paid order had its packet; `None`: never.
    pub heal_seconds: Option<f64>,
}

impl Outcome {
    /// `packets`: how many red packets each order has.
    #[must_use]
    pub fn count(paid: &[String], packets: &BTreeMap<String, usize>, heal_seconds: Option<f64>) -> Self {
        let of = |order: &String| packets.get(order).copied().unwrap_or(0);
        let lost = paid.iter().filter(|order| of(order) == 0).count();
        Self {
            paid: paid.len(),
            packets: packets.values().sum(),
            lost,
            duplicate: paid.iter().map(|order| of(order).saturating_sub(1)).sum(),
            ghost: packets.iter().filter(|(order, _)| !paid.contains(order)).map(|(_, count)| count).sum(),
            heal_seconds: heal_seconds.filter(|_| lost == 0),
        }
    }

    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicate == 0 && self.ghost == 0
    }
}

/// One crash point, both ways side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub place: Place,
    pub point: &'static str,
    pub crash: Crash,
    /// `None`: this way has no such point.
    pub naive: Option<Outcome>,
    pub transactional: Option<Outcome>,
}

impl Row {
    #[must_use]
    pub fn new(point: &Point) -> Self {
        Self { place: point.place, point: point.name, crash: point.crash, naive: None, transactional: None }
    }

    pub fn put(&mut self, way: Way, outcome: Outcome) {
        match way {
            Way::Naive => self.naive = Some(outcome),
            Way::Transactional => self.transactional = Some(outcome),
        }
    }
}

/// The whole replay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub orders_per_point: usize,
    pub rows: Vec<Row>,
    pub proof: Proof,
}

/// Whether the run proves anything: ours must be clean everywhere, and the naive way must lose on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub transactional_clean: bool,
    pub naive_lost_at_producer: bool,
    pub naive_lost_at_consumer: bool,
}

impl Proof {
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let naive_lost_at = |place: Place| {
            rows.iter()
                .filter(|row| row.place == place)
                .any(|row| row.naive.as_ref().is_some_and(|outcome| outcome.lost > 0))
        };
        Self {
            transactional_clean: rows.iter().filter_map(|row| row.transactional.as_ref()).all(Outcome::is_clean)
                && rows.iter().any(|row| row.transactional.is_some()),
            naive_lost_at_producer: naive_lost_at(Place::Producer),
            naive_lost_at_consumer: naive_lost_at(Place::Consumer),
        }
    }

    #[must_use]
    pub fn holds(&self) -> bool {
        self.transactional_clean && self.naive_lost_at_producer && self.naive_lost_at_consumer
    }

    /// One sentence a claim, for people.
    #[must_use]
    pub fn sentences(&self) -> [String; 3] {
        let say = |held: bool, claim: &str| format!("{} {claim}", if held { "yes" } else { " NO" });
        [
            say(self.transactional_clean, "the transactional way lost, doubled and invented nothing at any point"),
            say(self.naive_lost_at_producer, "commit-then-send lost a paid order's packet at the producer"),
            say(self.naive_lost_at_consumer, "acknowledge-then-work lost one at the consumer"),
        ]
    }
}

impl Report {
    #[must_use]
    pub fn new(scenario: &'static str, orders_per_point: usize, rows: Vec<Row>) -> Self {
        let proof = Proof::of(&rows);
        Self { scenario, orders_per_point, rows, proof }
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "crash point",
            "as",
            "naive: paid",
            "packets",
            "lost",
            "double",
            "ghost",
            "heal s",
            "transactional: paid",
            "packets",
            "lost",
            "double",
            "ghost",
            "heal s",
        ]);
        for row in &self.rows {
            let mut cells = vec![Cell::new(format!("{}: {}", row.place, row.point)), Cell::new(row.crash)];
            cells.extend(outcome_cells(row.naive.as_ref()));
            cells.extend(outcome_cells(row.transactional.as_ref()));
            table.add_row(cells);
        }
        for column in 2..14 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

fn outcome_cells(outcome: Option<&Outcome>) -> Vec<Cell> {
    let Some(outcome) = outcome else {
        return std::iter::once(Cell::new("n/a")).chain((0..5).map(|_| Cell::new(""))).collect();
    };
    let heal = outcome.heal_seconds.map_or("never".into(), |seconds| format!("{seconds:.1}"));
    let counts = [outcome.paid, outcome.packets, outcome.lost, outcome.duplicate, outcome.ghost];
    counts.into_iter().map(Cell::new).chain([Cell::new(heal)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(paid: &[&str], packets: &[(&str, usize)]) -> Outcome {
        let paid: Vec<String> = paid.iter().map(|order| (*order).to_owned()).collect();
        Outcome::count(&paid, &packets.iter().map(|(order, n)| ((*order).to_owned(), *n)).collect(), Some(1.0))
    }

    #[test]
    fn losses_doubles_and_ghosts_are_counted_from_the_tables() {
        for (paid, packets, lost, duplicate, ghost) in [
            (&["a", "b"][..], &[("a", 1), ("b", 1)][..], 0, 0, 0),
            (&["a", "b"], &[("a", 1)], 1, 0, 0),
            (&["a", "b"], &[("a", 3), ("b", 1)], 0, 2, 0),
            (&["a"], &[("a", 1), ("x", 2)], 0, 0, 2),
            (&[], &[], 0, 0, 0),
        ] {
            let outcome = counted(paid, packets);
            assert_eq!(
                (outcome.lost, outcome.duplicate, outcome.ghost),
                (lost, duplicate, ghost),
                "{paid:?} {packets:?}"
            );
            assert_eq!(outcome.heal_seconds.is_some(), lost == 0);
        }
    }

    #[test]
    fn the_replay_proves_nothing_unless_the_naive_way_loses_on_both_sides_and_ours_on_none() {
        let clean = counted(&["a"], &[("a", 1)]);
        let lossy = counted(&["a"], &[]);
        let row = |place, naive: &Outcome, transactional: &Outcome| Row {
            place,
            point: "p",
            crash: Crash::Kill,
            naive: Some(naive.clone()),
            transactional: Some(transactional.clone()),
        };
        for (producer, consumer, ours, holds) in [
            (&lossy, &lossy, &clean, true),
            (&clean, &lossy, &clean, false),
            (&lossy, &clean, &clean, false),
            (&lossy, &lossy, &lossy, false),
        ] {
            // What the broker loses for the naive way proves nothing about either side.
            let broker = row(Place::Broker, &lossy, &clean);
            let rows = [row(Place::Producer, producer, ours), broker, row(Place::Consumer, consumer, &clean)];
            assert_eq!(Proof::of(&rows).holds(), holds);
        }
        assert!(!Proof::of(&[]).holds());
    }
}
