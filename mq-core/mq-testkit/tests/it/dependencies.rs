//! The arrows of docs/ARCHITECTURE.md, checked against `cargo metadata`: an edge that points the other way fails.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What each crate may use of the workspace. A crate that is missing here, or an edge that is not listed, is an error.
const ARROWS: &[(&str, &[&str])] = &[
    ("mq-protocol", &[]),
    ("mq-filter", &[]),
    ("mq-files", &[]),
    ("mq-store", &["mq-protocol"]),
    ("mq-namesrv", &["mq-protocol", "mq-files"]),
    ("mq-client", &["mq-protocol", "mq-files"]),
    ("txn-coordinator", &["mq-protocol", "mq-store"]),
    ("mq-broker", &["mq-protocol", "mq-filter", "mq-files", "mq-store", "txn-coordinator"]),
    ("mq-server", &["mq-protocol", "mq-store", "mq-broker", "mq-namesrv", "mq-client"]),
    ("txn-sdk", &["mq-protocol", "mq-client"]),
    ("order-service", &["mq-protocol", "mq-client", "txn-sdk"]),
    ("seckill-demo", &["mq-protocol", "mq-client", "txn-sdk", "order-service"]),
    (
        TESTKIT,
        &["mq-protocol", "mq-filter", "mq-store", "mq-namesrv", "mq-client", "txn-coordinator", "mq-broker", "txn-sdk"],
    ),
];

/// Only tests may use it: it is how a service's test gets a broker without its crate knowing one.
const TESTKIT: &str = "mq-testkit";

/// Edges of tests only, against the arrows and on purpose: the client's own tests talk to a broker in their process.
const TEST_EDGES: &[(&str, &[&str])] = &[("mq-client", &["mq-broker", "mq-namesrv", "mq-store"])];

/// Third-party crates that a room keeps out: (crate, what it must not know).
const ABSENCES: &[(&str, &[&str])] = &[
    ("mq-protocol", &["tokio", "memmap2", "rustix"]),
    ("mq-filter", &["tokio", "bytes", "serde"]),
    ("mq-files", &["tokio", "serde"]),
    ("mq-store", &["tokio"]),
    ("txn-coordinator", &["tokio"]),
    ("txn-sdk", &["axum", "redis"]),
    ("order-service", &["redis"]),
];

struct Edge {
    from: String,
    to: String,
    kind: DependencyKind,
}

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().expect("cargo metadata answers")
}

fn edges(metadata: &Metadata) -> impl Iterator<Item = Edge> {
    metadata.workspace_packages().into_iter().flat_map(|package| {
        package.dependencies.iter().map(|dependency| Edge {
            from: package.name.to_string(),
            to: dependency.name.clone(),
            kind: dependency.kind,
        })
    })
}

/// Every edge that `arrows` does not allow, in words.
fn violations(edges: impl Iterator<Item = Edge>, members: &BTreeSet<String>) -> Vec<String> {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let test_edges: BTreeMap<_, _> = TEST_EDGES.iter().copied().collect();
    edges
        .filter(|edge| members.contains(&edge.to))
        .filter(|edge| match edge.kind {
            // Tests may reach whatever lies below them, and the test kit.
            DependencyKind::Development => {
                edge.to != TESTKIT && edge.from != TESTKIT && !allowed(&arrows, edge) && !allowed(&test_edges, edge)
            }
            _ => !allowed(&arrows, edge),
        })
        .map(|Edge { from, to, kind }| format!("{from} -> {to} ({kind})"))
        .collect()
}

fn allowed(arrows: &BTreeMap<&str, &[&str]>, edge: &Edge) -> bool {
    arrows.get(edge.from.as_str()).is_some_and(|targets| targets.contains(&edge.to.as_str()))
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let planned: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(members, planned, "a new crate gets its place in ARROWS");
    let wrong = violations(edges(&metadata), &members);
    assert!(wrong.is_empty(), "edges against the arrows of docs/ARCHITECTURE.md: {wrong:#?}");
}

#[test]
fn rooms_stay_free_of_what_they_must_not_know() {
    let wrong: Vec<_> = edges(&metadata())
        .filter(|edge| edge.kind != DependencyKind::Development)
        .filter(|edge| ABSENCES.iter().any(|(from, absent)| *from == edge.from && absent.contains(&edge.to.as_str())))
        .map(|edge| format!("{} -> {}", edge.from, edge.to))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_edge_that_points_the_other_way_is_found() {
    let members: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let edge = |from: &str, to: &str, kind| Edge { from: from.into(), to: to.into(), kind };
    let edges = [
        edge("mq-store", "mq-broker", DependencyKind::Normal),
        edge("order-service", "mq-store", DependencyKind::Normal),
        edge("order-service", "mq-broker", DependencyKind::Development),
        edge("mq-broker", "mq-testkit", DependencyKind::Normal),
        edge("mq-broker", "mq-testkit", DependencyKind::Development),
        edge("mq-broker", "mq-store", DependencyKind::Normal),
        edge("mq-broker", "tokio", DependencyKind::Normal),
    ];
    let found = violations(edges.into_iter(), &members);
    assert_eq!(
        found,
        [
            "mq-store -> mq-broker (normal)",
            "order-service -> mq-store (normal)",
            "order-service -> mq-broker (dev)",
            "mq-broker -> mq-testkit (normal)",
        ]
    );
}
