//! Every step that can be missing, alone, with the cause that is named for it; and the whole of a good story.

use mq_protocol::body::{InboxAnswer, TxnEvent, TxnHalf, TxnShown, TxnState};

use super::super::facts::{GroupFacts, RetryFacts, RetryFate, TransactionFacts};
use super::*;

const NOW: i64 = 1_000_000;
const LATE: &str = "said commit, refused: the transaction is already parked; its first outcome stands";
const INCOMPLETE: &str =
    "said commit, refused: the transaction has 1 of its 2 messages; send the others first, or roll it back";

/// A transaction that was committed, and consumed by one group.
fn good() -> Facts {
    let told = TxnHalf {
        half: Some(7),
        part: 1,
        parts: 2,
        state: TxnState::Committed,
        checks: Some(1),
        max_checks: Some(15),
        ..TxnHalf::default()
    };
    let asked = TxnEvent { at: 11_000, half: 7, what: "was asked (check 1)".into(), by: Some("shop-1".into()) };
    let half = TransactionFacts {
        id: "K1".into(),
        group: "shop".into(),
        topic: "PAID".into(),
        broker: "a".into(),
        half: 7,
        stored_at: UnixMillis(10_000),
        again: Vec::new(),
        parked: Vec::new(),
        shown: Some(TxnShown { half: told, members: vec![7], history: vec![asked] }),
        sdk_transaction: Some("T1".into()),
        producers: 1,
    };
    let group = GroupFacts { group: "packets".into(), consumers: 2, committed: Some(5), ..GroupFacts::default() };
    let message = MessageFacts {
        id: "K1".into(),
        topic: "PAID".into(),
        broker: "a".into(),
        queue: 3,
        offset: 4,
        stored_at: UnixMillis(12_000),
        outbox_of: None,
        groups: vec![group],
    };
    Facts {
        key: "order-7".into(),
        now: UnixMillis(NOW),
        topics: vec!["PAID".into()],
        transactions: vec![half],
        messages: vec![message],
        ..Facts::default()
    }
}

/// The transaction without a verdict, and nothing published.
fn open(facts: &mut Facts) -> &mut TransactionFacts {
    facts.messages.clear();
    let half = &mut facts.transactions[0];
    half.stored_at = UnixMillis(NOW - 60_000);
    told(half).state = TxnState::Open;
    told(half).checks = Some(3);
    half
}

/// The same, given up now.
fn given_up(facts: &mut Facts) -> &mut TransactionFacts {
    let half = open(facts);
    half.parked = vec![(UnixMillis(NOW), 2)];
    told(half).state = TxnState::Parked;
    half
}

fn told(half: &mut TransactionFacts) -> &mut TxnHalf {
    &mut half.shown.as_mut().expect("its broker tells").half
}

fn says(half: &mut TransactionFacts, at: i64, what: &str) {
    half.shown.as_mut().expect("its broker tells").history.push(event(at, 7, what, "shop-1"));
}

/// The message without a transaction, before its group handled it.
fn unread(facts: &mut Facts) -> &mut GroupFacts {
    facts.transactions.clear();
    let group = &mut facts.messages[0].groups[0];
    group.committed = Some(1);
    group
}

fn retried(facts: &mut Facts, fate: RetryFate) -> &mut GroupFacts {
    let group = unread(facts);
    group.committed = Some(5);
    group.retries = vec![RetryFacts { at: UnixMillis(13_000), number: 2, fate }];
    group
}

fn not_there() -> Option<InboxAnswer> {
    Some(InboxAnswer::NotThere { key: "order-7".into() })
}

#[test]
fn a_rollback_is_told_with_who_gave_it_and_with_the_copy_from_the_outbox() {
    let said = |what: &str, by: &str| TxnEvent { at: 12_000, half: 7, what: what.into(), by: Some(by.into()) };
    let verdict = |change: fn(&mut Facts), history: &[TxnEvent]| {
        let mut facts = good();
        facts.messages[0].id = "K2".into();
        told(&mut facts.transactions[0]).state = TxnState::RolledBack;
        facts.transactions[0].shown.as_mut().expect("it tells").history.extend(history.iter().cloned());
        change(&mut facts);
        let steps = decide(&facts).timeline;
        steps.into_iter().find(|step| step.stage == Stage::Verdict).expect("a verdict").what
    };
    let alice = said("said rollback", "alice (127.0.0.1:5)");
    assert_eq!(verdict(|_| {}, &[]), "rolled back: nothing is published");
    assert_eq!(verdict(|_| {}, &[alice]), "rolled back by alice (127.0.0.1:5): nothing is published");
    assert_eq!(
        verdict(
            |facts| facts.messages[0].outbox_of = Some("T1".into()),
            &[said("said rollback", "shop-1"), said("said commit, refused: no", "shop-2")]
        ),
        "rolled back by shop-1: the transaction went to its producer's outbox, and came as K2"
    );
}

