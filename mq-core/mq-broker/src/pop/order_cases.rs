//! Orderly pops as text: `pop time ~invisible [#attempt] offsets` says the attempts, `ack offset@popped` the new offset, `to
//! offset@popped time` changes a time, `blocked time [#attempt]` and `open time` ask.

use super::*;

fn place() -> Place {
    Place { topic: "T".into(), group: "g".into(), queue_id: QueueId(0) }
}

fn number<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn message(text: &str) -> (QueueOffset, UnixMillis) {
    let (offset, popped) = text.split_once('@').expect("offset@popped");
    (number(offset), number(popped))
}

fn run(script: &str) -> String {
    let (mut orders, mut said, place) = (Orders::default(), Vec::new(), place());
    for line in script.split(';').map(str::trim) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let attempt = words.iter().position(|word| word.starts_with('#')).map(|at| words.remove(at));
        match words[0] {
            "pop" => {
                let offsets: Vec<QueueOffset> = words[3].split(',').map(number).collect();
                let (time, invisible) = (number(words[1]), number(words[2].trim_start_matches('~')));
                let attempts = orders.popped(&place, attempt, &offsets, time, invisible);
                let each: Vec<_> =
                    attempts.of_offsets.iter().map(|(offset, times)| format!("{offset}x{times}")).collect();
                said.push(format!("[{}]{}", each.join(","), attempts.least));
            }
            "ack" => {
                let (offset, popped) = message(words[1]);
                said.push(match orders.ack(&place, offset, popped) {
                    Acked::UpTo(next) => next.to_string(),
                    other => format!("{other:?}"),
                });
            }
            "to" => {
                let (offset, popped) = message(words[1]);
                orders.change(&place, offset, popped, number(words[2]));
            }
            "blocked" => said.push(orders.is_blocked(&place, attempt, number(words[1])).to_string()),
            "open" => said.push(format!("{}", orders.expired(number(words[1])).len())),
            "flying" => said.push(orders.in_flight(&place).to_string()),
            other => panic!("unknown word {other}"),
        }
    }
    said.join(" ")
}

#[test]
fn a_queue_waits_for_what_it_gave_out() {
    for (name, script, said) in [
        ("until its time", "blocked 0; pop 100 ~50 3,4; blocked 149; blocked 150", "false []0 true false"),
        (
            "until all came back",
            "pop 100 ~50 3,4; ack 3@100; blocked 110; ack 4@100; blocked 110",
            "[]0 4 true 5 false",
        ),
        ("out of order", "pop 100 ~50 3,4; ack 4@100; blocked 110; ack 3@100; blocked 110", "[]0 3 true 5 false"),
        (
            "the same attempt again",
            "pop 100 ~50 #a 3; blocked 110 #a; blocked 110 #b; blocked 110",
            "[]0 false true true",
        ),
        ("a changed time", "pop 100 ~50 3; to 3@100 400; blocked 399; blocked 400", "[]0 true false"),
        ("an earlier time", "pop 100 ~50 3; to 3@100 120; blocked 119; blocked 120", "[]0 true false"),
        ("not by an old handle", "pop 100 ~50 3; to 3@99 400; to 4@100 400; blocked 150", "[]0 false"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}

#[test]
fn attempts_are_counted_for_each_message() {
    for (name, script, said) in [
        ("again", "pop 100 ~50 3,4; pop 200 ~50 3,4; pop 300 ~50 3,4", "[]0 [3x1,4x1]1 [3x2,4x2]2"),
        ("with a new one", "pop 100 ~50 3; pop 200 ~50 3,4", "[]0 [3x1]0"),
        ("without the old one", "pop 100 ~50 3,4; pop 200 ~50 4,5; pop 300 ~50 6", "[]0 [4x1]0 []0"),
        ("an attempt that is repeated", "pop 100 ~50 #a 3; pop 110 ~50 #a 3; pop 300 ~50 #b 3", "[]0 []0 [3x1]1"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}

#[test]
fn acknowledgements_move_the_offset_or_say_why_not() {
    for (name, script, said) in [
        ("nothing is known", "ack 7@1", "Stale"),
        ("another pop", "pop 100 ~50 3; ack 3@99", "[]0 Stale"),
        ("another message", "pop 100 ~50 3,5; ack 4@100", "[]0 Unknown"),
        ("with gaps", "pop 100 ~50 3,5,9; flying; ack 3@100; ack 5@100; flying; ack 9@100; flying", "[]0 3 5 9 1 10 0"),
        ("opens by itself", "pop 100 ~50 3; open 149; open 150; open 151", "[]0 0 1 0"),
        ("opens by acknowledgement", "pop 100 ~50 3; ack 3@100; open 150", "[]0 4 0"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}

#[test]
fn apaches_file_is_read_and_ours_is_like_it() {
    let theirs = r#"{"orderedConsumptionLevel":"QUEUE","table":{"T@g":{"0":{"a":"x","cm":1,"i":60000,"l":5,"o":[7,1],"oc":{"8":2},"ot":{"8":900},"popTime":5}}}}"#;
    let mut orders = Orders::load(serde_json::from_str(theirs).expect("readable"));
    assert!(orders.is_blocked(&place(), None, UnixMillis(899)) && !orders.is_blocked(&place(), None, UnixMillis(900)));
    assert!(orders.take_unsaved(UnixMillis(5), |_| true).is_none(), "nothing changed");
    assert_eq!(orders.ack(&place(), QueueOffset(8), UnixMillis(5)), Acked::UpTo(QueueOffset(9)));
    let file = orders.take_unsaved(UnixMillis(5), |_| true).expect("changed");
    let ours = serde_json::to_value(&file).expect("prints");
    let expected =
        r#"{"table":{"T@g":{"0":{"a":"x","cm":3,"i":60000,"l":5,"o":[7,1],"oc":{"8":2},"ot":{"8":900},"popTime":5}}}}"#;
    assert_eq!(ours, serde_json::from_str::<serde_json::Value>(expected).expect("JSON"));
    orders.take_unsaved(UnixMillis(5), |_| false);
    assert_eq!(orders.in_flight(&place()), 0, "a place that is gone is forgotten");
}

#[test]
fn what_no_pop_could_have_left_in_the_file_is_passed_over() {
    let with = |offsets: Vec<u64>| {
        let info = OrderInfo { pop_time: UnixMillis(1), invisible_time: Some(9), offsets, ..OrderInfo::default() };
        let file = OrdersFile { table: [("T@g".to_owned(), [(0, info)].into())].into() };
        Orders::load(file).in_flight(&place())
    };
    assert_eq!(with((0..64).collect()), 64);
    assert_eq!([with((0..65).collect()), with(vec![]), with(vec![3, u64::MAX])], [0, 0, 0]);
}
