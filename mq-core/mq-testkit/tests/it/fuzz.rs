//! The fuzz targets under stable Rust: real traffic of Apache's clients, mutated from seeds.

#[path = "../../../fuzz/seeds.rs"]
mod seeds;
#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::panic;

use mq_testkit::process::workspace;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seeds::{Seeds, mutate};
use targets::TARGETS;

use crate::{replay, times};

#[test]
fn no_bytes_of_others_make_a_reader_panic() {
    // CHECKBACK_CRASHES=100000 looks further.
    let cases = u64::from(times(500));
    let seeds = Seeds::read();
    for (name, target) in TARGETS {
        let seeds = seeds.of(name);
        assert!(!seeds.is_empty(), "{name}");
        seeds.iter().for_each(|seed| target(seed));
        for case in 0..cases {
            let mut dice = StdRng::seed_from_u64(case);
            let mut pick = || &seeds[dice.random_range(0..seeds.len())];
            let (seed, other) = (pick(), pick());
            let bytes = mutate(&mut dice, seed, other);
            if let Err(panic) = panic::catch_unwind(|| target(&bytes)) {
                println!("{name}, case {case}: {:?}; {}", bytes, replay("fuzz::", case));
                panic::resume_unwind(panic);
            }
        }
        println!("{name}: {} seeds, {cases} mutations", seeds.len());
    }
}

#[test]
fn libfuzzer_has_each_of_them() {
    let directory = workspace().join("mq-core/fuzz");
    let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    let entries = std::fs::read_dir(directory.join("fuzz_targets")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<_> = TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect();
    files.sort();
    expected.sort();
    assert_eq!(files, expected);
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in Cargo.toml");
        let program = std::fs::read_to_string(directory.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("targets::{name}(data)")), "{name}.rs runs another target");
    }
}
