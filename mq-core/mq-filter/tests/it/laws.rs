//! Laws of three-valued logic over generated expressions, and parsers that survive anything.

use mq_filter::{EvaluationError, Expression, Truth};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const ROUNDS: u64 = 2_000;
const NAMES: [&str; 3] = ["a", "b", "c"];
const TEXTS: [&str; 8] = ["1", "2", "5", "2.5", "x", "xy", "true", "-3"];

type Properties = Vec<(&'static str, &'static str)>;

/// What a check shows when it fails.
struct Case {
    seed: u64,
    random: StdRng,
}

fn cases() -> impl Iterator<Item = Case> {
    (0..ROUNDS).map(|seed| Case { seed, random: StdRng::seed_from_u64(seed) })
}

impl Case {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("not empty")
    }

    fn properties(&mut self) -> Properties {
        let values = NAMES.map(|name| (name, self.random.random_bool(0.7), self.pick(&TEXTS)));
        values.into_iter().filter(|(_, there, _)| *there).map(|(name, _, text)| (name, text)).collect()
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 || self.random.random_bool(0.3) {
            return self.comparison();
        }
        match self.random.random_range(0..3) {
            0 => format!("({} AND {})", self.truth(depth - 1), self.truth(depth - 1)),
            1 => format!("({} OR {})", self.truth(depth - 1), self.truth(depth - 1)),
            _ => format!("NOT ({})", self.truth(depth - 1)),
        }
    }

    fn comparison(&mut self) -> String {
        let name = self.pick(&NAMES);
        let text = self.pick(&TEXTS);
        let not = self.pick(&["", "NOT "]);
        match self.random.random_range(0..6) {
            0 => format!("{name} {} {}", self.pick(&["=", "<>", "<", "<=", ">", ">="]), self.number()),
            1 => format!("{name} {} '{text}'", self.pick(&["=", "<>"])),
            2 => format!("{name} {not}BETWEEN {} AND {}", self.number(), self.pick(&NAMES)),
            3 => format!("{name} {not}IN ('{text}', '{}')", self.pick(&TEXTS)),
            4 => format!("{name} IS {not}NULL"),
            _ => format!("{name} {not}{} '{text}'", self.pick(&["CONTAINS", "STARTSWITH", "ENDSWITH"])),
        }
    }

    fn number(&mut self) -> &'static str {
        self.pick(&["0", "1", "2", "5", "2.5", "3000000000", "-3"])
    }
}

/// `None`: the evaluation ended early.
fn value(expression: &str, properties: &Properties) -> Option<Truth> {
    let parsed = Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let find = |name: &str| properties.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let value: Result<Truth, EvaluationError<'_>> = parsed.evaluate(find);
    value.ok()
}

/// Both sides have the same value, or both none.
fn same(left: &str, right: &str, case: &Case, properties: &Properties) {
    let seed = case.seed;
    assert_eq!(
        value(left, properties),
        value(right, properties),
        "seed {seed}: {left} and {right} with {properties:?}"
    );
}

/// As [`same`], where evaluation may end early on one side because the order changed.
fn same_if_both_have_values(left: &str, right: &str, case: &Case, properties: &Properties) {
    if value(left, properties).is_some() && value(right, properties).is_some() {
        same(left, right, case, properties);
    }
}

#[test]
fn and_or_and_not_obey_the_laws_of_three_valued_logic() {
    for mut case in cases() {
        let (p, q, r) = (case.truth(2), case.truth(2), case.truth(2));
        let with = &case.properties();
        let same = |left: String, right: String| same(&left, &right, &case, with);
        same(format!("NOT ({p} AND {q})"), format!("NOT ({p}) OR NOT ({q})"));
        same(format!("NOT ({p} OR {q})"), format!("NOT ({p}) AND NOT ({q})"));
        same(format!("NOT (NOT ({p}))"), p.clone());
        same(format!("{p} AND {q} AND {r}"), format!("({p} AND {q}) AND {r}"));
        same(format!("{p} OR {q} OR {r}"), format!("{p} OR ({q} OR {r})"));
        same(format!("{p} AND TRUE"), p.clone());
        same(format!("FALSE OR {p}"), p.clone());
        same(format!("{p} AND {p}"), p.clone());
        same(format!("{p} OR {q} AND {r}"), format!("{p} OR ({q} AND {r})"));
        let commutes = |left: String, right: String| same_if_both_have_values(&left, &right, &case, with);
        commutes(format!("{p} AND {q}"), format!("{q} AND {p}"));
        commutes(format!("{p} OR {q}"), format!("{q} OR {p}"));
        commutes(format!("{p} AND ({q} OR {r})"), format!("({p} AND {q}) OR ({p} AND {r})"));
    }
}

#[test]
fn the_short_forms_are_what_they_stand_for() {
    for mut case in cases() {
        let (name, low, high) = (case.pick(&NAMES), case.pick(&NAMES), case.pick(&NAMES));
        let (one, two) = (case.pick(&TEXTS), case.pick(&TEXTS));
        let with = &case.properties();
        let same = |left: String, right: String| same(&left, &right, &case, with);
        same(format!("{name} BETWEEN {low} AND {high}"), format!("{name} >= {low} AND {name} <= {high}"));
        same(format!("{name} NOT BETWEEN {low} AND {high}"), format!("{name} < {low} OR {name} > {high}"));
        same(format!("{name} IN ('{one}', '{two}')"), format!("{name} = '{one}' OR {name} = '{two}'"));
        same(format!("{name} NOT IN ('{one}', '{two}')"), format!("NOT ({name} IN ('{one}', '{two}'))"));
        same(format!("{name} IS NOT NULL"), format!("NOT ({name} IS NULL)"));
        same(format!("{name} <> '{one}'"), format!("NOT ({name} = '{one}')"));
    }
}

#[test]
fn a_truth_that_is_unknown_never_matches_and_neither_does_its_opposite() {
    for mut case in cases() {
        let expression = case.truth(3);
        let with = case.properties();
        let (plain, opposite) = (value(&expression, &with), value(&format!("NOT ({expression})"), &with));
        let expected = plain.map(|truth| match truth {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
        });
        assert_eq!(opposite, expected, "seed {}: {expression} with {with:?}", case.seed);
    }
}

#[test]
fn no_text_makes_the_parser_panic() {
    let pieces = [
        "a",
        "b1",
        "1",
        "2.5",
        "'x'",
        "'",
        "''",
        "(",
        ")",
        ",",
        "=",
        "<>",
        "<",
        ">=",
        "+",
        "-",
        "--",
        "/*",
        "*/",
        "\n",
        "NOT",
        "AND",
        "OR",
        "BETWEEN",
        "IN",
        "IS",
        "NULL",
        "TRUE",
        "CONTAINS",
        "STARTSWITH",
        "ENDSWITH",
        "é",
        "\u{1}",
        "1e",
        "1e+",
        ".",
        "9L",
        "!",
        "0",
    ];
    let mut parsed = 0;
    for mut case in cases() {
        let glue = case.pick(&["", " "]);
        let text: Vec<&str> = (0..case.random.random_range(0..24)).map(|_| case.pick(&pieces)).collect();
        if let Ok(expression) = Expression::parse(&text.join(glue)) {
            let _ = expression.matches(|_| Some("1"));
            parsed += 1;
        }
        let noise: Vec<u8> = (0..40).map(|_| case.random.random()).collect();
        let _ = Expression::parse(&String::from_utf8_lossy(&noise));
    }
    assert!(parsed > 0, "some of them are filters");
}
