//! The crash points of "paid, but no red packet": which process dies, exactly where, and how each way reaches it.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Commit, then send without retry; acknowledge, then work.
    Naive,
    /// The transactional message and the inbox.
    Transactional,
}

/// Whose process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Producer,
    Broker,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crash {
    /// The process ends; what the kernel holds survives.
    Kill,
    /// Every byte above the durable mark is dropped first.
    PowerCut,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer",
            Self::Broker => "broker",
            Self::Consumer => "consumer",
        })
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::PowerCut => "power cut",
        })
    }
}

/// Where the second order's payment crashes, and under which failpoint each way has that place.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub place: Place,
    pub name: &'static str,
    pub crash: Crash,
    /// `None`: this way has no such point.
    pub naive: Option<Failpoint>,
    pub transactional: Option<Failpoint>,
}

/// A failpoint that lets `passes` visits through and ends the process at the next.
#[derive(Clone, Copy, Debug)]
pub struct Failpoint {
    pub name: &'static str,
    pub passes: u32,
}

impl Failpoint {
    /// The text for the `FAILPOINTS` variable of the process that is to die.
    #[must_use]
    pub fn arm(self, crash: Crash) -> String {
        let how = match crash {
            Crash::Kill => "kill",
            Crash::PowerCut => "power-cut",
        };
        format!("{}={}*off->return({how})", self.name, self.passes)
    }
}

impl Point {
    #[must_use]
    pub fn failpoint(&self, way: Way) -> Option<Failpoint> {
        match way {
            Way::Naive => self.naive,
            Way::Transactional => self.transactional,
        }
    }
}

/// One visit per order: the second order dies.
const fn second_order(name: &'static str) -> Option<Failpoint> {
    Some(Failpoint { name, passes: 1 })
}

/// The broker appends (and flushes) once for a plain send.
const fn second_send(name: &'static str) -> Option<Failpoint> {
    Some(Failpoint { name, passes: 1 })
}

/// The broker appends (and flushes) twice for a transaction, half and commit: the fourth is the second order's commit.
const fn second_commit(name: &'static str) -> Option<Failpoint> {
    Some(Failpoint { name, passes: 3 })
}

const fn producer(name: &'static str, naive: Option<Failpoint>, transactional: Option<Failpoint>) -> Point {
    Point { place: Place::Producer, name, crash: Crash::Kill, naive, transactional }
}

const fn broker(name: &'static str, crash: Crash, naive: Option<Failpoint>, transactional: Option<Failpoint>) -> Point {
    Point { place: Place::Broker, name, crash, naive, transactional }
}

const fn consumer(name: &'static str, naive: Option<Failpoint>, transactional: Option<Failpoint>) -> Point {
    Point { place: Place::Consumer, name, crash: Crash::Kill, naive, transactional }
}

/// In the order of a payment's way.
pub const POINTS: &[Point] = &[
    producer("before the half message", None, second_order("txn-before-half")),
    producer("after the half message", None, second_order("txn-after-half")),
    producer("after the business rows", second_order("naive-after-rows"), second_order("txn-after-rows")),
    producer(
        "between commit and send",
        second_order("naive-between-commit-and-send"),
        second_order("txn-between-commit-and-end"),
    ),
    producer("after the send", second_order("naive-after-send"), second_order("txn-after-end")),
    broker("after append", Crash::Kill, second_send("store-after-append"), second_commit("store-after-append")),
    broker("after append", Crash::PowerCut, second_send("store-after-append"), second_commit("store-after-append")),
    broker("before flush", Crash::Kill, second_send("store-before-flush"), second_commit("store-before-flush")),
    broker("before flush", Crash::PowerCut, second_send("store-before-flush"), second_commit("store-before-flush")),
    broker("after flush", Crash::Kill, second_send("store-after-flush"), second_commit("store-after-flush")),
    broker("after flush", Crash::PowerCut, second_send("store-after-flush"), second_commit("store-after-flush")),
    broker("torn commit", Crash::Kill, None, second_order("store-torn-group")),
    broker("torn commit", Crash::PowerCut, None, second_order("store-torn-group")),
    consumer("before the work", second_order("naive-before-work"), second_order("inbox-before-row")),
    consumer("after the inbox row", None, second_order("inbox-after-row")),
    consumer("before the acknowledgement", second_order("naive-before-ack"), second_order("inbox-before-ack")),
];

/// The points whose name or place contains one of `wanted`; all of them when nothing is wanted.
pub fn select(wanted: &[String]) -> Vec<&'static Point> {
    let matches = |point: &Point, text: &String| point.name.contains(text.as_str()) || point.place.to_string() == *text;
    POINTS.iter().filter(|point| wanted.is_empty() || wanted.iter().any(|text| matches(point, text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_reached_by_the_transactional_way_and_power_is_cut_at_the_broker_only() {
        for point in POINTS {
            assert!(point.transactional.is_some(), "{}", point.name);
            assert!(point.crash == Crash::Kill || point.place == Place::Broker, "{}", point.name);
        }
    }

    #[test]
    fn points_are_selected_by_place_or_by_a_part_of_their_name() {
        assert_eq!(select(&[]).len(), POINTS.len());
        assert!(select(&["consumer".into()]).iter().all(|point| point.place == Place::Consumer));
        assert_eq!(select(&["torn".into(), "between".into()]).len(), 3);
        assert!(select(&["nowhere".into()]).is_empty());
    }
}