fn event(at: i64, half: u64, what: &str, by: &str) -> TxnEvent {
    TxnEvent { at, half, what: what.into(), by: Some(by.into()) }
}

/// The broker has forgotten the resuming, as it does when it is started again: the log still has the half.
#[test]
fn a_half_that_was_given_up_and_resumed_is_told_in_the_order_of_its_times() {
    let mut facts = good();
    facts.messages.clear();
    let half = &mut facts.transactions[0];
    (half.parked, half.again) = (vec![(UnixMillis(20_000), 2)], vec![(UnixMillis(30_000), 9)]);
    (told(half).state, told(half).parts) = (TxnState::RolledBack, 1);
    half.shown.as_mut().expect("its broker tells").history = vec![
        event(10_000, 7, "sent it", "shop-0"),
        event(11_000, 7, "was asked (check 1)", "shop-1"),
        event(12_000, 7, "said unknown", "127.0.0.1:5"),
        event(20_000, 7, "parked: no check was answered with a verdict", TxnEvent::THE_BROKER),
    ];
    let told = |facts: &Facts| {
        let steps = decide(facts).timeline.into_iter();
        steps.map(|step| format!("{} {:?}: {}", step.at.0, step.stage, step.what)).collect::<Vec<_>>()
    };
    let mut expected = vec![
        "10000 Half: half 7 for PAID stored on a by producer group shop (client shop-0)",
        "11000 Check: shop-1 was asked (check 1)",
        "12000 Check: 127.0.0.1:5 said unknown",
        "20000 Parked: given up, for no check was answered with a verdict: its copy is p2",
        "30000 Half: half 9 for PAID stored: an operator resumed p2",
        "30000 Verdict: rolled back: nothing is published",
    ];
    assert_eq!(told(&facts), expected);
    facts.transactions[0].parked.clear();
    expected.remove(3);
    expected[3] = "30000 Half: half 9 for PAID stored: its client sent it once more";
    assert_eq!(told(&facts), expected);
}

#[test]
fn what_happens_again_and_again_is_one_row() {
    let mut facts = good();
    let nobody = |at| TxnEvent { at, half: 7, what: "nobody is connected".into(), by: Some("the broker".into()) };
    let history = &mut facts.transactions[0].shown.as_mut().expect("it tells").history;
    history.splice(0..0, (1..=19).map(|n| nobody(10_000 + n)));
    let checks = decide(&facts).timeline.into_iter().filter(|step| step.stage == Stage::Check);
    let checks: Vec<String> = checks.map(|step| step.what).collect();
    assert_eq!(checks, ["nobody is connected, 19 times since", "shop-1 was asked (check 1)"]);
}

#[test]
fn what_an_operator_does_is_no_check() {
    let mut facts = good();
    let said = event(11_500, 7, "said commit", "operator alice (127.0.0.1:5)");
    facts.transactions[0].shown.as_mut().expect("it tells").history.push(said);
    let steps = decide(&facts).timeline.into_iter().map(|step| (step.stage, step.what));
    let by_hand: Vec<_> = steps.filter(|(stage, _)| *stage == Stage::Operator).collect();
    assert_eq!(by_hand, [(Stage::Operator, "operator alice (127.0.0.1:5) said commit".to_owned())]);
}

