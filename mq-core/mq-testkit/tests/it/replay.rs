//! The scenarios of `make replay-apache`, our column: public tickets about Apache's transactional messages, done right.

use std::fmt::Write as _;
use std::thread;

use mq_testkit::process::MqProcess;
use mq_testkit::replay::{Scenario, Setting, Stage, scenarios, unreplicated};
use mq_testkit::report;
use tempfile::TempDir;

/// Side by side on one broker: each has a producer group and topics of its own.
fn all_are_right(setting: Setting) {
    let directory = TempDir::new().unwrap();
    let mut mq = MqProcess::new(directory.path(), &setting.configuration()).unwrap();
    mq.start().unwrap();
    let stage = Stage { broker: mq.broker, setting };
    let played: Vec<Scenario> = scenarios().into_iter().filter(|scenario| scenario.setting == setting).collect();
    let outcomes = thread::scope(|scope| {
        let running: Vec<_> = played.iter().map(|scenario| scope.spawn(|| (scenario.run)(&stage))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    let (mut wrong, mut table) = (Vec::new(), String::new());
    for (scenario, outcome) in played.iter().zip(outcomes) {
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", scenario.tickets, mq.log()));
        writeln!(table, "{}: {}: {}", scenario.tickets, scenario.done, outcome.did).expect("memory takes text");
        if !outcome.is_right {
            wrong.push(format!("{}: {}, right is: {}", scenario.tickets, outcome.did, scenario.right));
        }
    }
    report::show(&format!("50 tickets {setting:?}"), &table);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", mq.log());
}

#[test]
fn tickets_about_verdicts_checks_and_delays_do_not_hold_here() {
    all_are_right(Setting::Short);
}

#[test]
fn a_half_that_is_checked_is_not_written_again() {
    all_are_right(Setting::FifteenChecks);
}

#[test]
fn one_strange_half_does_not_hold_up_the_others() {
    all_are_right(Setting::Alone);
}

/// On Apache's broker: ours has no replica yet, and the fault of these tickets is a client's.
#[test]
fn a_half_that_no_replica_confirmed_is_not_rolled_back_behind_a_call_that_succeeds() {
    let played = unreplicated().unwrap();
    report::show("50 tickets on Apache's broker", &format!("{}: our SDK: {}\n", played.tickets, played.ours.did));
    assert!(played.ours.is_right, "{}, right is: {}", played.ours.did, played.right);
}
