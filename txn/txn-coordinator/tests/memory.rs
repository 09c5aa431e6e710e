//! What a pending half takes of the broker's memory, counted by the allocator: hence a binary of its own, with one test.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A helper that cannot go on fails its test; the figure is told.

use std::time::Duration;

use cap::Cap;
use mq_protocol::ids::UnixMillis;
use txn_coordinator::engine::{End, Engine, Half, Input};
use txn_coordinator::{HalfOffset, Outcome, Part, Rules, TransactionKey, Verdict, Verdicts};

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

const HALVES: u64 = 100_000;
/// A million of them are to take 200 MB in the process; this leaves the rest to the allocator and to everything else.
const MAX_BYTES_EACH: usize = 160;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn half(number: u64) -> Half {
    Half {
        offset: HalfOffset(number),
        // As long as the keys that Java clients make.
        transaction: TransactionKey::new(format!("group-{}", number % 10), format!("7F00000100001F90{number:016X}")),
        part: Part::WHOLE,
        stored_at: NOW,
        immunity: Duration::ZERO,
        check_max: None,
        checks: 0,
        resumes: false,
        client: Some(format!("10.1.1.{}@1#2", number % 100).into()),
    }
}

#[test]
fn a_pending_half_takes_160_bytes_at_most_and_gives_them_back() {
    let mut engine = Engine::new(Rules { settled_max: 100, ..Rules::default() }, Verdicts::default());
    let step = |engine: &mut Engine, input| engine.step(NOW, input);
    let before = ALLOCATOR.allocated();
    for number in 0..HALVES {
        assert!(step(&mut engine, Input::Stored(half(number))).is_empty());
    }
    let each = (ALLOCATOR.allocated() - before) / HALVES as usize;
    println!("bytes of memory for each of {HALVES} pending halves: {each}");
    assert!(each <= MAX_BYTES_EACH, "{each} bytes for each pending half");
    for number in 0..HALVES {
        let end = End { half: HalfOffset(number), verdict: Verdict::Commit, on_disk: Ok(()) };
        assert_eq!(step(&mut engine, Input::End(end)).len(), 1);
        let written = Input::Written(vec![HalfOffset(number)].into(), Some(Outcome::Committed));
        assert!(step(&mut engine, written).is_empty());
    }
    // What is kept is the room for as many, without their keys.
    let kept = (ALLOCATOR.allocated() - before) / HALVES as usize;
    println!("kept for the next ones: {kept}");
    assert!(engine.pending() == 0 && kept < 90, "{kept} bytes of each half that has ended");
}
