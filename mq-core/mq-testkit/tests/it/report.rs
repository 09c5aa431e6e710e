//! The end of `make test`: what its tests had to show, in one place.

use std::fs;

use mq_testkit::report::directory;

/// What the run owes to its reader, by the beginnings of the names.
const OWED: [(&str, usize); 6] = [
    ("10 official client", 4),
    ("20 mqadmin", 1),
    ("30 dashboard", 1),
    ("40 disk", 4),
    ("50 tickets", 4),
    ("60 proof", 6),
];

#[test]
#[ignore = "the last step of `make test`: it prints the tables that the others left"]
fn every_table_of_this_run_is_there() {
    let entries = fs::read_dir(directory()).expect("the tests before this one leave their tables here");
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names {
        println!("\n{}", fs::read_to_string(directory().join(name)).unwrap().trim_end());
    }
    for (owed, count) in OWED {
        let found = names.iter().filter(|name| name.starts_with(owed)).count();
        assert_eq!(found, count, "tables named \"{owed} …\": run the whole of `make test`");
    }
}
