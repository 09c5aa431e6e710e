//! Runs `engine_cases.txt`: every state with every input, then stories, then all short histories.
//!
//! `BLESS=1 cargo test -p txn-coordinator cases` rewrites the file's right-hand sides; read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::*;

const TABLE: &str = include_str!("engine_cases.txt");

/// Small numbers, so that a table can reach every limit: two checks, and nobody to ask for three intervals.
fn rules() -> Rules {
    Rules { check_max: 2, reserved: Duration::from_secs(90), settled_max: 2, ..Rules::default() }
}

/// The engine beside what a driver knows: the time, and which transaction each half on disk belongs to.
#[derive(Clone)]
struct Bench {
    engine: Engine,
    now: UnixMillis,
    on_disk: BTreeMap<HalfOffset, String>,
}

impl Bench {
    fn new() -> Self {
        let engine = Engine::new(rules(), Verdicts::default());
        Self { engine, now: UnixMillis(1_000_000_000), on_disk: BTreeMap::new() }
    }

    /// Runs a line. With a trailing `!` its actions are carried out: what they append is reported as written, checks as
    /// delivered.
    fn run(&mut self, line: &str) -> Vec<Action> {
        let (line, carry_out) = line.strip_suffix('!').map_or((line, false), |line| (line, true));
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        if let Some(seconds) = words[0].strip_prefix("at") {
            self.now = UnixMillis(1_000_000_000 + seconds.trim_start_matches('=').parse::<i64>().unwrap() * 1000);
            return Vec::new();
        }
        let half = || HalfOffset(words[1].parse().unwrap());
        let input = match words[0] {
            "half" => {
                let transaction = TransactionKey::new("g", words[2]);
                self.on_disk.insert(half(), words[2].to_owned());
                Input::Stored(Half {
                    offset: half(),
                    transaction,
                    part: option("part").map_or(Part::WHOLE, |part| Part::parse(part).unwrap()),
                    check_max: option("max").map(|max| max.parse().unwrap()),
                    stored_at: option("stored")
                        .map_or(self.now, |at| UnixMillis(1_000_000_000 + at.parse::<i64>().unwrap() * 1000)),
                    immunity: Duration::from_secs(option("immunity").map_or(0, |s| s.parse().unwrap())),
                    checks: option("checks").map_or(0, |s| s.parse().unwrap()),
                    resumes: words.contains(&"resumed"),
                    client: option("client").map(Into::into),
                })
            }
            "end" => Input::End(End {
                half: half(),
                verdict: match words[2] {
                    "commit" => Verdict::Commit,
                    "rollback" => Verdict::Rollback,
                    _ => Verdict::Unknown,
                },
                on_disk: match self.on_disk.get(&half()) {
                    _ if words.contains(&"elsewhere") => Err(Refusal::WrongLogOffset),
                    None => Err(Refusal::NoSuchHalf),
                    Some(_) if option("group").is_some_and(|group| group != "g") => Err(Refusal::WrongGroup),
                    Some(id) if option("id").is_some_and(|asked| asked != id) => Err(Refusal::WrongTransaction),
                    Some(_) => Ok(()),
                },
            }),
            "due" => Input::Due,
            "delivered" => Input::CheckSent(half(), CheckResult::Delivered),
            "held" => Input::CheckSent(half(), CheckResult::HeldBack),
            "nobody" => Input::CheckSent(half(), CheckResult::NobodyToAsk),
            "decided" => Input::Decided(half(), outcome(words[2]).unwrap()),
            "written" => {
                let halves = words[1].split(',').map(|half| HalfOffset(half.parse().unwrap())).collect();
                Input::Written(halves, outcome(words[2]))
            }
            "gone" => Input::Gone(half()),
            "now" => Input::CheckNow(half()),
            "counted" => Input::Counted(
                half(),
                Count {
                    checks: words[2].parse().unwrap(),
                    unasked: option("unasked").map_or(0, |n| n.parse().unwrap()),
                },
            ),
            "copy" => Input::CopyEnded(
                QueueOffset(words[1].parse().unwrap()),
                match words[2] {
                    "resumed" => CopyEnd::Resumed,
                    "committed" => CopyEnd::Committed,
                    _ => CopyEnd::RolledBack,
                },
            ),
            other => panic!("unknown word {other:?} in {line:?}"),
        };
        let actions = self.engine.step(self.now, input);
        if carry_out {
            actions.iter().for_each(|action| self.carry_out(action));
        }
        actions
    }