#[test]
fn each_missing_step_is_named_with_its_cause_and_what_to_do() {
    type Change = fn(&mut Facts);
    type Named = (Stage, &'static str, &'static str);
    let table: [(&str, Change, Option<Named>); 44] = [
        ("all there", |_| {}, None),
        ("rolled back", |facts| told(open(facts)).state = TxnState::RolledBack, None),
        (
            "nothing",
            |facts| *facts = Facts { topics: vec!["PAID".into()], ..Facts::default() },
            Some((Stage::Half, "no half message and no message of PAID has the key", "the producer's own log")),
        ),
        (
            "nobody to ask",
            |facts| open(facts).producers = 0,
            Some((
                Stage::Verdict,
                "half stored 60 s ago, 3 of 15 checks, no verdict: producer group shop has no client online",
                "start a client of shop",
            )),
        ),
        (
            "nobody to ask, and asked again soon",
            |facts| {
                let half = open(facts);
                half.producers = 0;
                told(half).next_check_at = Some(NOW + 30_000);
            },
            Some((Stage::Verdict, "no client online; the next check is due in 30 s", "mq admin txn resolve 7")),
        ),
        (
            "not asked yet",
            |facts| told(open(facts)).checks = Some(0),
            Some((Stage::Verdict, "not checked, no verdict: the producer has not said", "mq admin txn check 7")),
        ),
        (
            "not asked yet, and a part is missing",
            |facts| {
                let half = open(facts);
                told(half).checks = Some(0);
                says(half, NOW - 5_000, INCOMPLETE);
            },
            Some((
                Stage::Verdict,
                "not checked, no verdict: producer group shop said commit, refused: the transaction has 1 of its 2 messages",
                "send what is missing, or `mq admin txn resolve 7 rollback`",
            )),
        ),
        (
            "asked, and a part is missing",
            |facts| says(open(facts), NOW - 5_000, INCOMPLETE),
            Some((
                Stage::Verdict,
                "3 of 15 checks, no verdict: producer group shop said commit, refused",
                "send what is",
            )),
        ),
        (
            "an operator found that a part is missing",
            |facts| {
                let half = open(facts);
                told(half).checks = Some(0);
                let history = &mut half.shown.as_mut().expect("its broker tells").history;
                history.push(event(NOW - 5_000, 7, INCOMPLETE, "operator alice (127.0.0.1:5)"));
            },
            Some((Stage::Verdict, "the producer has not said how its transaction ended", "mq admin txn check 7")),
        ),
        (
            "asked in vain",
            |facts| {
                open(facts);
            },
            Some((Stage::Verdict, "1 client of shop online, but none answers checks", "the checker of shop")),
        ),
        (
            "asked, and not over yet",
            |facts| {
                let half = open(facts);
                told(half).next_check_at = Some(NOW + 9_000);
                says(half, NOW - 5_000, "said unknown");
            },
            Some((Stage::Verdict, "shop answers `unknown`: the transaction is not over", "wait;")),
        ),
        (
            "asked as often as may be",
            |facts| {
                let half = open(facts);
                (told(half).checks, told(half).next_check_at) = (Some(15), Some(NOW + 9_000));
            },
            Some((Stage::Verdict, "unless it is told before, it is given up in 9", "the checker of shop")),
        ),
        (
            "given up, and known since",
            |facts| {
                let half = given_up(facts);
                says(half, 11_500, "said unknown");
                says(half, NOW + 500, LATE);
            },
            Some((
                Stage::Verdict,
                "given up after 3 checks: producer group shop has said how the transaction ended only since then",
                "it will say so again when asked: `mq admin txn resume p2`",
            )),
        ),
        (
            "given up, for nobody was there, and known since",
            |facts| {
                let half = given_up(facts);
                told(half).checks = Some(0);
                says(half, NOW + 500, LATE);
            },
            Some((Stage::Verdict, "given up: producer group shop has said how the transaction ended", "say so again")),
        ),
        (
            "resumed and given up once more, and not known since",
            |facts| {
                let half = open(facts);
                half.again = vec![(UnixMillis(NOW - 10_000), 9)];
                half.parked = vec![(UnixMillis(NOW - 30_000), 2), (UnixMillis(NOW), 3)];
                told(half).state = TxnState::Parked;
                says(half, NOW - 20_000, LATE);
            },
            Some((
                Stage::Verdict,
                "given up after 3 checks: no client of producer group shop answered",
                "once the group knows: `mq admin txn resume p3`",
            )),
        ),
        (
            "given up, for a part is missing",
            |facts| says(given_up(facts), 11_500, INCOMPLETE),
            Some((
                Stage::Verdict,
                "given up after 3 checks: producer group shop said commit, refused: the transaction has 1 of its 2 messages",
                "once that is mended: `mq admin txn resume p2`",
            )),
        ),
        (
            "given up",
            |facts| {
                given_up(facts);
            },
            Some((
                Stage::Verdict,
                "given up after 3 checks: no client of producer group shop answered",
                "mq admin txn resume p2",
            )),
        ),
        (
            "given up, for nobody knew",
            |facts| says(given_up(facts), 11_500, "said unknown"),
            Some((
                Stage::Verdict,
                "given up after 3 checks: producer group shop answered, and never with a verdict",
                "mq admin txn resume p2",
            )),
        ),
        (
            "given up, for nobody was there",
            |facts| told(given_up(facts)).checks = Some(0),
            Some((Stage::Verdict, "given up: no client of producer group shop was there", "mq admin txn resume p2")),
        ),
        (
            "given up, by the log alone",
            |facts| {
                let half = open(facts);
                half.parked = vec![(UnixMillis(NOW), 2)];
                half.shown = None;
            },
            Some((Stage::Verdict, "given up: no client of producer group shop", "mq admin txn resume p2")),
        ),
        (
            "asked about again",
            |facts| {
                let half = open(facts);
                half.parked = vec![(UnixMillis(NOW - 20_000), 2)];
                half.again = vec![(UnixMillis(NOW - 10_000), 9)];
                told(half).state = TxnState::Resumed;
            },
            Some((Stage::Verdict, "half stored 10 s ago, 3 of 15 checks, no verdict", "mq admin txn resolve 9")),
        ),
        (
            "the broker does not tell",
            |facts| open(facts).shown = None,
            Some((Stage::Verdict, "its broker does not tell whether it is open or rolled back", "")),
        ),
        ("the broker does not tell, and it is out", |facts| facts.transactions[0].shown = None, None),
        (
            "committed and gone",
            |facts| facts.messages.clear(),
            Some((Stage::Visible, "committed, and not in the index of PAID", "")),
        ),
        (
            "kept back",
            |facts| {
                facts.messages.clear();
                facts.transactions.clear();
                let (id, topic, due) = ("K1".into(), "PAID".into(), Some(UnixMillis(NOW + 600_000)));
                facts.delayed = vec![DelayedFacts { id, topic, stored_at: UnixMillis(12_000), due }];
            },
            Some((Stage::Visible, "it waits for another 10 min", "")),
        ),
        (
            "no group",
            |facts| facts.messages[0].groups.clear(),
            Some((Stage::Delivery, "no group reads PAID", "start a consumer")),
        ),
        (
            "no consumer",
            |facts| unread(facts).consumers = 0,
            Some((Stage::Delivery, "packets has no consumer online", "mq admin group clients packets")),
        ),
        (
            "a backlog",
            |facts| {
                unread(facts);
            },
            Some((Stage::Delivery, "packets is 3 messages away from it", "more consumers")),
        ),
        (
            "in hand",
            |facts| unread(facts).handed_out_to = 5,
            Some((
                Stage::Delivery,
                "packets was handed it and has not told that it is past it: a handler is at work",
                "mq admin group status packets",
            )),
        ),
        (
            "popped",
            |facts| {
                let group = unread(facts);
                group.committed = Some(5);
                group.popped = Some((UnixMillis(13_000), Some(UnixMillis(NOW + 20_000))));
            },
            Some((
                Stage::Delivery,
                "packets popped it and has not acknowledged it; unless it does, it comes again in 20 s",
                "",
            )),
        ),
        (
            "popped, where nobody tells more",
            |facts| {
                let group = unread(facts);
                group.committed = Some(5);
                group.pops_untold = true;
            },
            None,
        ),
        (
            "next",
            |facts| unread(facts).committed = Some(4),
            Some((Stage::Delivery, "packets is online and reads it next", "")),
        ),
        (
            "never committed",
            |facts| unread(facts).committed = None,
            Some((Stage::Delivery, "has not committed anything in its queue yet", "mq admin group progress packets")),
        ),
        ("filtered out", |facts| unread(facts).passes_over = Some("gift".into()), None),
        ("broadcast", |facts| unread(facts).broadcast = true, None),
        (
            "resting before a retry",
            |facts| {
                retried(facts, RetryFate::Resting);
            },
            Some((Stage::Delivery, "packets failed it; try 2 rests until its time", "mq admin group status packets")),
        ),
        (
            "nobody for the retry",
            |facts| retried(facts, RetryFate::Ready).consumers = 0,
            Some((Stage::Delivery, "packets failed it, and has no consumer online for try 2", "")),
        ),
        (
            "done, and not acknowledged",
            |facts| unread(facts).inbox = Some(InboxAnswer::Done { key: "order-7".into(), at: UnixMillis(13_000) }),
            Some((Stage::Delivery, "3 messages away from it in its queue; the effect is committed, only the", "")),
        ),
        (
            "done, and in hand still",
            |facts| {
                let group = unread(facts);
                group.handed_out_to = 5;
                group.inbox = Some(InboxAnswer::Done { key: "order-7".into(), at: UnixMillis(13_000) });
            },
            None,
        ),
        (
            "resting before a retry, with nothing done",
            |facts| retried(facts, RetryFate::Resting).inbox = not_there(),
            Some((Stage::Delivery, "rests until its time; its inbox has no row order-7: nothing of the effect", "")),
        ),
        (
            "passed over, says the inbox",
            |facts| facts.messages[0].groups[0].inbox = not_there(),
            Some((
                Stage::Inbox,
                "the position of packets is past it, and the inbox has no row order-7: its handler never ran",
                "`mq admin offset reset packets PAID --to 12000 --apply`",
            )),
        ),
        (
            "an inbox without its database",
            |facts| facts.messages[0].groups[0].inbox = Some(InboxAnswer::Unknown { reason: "no database".into() }),
            Some((Stage::Inbox, "the inbox of packets does not answer: no database", "database of packets")),
        ),
        (
            "dead, sent again, and done",
            |facts| {
                let group = retried(facts, RetryFate::Done);
                group.dead_at = Some(UnixMillis(14_000));
                group.retries.push(RetryFacts { at: UnixMillis(15_000), number: 1, fate: RetryFate::Done });
            },
            None,
        ),
        (
            "dead",
            |facts| retried(facts, RetryFate::Done).dead_at = Some(UnixMillis(14_000)),
            Some((Stage::Delivery, "packets gave it up after 2 tries", "mq admin message resend packets --key K1")),
        ),
    ];
    for (what, change, expected) in table {
        let mut facts = good();
        change(&mut facts);
        let missing = decide(&facts).missing;
        match (&missing[..], expected) {
            ([], None) => {}
            ([missing], Some((stage, why, fix))) => {
                assert_eq!(missing.stage, stage, "{what}: {missing:?}");
                assert!(missing.why.contains(why) && missing.fix.contains(fix), "{what}: {missing:?}");
            }
            (missing, expected) => panic!("{what}: {missing:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn a_good_story_is_told_in_the_order_of_its_times() {
    let mut facts = good();
    let group = &mut facts.messages[0].groups[0];
    group.retries = vec![RetryFacts { at: UnixMillis(13_000), number: 2, fate: RetryFate::Done }];
    facts.traces.insert(
        "K1".into(),
        vec![TraceRecord::Handled {
            at: UnixMillis(14_500),
            group: "packets".into(),
            request_id: "r".into(),
            message_id: "K1".into(),
            keys: None,
            cost_ms: 3,
            success: true,
            outcome: 0,
        }],
    );
    let told = decide(&facts);
    let steps: Vec<String> = told
        .timeline
        .iter()
        .map(|step| format!("{} {:?} {:?}: {}", step.at, step.stage, step.source, step.what))
        .collect();
    assert_eq!(
        steps,
        [
            "10000 Half Log: half 7 for PAID stored on a by producer group shop, 1 of 2 under one verdict",
            "11000 Check Broker: shop-1 was asked (check 1)",
            "12000 Verdict Broker: committed",
            "12000 Visible Log: visible at offset 4 of queue 3 of PAID on a",
            "13000 Retry Log: try 2 for packets: the one before failed",
            "14500 Delivery Broker: acknowledged by packets at try 2: its committed position is past it",
            "14500 Delivery Trace: packets handled it in 3 ms",
        ]
    );
    assert_eq!(told.missing, []);
}
