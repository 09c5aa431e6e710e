//! `mq store`: the scrub of a stopped broker's directory.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::process::{Mq, outcome, printed};
use crate::wire::Client;

/// A broker that holds three messages.
fn with_three_orders(store: &Path) -> Mq {
    let mq = Mq::up(store, &[]);
    let mut client = Client::connect(mq.broker());
    for text in ["one", "two", "three"] {
        client.send("orders", text);
    }
    mq
}

#[test]
fn verify_is_silent_on_a_whole_store_and_fails_on_a_damaged_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().to_str().expect("a plain path");
    let mq = with_three_orders(directory.path());
    let (success, said) = outcome(&["store", "verify", "--store", store]);
    assert!(!success && said.contains("another process has this store open"), "{said}");
    assert!(mq.stop().success());

    let (success, said, error) = printed(&["store", "verify", "--store", store]);
    assert!(success && said.ends_with("\nwhole\n"), "{said}{error}");
    assert!(said.starts_with("3 records in log offsets 0.."), "{said}");

    let log = directory.path().join("commitlog/00000000000000000000");
    let file = fs::File::options().write(true).open(&log).expect("the log");
    // The magic of the first record.
    file.write_all_at(&[0], 5).expect("written");
    let (success, said, error) = printed(&["store", "verify", "--store", store]);
    assert!(!success && error.contains(&format!("{store} is damaged: 1 findings")), "{error}");
    assert!(said.contains(&format!("LOST {} bytes 0..", log.display())), "{said}");
    assert!(said.contains("affects topic orders queue 0 offsets 0 to 0"), "{said}");

    fs::write(directory.path().join("config/topics.json"), "{").expect("written");
    let (success, said, _) = printed(&["store", "verify", "--store", store, "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(!success && report["damaged"] == true, "{report}");
    let paths: Vec<_> = report["findings"].as_array().expect("a list").iter().map(|one| &one["path"]).collect();
    assert!(paths.iter().any(|path| path.as_str().is_some_and(|path| path.ends_with("topics.json"))), "{report}");
}

#[test]
fn rebuild_has_the_next_start_write_lost_queues_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().to_str().expect("a plain path");
    let mq = with_three_orders(directory.path());
    assert!(mq.stop().success());
    let queue = directory.path().join("consumequeue/orders/0/00000000000000000000");
    let file = fs::File::options().write(true).open(queue).expect("the queue");
    file.write_all_at(&[0; 40], 0).expect("written");
    let (success, said, _) = printed(&["store", "verify", "--store", store]);
    assert!(!success && said.contains("damaged, nothing is lost"), "{said}");
    assert!(outcome(&["store", "rebuild", "--store", store]).0);
    let mq = Mq::up(directory.path(), &[]);
    assert_eq!(Client::connect(mq.broker()).texts("orders"), ["one", "two", "three"]);
    assert!(mq.stop().success());
    let (success, said, _) = printed(&["store", "verify", "--store", store]);
    assert!(success, "{said}");
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("none");
    let (success, said) = outcome(&["store", "verify", "--store", store.to_str().expect("a plain path")]);
    assert!(!success && said.contains("there is no store at"), "{said}");
    assert!(!store.exists());
}