    fn carry_out(&mut self, action: &Action) {
        let done = match action.clone() {
            Action::Commit { ends, .. } => Input::Written(ends, Some(Outcome::Committed)),
            Action::Rollback { ends } => Input::Written(ends, Some(Outcome::RolledBack)),
            Action::Close { ends, outcome, .. } => Input::Written(ends, Some(outcome)),
            Action::Park { ends, .. } => Input::Written(ends, Some(Outcome::Parked)),
            Action::Check { half, .. } => Input::CheckSent(half, CheckResult::Delivered),
            Action::Acknowledge(_) | Action::Refuse(_) => return,
        };
        assert_eq!(self.engine.step(self.now, done), [], "reports lead to no further actions");
    }

    /// What an operator who wants to resume or resolve a copy hears: `may copy 0 of a?`.
    fn wish(&self, line: &str) -> Option<String> {
        let (copy, id) = line.strip_prefix("may copy ")?.strip_suffix('?')?.split_once(" of ")?;
        let copy = QueueOffset(copy.parse().unwrap());
        Some(match self.engine.parked_now(copy, &TransactionKey::new("g", id)) {
            ParkedNow::Parked => "yes".to_owned(),
            now => format!("no: it {now}"),
        })
    }

    /// The halves that are open or ended, and when the engine wants to look next.
    fn state(&self) -> String {
        let mut text = String::new();
        for half in self.on_disk.keys() {
            let state = match (self.engine.is_open(*half), self.engine.outcome(*half)) {
                (true, None) => "open".to_owned(),
                (false, Some(outcome)) => outcome.to_string(),
                (false, None) => "unknown".to_owned(),
                (true, Some(_)) => panic!("half {half} is open and has ended"),
            };
            write!(text, "{half} {state}, ").unwrap();
        }
        match self.engine.next_due() {
            Some(due) => write!(text, "next at {}", (due.0 - 1_000_000_000) / 1000).unwrap(),
            None => text.push_str("nothing due"),
        }
        text
    }
}

fn outcome(word: &str) -> Option<Outcome> {
    match word {
        "committed" => Some(Outcome::Committed),
        "rolled-back" => Some(Outcome::RolledBack),
        "parked" => Some(Outcome::Parked),
        _ => None,
    }
}

fn print(actions: &[Action]) -> String {
    let list = |ends: &[HalfOffset]| ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let of = |copies: &[HalfOffset]| if copies.is_empty() { String::new() } else { format!(" of {}", list(copies)) };
    let one = |action: &Action| match action {
        Action::Commit { copies, ends } => format!("commit {}, ending {}", list(copies), list(ends)),
        Action::Rollback { ends } => format!("roll back, ending {}", list(ends)),
        Action::Close { copies, ends, outcome } => {
            format!("close as {outcome}{}, ending {}", of(copies), list(ends))
        }
        Action::Park { copies, ends, reason, checks } => {
            format!("park {} after {checks} checks ({reason}), ending {}", list(copies), list(ends))
        }
        Action::Check { half, client: None, attempt } => format!("check {half} (attempt {attempt})"),
        Action::Check { half, client: Some(client), attempt } => {
            format!("check {half} at {client} (attempt {attempt})")
        }
        Action::Acknowledge(outcome) => format!("acknowledge: {outcome}"),
        Action::Refuse(refusal) => format!("refuse: {refusal}"),
    };
    if actions.is_empty() { "nothing".into() } else { actions.iter().map(one).collect::<Vec<_>>().join(" + ") }
}

/// The table with its right-hand sides as the engine fills them in.
fn replay(table: &str) -> String {
    let (mut out, mut bench, mut matrix) = (String::new(), Bench::new(), false);
    for line in table.lines() {
        let left = line.split(" => ").next().unwrap().trim_end();
        match left.split_once(": ") {
            _ if left.is_empty() || left.starts_with('#') => {}
            Some((title, setup)) => {
                bench = Bench::new();
                matrix = title.starts_with("state");
                setup.split(';').for_each(|step| drop(bench.run(step.trim())));
            }
            None => {
                let mut fork = bench.clone();
                let said = fork.wish(left).unwrap_or_else(|| {
                    print(&left.split(';').flat_map(|step| fork.run(step.trim())).collect::<Vec<_>>())
                });
                writeln!(out, "{left:<32} => {said} | {}", fork.state()).unwrap();
                if !matrix {
                    bench = fork;
                }
                continue;
            }
        }
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
    out
}

#[test]
fn engine_does_what_the_table_says() {
    let filled = replay(TABLE);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine_cases.txt"), &filled).unwrap();
        return;
    }
    for (number, (expected, actual)) in TABLE.lines().zip(filled.lines()).enumerate() {
        assert_eq!(expected, actual, "engine_cases.txt line {}", number + 1);
    }
}

#[test]
fn every_state_of_the_table_meets_every_input() {
    let mut states: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in TABLE.lines().take_while(|line| !line.starts_with("story")) {
        if line.starts_with("state") {
            states.push((line.to_owned(), BTreeSet::new()));
        } else if let (Some((left, _)), Some((_, inputs))) = (line.split_once(" => "), states.last_mut()) {
            inputs.insert(left.trim().to_owned());
        }
    }
    assert!(states.len() >= 12);
    let all: BTreeSet<_> = states.iter().flat_map(|(_, inputs)| inputs.clone()).collect();
    for (state, inputs) in states {
        assert_eq!(all.difference(&inputs).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in {state:?}");
    }
}

/// Everything that can happen to two transactions of three halves, in every order, five steps deep.
#[test]
fn every_short_history_keeps_the_invariants() {
    const STEPS: [&str; 13] = [
        "half 1 a",
        "half 2 a",
        "half 3 b",
        "end 1 commit!",
        "end 1 rollback",
        "end 2 rollback!",
        "end 3 commit!",
        "due!",
        "at=36;due!",
        "at=66;due",
        "nobody 1",
        "written 2 ?",
        "decided 1 committed",
    ];
    fn explore(bench: &Bench, history: &mut Vec<&'static str>, seen: &mut u64) {
        *seen += 1;
        if history.len() == 5 {
            return;
        }
        for step in STEPS {
            history.push(step);
            let mut next = bench.clone();
            for part in step.split(';') {
                let before = next.engine.clone();
                let actions = next.run(part);
                assert_invariants(&before, &next.engine, &actions, history);
            }
            explore(&next, history, seen);
            history.pop();
        }
    }
    let mut seen = 0;
    explore(&Bench::new(), &mut Vec::new(), &mut seen);
    assert_eq!(seen, (0..=5).map(|depth| 13u64.pow(depth)).sum::<u64>());
}

fn assert_invariants(before: &Engine, after: &Engine, actions: &[Action], history: &[&str]) {
    for half in (1..=3).map(HalfOffset) {
        let (was, is) = (before.outcome(half), after.outcome(half));
        assert!(was.is_none() || was == is, "half {half} changed its outcome: {history:?}");
        assert!(!(after.is_open(half) && is.is_some()), "half {half} is open and ended: {history:?}");
    }
    let open = after.table.audit();
    assert!(open.iter().all(|open| open.checks <= 2), "too many checks: {history:?}");
    for action in actions {
        let (Action::Commit { ends, .. }
        | Action::Rollback { ends }
        | Action::Park { ends, .. }
        | Action::Close { ends, .. }) = action
        else {
            continue;
        };
        assert!(ends.is_sorted() && ends.iter().all(|half| before.is_open(*half)), "ends what is open: {history:?}");
        let all = before.pending_of(ends[0]).unwrap().halves;
        assert_eq!(all, *ends, "a verdict ends all siblings: {history:?}");
    }
}
