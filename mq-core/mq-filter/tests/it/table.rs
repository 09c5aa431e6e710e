//! One line per rule: expression, properties, value. `error` is an evaluation that ends early: no match.
//!
//! All lines were run through Apache's own `rocketmq-filter` 5.5.0 too: it gives the same, but for the literal `0.0`,
//! which it refuses, and for text behind an expression, which it ignores.

use mq_filter::{Expression, MAX_DEPTH, MAX_EXPRESSION_BYTES, Truth};

/// `a=1 b=x` as properties; `_` stands for a blank.
fn evaluate(expression: &str, properties: &str) -> String {
    let properties: Vec<(&str, String)> = properties
        .split_whitespace()
        .map(|pair| pair.split_once('=').expect("a pair"))
        .map(|(name, value)| (name, value.replace('_', " ")))
        .collect();
    let expression = Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let find = |name: &str| properties.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let value = match expression.evaluate(find) {
        Ok(Truth::True) => "TRUE",
        Ok(Truth::False) => "FALSE",
        Ok(Truth::Unknown) => "UNKNOWN",
        Err(_) => "error",
    };
    assert_eq!(expression.matches(find), value == "TRUE");
    value.to_owned()
}

const VALUES: &[(&str, &str, &str)] = &[
    // Equality reads the text in the width of the literal.
    ("a = 3", "a=3", "TRUE"),
    ("a = 3", "a=4", "FALSE"),
    ("a = 3", "a=+3", "TRUE"),
    ("a = 3", "a=03", "TRUE"),
    ("a = 3", "", "UNKNOWN"),
    ("a = 3", "a=x", "error"),
    ("a = 3", "a=3.0", "error"),
    ("a = 3", "a=_3", "error"),
    ("a = 3", "a=3000000000", "error"),
    ("a = 3000000000", "a=3000000000", "TRUE"),
    ("a = 3000000000", "a=3", "FALSE"),
    ("a = 3000000000", "a=99999999999999999999", "error"),
    ("a = 3L", "a=3", "TRUE"),
    ("a = 3.0", "a=3", "TRUE"),
    ("a = 3.", "a=3", "TRUE"),
    ("a = .5", "a=0.5", "TRUE"),
    ("a = 5E1", "a=50", "TRUE"),
    ("a = 5.5e-1", "a=_0.55_", "TRUE"),
    ("a = 0.0", "a=0", "TRUE"),
    ("a = 0.0", "a=-0", "FALSE"),
    ("a = 1.5", "a=1.5f", "TRUE"),
    ("a = 1.5", "a=1.5D", "TRUE"),
    ("a = 1.5", "a=inf", "error"),
    ("a > 1.5", "a=Infinity", "TRUE"),
    ("a > 1.5", "a=-Infinity", "FALSE"),
    ("a > 1.5", "a=NaN", "TRUE"),
    ("a = -3", "a=-3", "TRUE"),
    ("a = - -3", "a=3", "TRUE"),
    ("a = +3", "a=3", "TRUE"),
    ("a = -2147483648", "a=-2147483648", "TRUE"),
    ("a = -9223372036854775807", "a=-9223372036854775807", "TRUE"),
    ("a = -b", "a=3 b=3", "FALSE"),
    ("a = 'x'", "a=x", "TRUE"),
    ("a = 'x'", "a=X", "FALSE"),
    ("a = 'x'", "A=x", "UNKNOWN"),
    ("a = '3'", "a=3", "TRUE"),
    ("a = '3'", "a=03", "FALSE"),
    ("a = 'it''s'", "a=it's", "TRUE"),
    ("a = ''''", "a='", "TRUE"),
    ("a = 'x y'", "a=x_y", "TRUE"),
    ("a = 'köln'", "a=köln", "TRUE"),
    ("a = TRUE", "a=true", "TRUE"),
    ("a = TRUE", "a=TrUe", "TRUE"),
    ("a = TRUE", "a=yes", "FALSE"),
    ("a = false", "a=yes", "TRUE"),
    ("a = false", "", "UNKNOWN"),
    ("TRUE = a", "a=true", "error"),
    ("3 = a", "a=3", "TRUE"),
    ("3 = a", "", "FALSE"),
    ("3 <> a", "", "TRUE"),
    ("a = b", "a=3 b=3", "TRUE"),
    ("a = b", "a=3 b=3.0", "FALSE"),
    ("a = b", "", "TRUE"),
    ("a = b", "a=3", "FALSE"),
    ("a = b", "b=3", "UNKNOWN"),
    ("a <> b", "a=3", "TRUE"),
    ("a <> b", "b=3", "UNKNOWN"),
    ("a <> 3", "a=4", "TRUE"),
    ("a <> 3", "a=3", "FALSE"),
    ("a <> 3", "", "UNKNOWN"),
    ("a <> 'x'", "a=y", "TRUE"),
    ("1 = 1", "", "TRUE"),
    ("1 = 1.0", "", "TRUE"),
    ("1 = 3000000000", "", "FALSE"),
    ("3000000000 = 3000000000.0", "", "TRUE"),
    ("1.0 = 1", "", "TRUE"),
    ("2.5 = 3000000000", "", "FALSE"),
    ("3000000000 <> 1", "", "TRUE"),
    ("'1' = 1", "", "TRUE"),
    ("1 = '1'", "", "TRUE"),
    ("3000000000 = '3000000000'", "", "TRUE"),
    ("1.5 = '1.5'", "", "TRUE"),
    ("5 = TRUE", "", "FALSE"),
    ("5 <> TRUE", "", "TRUE"),
    ("TRUE = FALSE", "", "FALSE"),
    ("(a = 1) = TRUE", "a=1", "TRUE"),
    ("(a = 1) = (b = 2)", "a=0 b=0", "TRUE"),
    ("a = 1 = TRUE", "a=1", "TRUE"),
    ("a = (b = 1)", "a=true b=1", "TRUE"),
    // Order needs numbers.
    ("a > 3", "a=4", "TRUE"),
    ("a > 3", "a=3", "FALSE"),
    ("a > 3", "", "UNKNOWN"),
    ("a > 3", "a=3.5", "error"),
    ("a >= 3", "a=3", "TRUE"),
    ("a < 3", "a=2", "TRUE"),
    ("a <= 3", "a=4", "FALSE"),
    ("a > 3.14", "a=3.1415", "TRUE"),
    ("a > 3.1E10", "a=3.1415E10", "TRUE"),
    ("3 < a", "a=4", "TRUE"),
    ("3 < a", "", "UNKNOWN"),
    ("a > b", "a=10 b=9", "TRUE"),
    ("a > b", "a=10 b=9.5", "TRUE"),
    ("a > b", "a=x b=9", "error"),
    ("a > b", "a=10", "UNKNOWN"),
    ("a > -'5'", "a=1", "UNKNOWN"),
    ("1 < 2", "", "TRUE"),
    // BETWEEN is closed on both sides; the second bound is looked at only if the first leaves it open.
    ("a BETWEEN 2 AND 10", "a=2", "TRUE"),
    ("a BETWEEN 2 AND 10", "a=10", "TRUE"),
    ("a BETWEEN 2 AND 10", "a=1", "FALSE"),
    ("a BETWEEN 2 AND 10", "a=11", "FALSE"),
    ("a BETWEEN 2 AND 10", "", "UNKNOWN"),
    ("a BETWEEN 2 AND 10", "a=abc", "error"),
    ("a BETWEEN 3 AND 3", "a=3", "TRUE"),
    ("a BETWEEN -2 AND 2.5", "a=-2", "TRUE"),
    ("a BETWEEN 2 AND -2", "a=0", "FALSE"),
    ("a BETWEEN b AND c", "a=2 b=1 c=3", "TRUE"),
    ("a BETWEEN b AND c", "a=2 b=1", "UNKNOWN"),
    ("a BETWEEN b AND c", "a=2 b=3", "FALSE"),
    ("a BETWEEN b AND c", "a=2 b=3 c=x", "FALSE"),
    ("a BETWEEN b AND c", "a=2 c=1", "FALSE"),
    ("5 BETWEEN 1 AND 10", "", "TRUE"),
    ("a NOT BETWEEN 2 AND 10", "a=1", "TRUE"),
    ("a NOT BETWEEN 2 AND 10", "a=11", "TRUE"),
    ("a NOT BETWEEN 2 AND 10", "a=2", "FALSE"),
    ("a NOT BETWEEN 2 AND 10", "", "UNKNOWN"),
    ("a NOT BETWEEN 10 AND 2", "a=5", "TRUE"),
    ("a NOT BETWEEN b AND c", "a=2 c=1", "TRUE"),
    // IN compares texts.
    ("a IN ('3', '4')", "a=3", "TRUE"),
    ("a IN ('3', '4')", "a=03", "FALSE"),
    ("a IN ('3')", "", "UNKNOWN"),
    ("a NOT IN ('3', '4')", "a=5", "TRUE"),
    ("a NOT IN ('3', '4')", "a=3", "FALSE"),
    ("a NOT IN ('3')", "", "UNKNOWN"),
    ("a IN ('it''s')", "a=it's", "TRUE"),
    // NULL.
    ("a IS NULL", "", "TRUE"),
    ("a IS NULL", "a=x", "FALSE"),
    ("a IS NOT NULL", "a=x", "TRUE"),
    ("a IS NOT NULL", "", "FALSE"),
    ("-a IS NULL", "a=1", "TRUE"),
    ("5 IS NULL", "", "FALSE"),
    ("(a = 1) IS NULL", "", "TRUE"),
    ("a IS NULL IS NULL", "", "FALSE"),
    ("NULL", "", "UNKNOWN"),
    ("NULL IS NULL", "", "TRUE"),
    ("NULL OR TRUE", "", "TRUE"),
    // Text tests are false for all but texts, and for an empty part, with NOT too.
    ("a CONTAINS 'x'", "a=axb", "TRUE"),
    ("a CONTAINS 'x'", "a=abb", "FALSE"),
    ("a CONTAINS ''", "a=axb", "FALSE"),
    ("a CONTAINS 'x'", "", "FALSE"),
    ("a NOT CONTAINS 'x'", "a=abb", "TRUE"),
    ("a NOT CONTAINS 'x'", "a=axb", "FALSE"),
    ("a NOT CONTAINS ''", "a=axb", "FALSE"),
    ("a NOT CONTAINS 'x'", "", "FALSE"),
    ("a STARTSWITH 'ax'", "a=axb", "TRUE"),
    ("a STARTSWITH 'x'", "a=axb", "FALSE"),
    ("a STARTSWITH ''", "a=axb", "FALSE"),
    ("a STARTSWITH 'x'", "", "FALSE"),
    ("a NOT STARTSWITH 'x'", "a=axb", "TRUE"),
    ("a NOT STARTSWITH 'ax'", "a=axb", "FALSE"),
    ("a NOT STARTSWITH ''", "a=axb", "FALSE"),
    ("a NOT STARTSWITH 'x'", "", "FALSE"),
    ("a ENDSWITH 'xb'", "a=axb", "TRUE"),
    ("a ENDSWITH 'x'", "a=axb", "FALSE"),
    ("a ENDSWITH ''", "a=axb", "FALSE"),
    ("a ENDSWITH 'x'", "", "FALSE"),
    ("a NOT ENDSWITH 'x'", "a=axb", "TRUE"),
    ("a NOT ENDSWITH 'xb'", "a=axb", "FALSE"),
    ("a NOT ENDSWITH ''", "a=axb", "FALSE"),
    ("a NOT ENDSWITH 'x'", "", "FALSE"),
    ("'axb' CONTAINS 'x'", "", "TRUE"),
    ("' ' CONTAINS ' '", "", "TRUE"),
    ("5 CONTAINS '5'", "", "FALSE"),
    ("5 NOT CONTAINS '6'", "", "FALSE"),
    ("a CONTAINS '.'", "a=axb", "FALSE"),
    ("a CONTAINS '%'", "a=axb", "FALSE"),
    ("a CONTAINS 'x' CONTAINS 'y'", "a=x", "FALSE"),
    // Three values.
    ("a = 1 AND b = 1", "a=1 b=1", "TRUE"),
    ("a = 1 AND b = 1", "a=1 b=2", "FALSE"),
    ("a = 1 AND b = 1", "a=1", "UNKNOWN"),
    ("a = 1 AND b = 1", "b=2", "FALSE"),
    ("a = 1 AND b = 1", "", "UNKNOWN"),
    ("a = 1 OR b = 1", "a=1", "TRUE"),
    ("a = 1 OR b = 1", "b=1", "TRUE"),
    ("a = 1 OR b = 1", "b=2", "UNKNOWN"),
    ("a = 1 OR b = 1", "a=2 b=2", "FALSE"),
    ("NOT (a = 1)", "a=1", "FALSE"),
    ("NOT (a = 1)", "a=2", "TRUE"),
    ("NOT (a = 1)", "", "UNKNOWN"),
    ("a = 1 OR b = 1 AND c = 1", "a=1 b=2 c=2", "TRUE"),
    ("(a = 1 OR b = 1) AND c = 1", "a=1 b=2 c=2", "FALSE"),
    // What is decided is not evaluated; an error ends it all.
    ("a = 1 OR b = 1", "a=1 b=x", "TRUE"),
    ("a = 1 OR b = 1", "a=x b=1", "error"),
    ("a = 1 AND b = 1", "a=2 b=x", "FALSE"),
    ("a IS NOT NULL AND a > 0", "", "FALSE"),
    // A property is no truth, NOT binds tighter than a comparison.
    ("a", "", "UNKNOWN"),
    ("a", "a=true", "FALSE"),
    ("NOT a", "a=true", "TRUE"),
    ("NOT a", "", "UNKNOWN"),
    ("NOT a = 1", "a=2", "FALSE"),
    ("NOT a = 1", "", "UNKNOWN"),
    ("NOT NOT (a = 1)", "a=1", "TRUE"),
    ("TRUE", "", "TRUE"),
    ("FALSE", "", "FALSE"),
    ("a AND TRUE", "a=x", "FALSE"),
    // Names, words, blanks, comments.
    ("_a$1 = 1", "_a$1=1", "TRUE"),
    ("$a1 = 1", "$a1=1", "TRUE"),
    ("TAGS = 'x'", "TAGS=x", "TRUE"),
    ("a iN ('x') aNd b iS nOt NuLl", "a=x b=y", "TRUE"),
    ("notable = 1 OR android = 2", "android=2", "TRUE"),
    ("a=3 and b<>4 And c>5 AND d<=4", "a=3 b=5 c=6 d=4", "TRUE"),
    ("\ta\n=\r3\u{c}", "a=3", "TRUE"),
    ("a = 3 -- and more", "a=3", "TRUE"),
    ("a -- the name\n = 3", "a=3", "TRUE"),
    ("a /* ** the name */ = /**/ 3", "a=3", "TRUE"),
    ("a = 'x--y'", "a=x--y", "TRUE"),
    ("((a)) = ((3))", "a=3", "TRUE"),
];

const REFUSED: &[(&str, &str)] = &[
    ("", "at byte 0: a value is expected, not the end"),
    ("a =", "at byte 3: a value is expected, not the end"),
    ("a = 1 b", "at byte 6: the name b is not expected behind the expression"),
    ("a = 1 ADN b = 2", "at byte 6: the name ADN is not expected behind the expression"),
    ("a LIKE 'x%'", "at byte 2: the name LIKE is not expected behind the expression"),
    ("a = 007", "at byte 5: the number 0 is not expected behind the expression"),
    ("a and between 2 and 10", "at byte 6: a value is expected, not BETWEEN"),
    ("a between 10 and 0", "the lower bound of BETWEEN is above the upper one"),
    ("a between 1", "at byte 11: AND is expected, not the end"),
    ("a between '1' and '2'", "only numbers are compared"),
    ("a between NULL and 2", "only numbers are compared"),
    ("a between TRUE and 2", "only numbers are compared"),
    ("a > '5'", "only numbers are compared"),
    ("a > NULL", "only numbers are compared"),
    ("a > TRUE", "only numbers are compared"),
    ("a > b > c", "a truth cannot be compared"),
    ("(a = 1) < 2", "a truth cannot be compared"),
    ("a = NULL", "NULL is compared by IS NULL"),
    ("NULL <> a", "NULL is compared by IS NULL"),
    ("TRUE = 5", "a truth cannot be equal to a number or a text"),
    ("TRUE = 'x'", "a truth cannot be equal to a number or a text"),
    ("5", "a comparison or a truth is expected"),
    ("'x'", "a comparison or a truth is expected"),
    ("-a", "a comparison or a truth is expected"),
    ("NOT 5", "a comparison or a truth is expected"),
    ("a = 1 AND 5", "a comparison or a truth is expected"),
    ("5 OR a = 1", "a comparison or a truth is expected"),
    ("5 IN ('5')", "only a property can be IN a list"),
    ("a IN ()", "at byte 6: a text in single quotes is expected, not \")\""),
    ("a IN (3)", "a text in single quotes is expected, not the number 3"),
    ("a IN ('3'", "at byte 9: \")\" is expected, not the end"),
    ("a IN '3'", "at byte 5: \"(\" is expected, not the text '3'"),
    ("a NOT 5", "NOT is followed by BETWEEN"),
    ("a NOT = 5", "NOT is followed by BETWEEN"),
    ("a CONTAINS b", "a text in single quotes is expected, not the name b"),
    ("a STARTSWITH 5", "a text in single quotes is expected, not the number 5"),
    ("a ENDSWITH", "a text in single quotes is expected, not the end"),
    ("a IS 5", "at byte 5: NULL is expected, not the number 5"),
    ("a IS NOT 5", "at byte 9: NULL is expected, not the number 5"),
    ("(a = 1", "at byte 6: \")\" is expected, not the end"),
    ("a = 1)", "at byte 5: \")\" is not expected behind the expression"),
    ("a == 1", "a value is expected, not \"=\""),
    ("a != 1", "at byte 2: '!' has no meaning here"),
    ("a = \"x\"", "at byte 4: '\"' has no meaning here"),
    ("größe = 1", "at byte 2: 'ö' has no meaning here"),
    ("a = 'x", "at byte 4: a text that begins here does not end"),
    ("a = 'x''", "at byte 4: a text that begins here does not end"),
    ("a = 1 /* x", "at byte 6: a comment that begins here does not end"),
    ("a > 100000000000000000000000", "does not fit into 64 bits"),
    ("a > 9223372036854775808", "does not fit into 64 bits"),
    ("a > 1E400", "the number is too large"),
    ("and", "a value is expected, not AND"),
];

#[test]
fn every_expression_has_the_value_that_apache_gives_it() {
    for (expression, properties, expected) in VALUES {
        assert_eq!(evaluate(expression, properties), *expected, "{expression} with {properties}");
    }
}

#[test]
fn what_is_no_filter_is_refused_with_its_place_and_reason() {
    for (expression, reason) in REFUSED {
        let error = Expression::parse(expression).expect_err(expression).to_string();
        assert!(error.contains(reason), "{expression}: {error}");
    }
}

#[test]
fn length_and_depth_are_limited() {
    let nested = |levels: usize| format!("{}a = 1{}", "(".repeat(levels), ")".repeat(levels));
    let chained = |links: usize| format!("a{}", " = 1".repeat(links));
    let joined = |parts: usize| vec!["a = 1"; parts].join(" OR ");
    for (expression, error) in [
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), Some("the filter is nested deeper than 64 levels at byte 64")),
        ("- ".repeat(MAX_DEPTH) + "a = 1", None),
        ("- ".repeat(MAX_DEPTH + 1) + "a = 1", Some("the filter is nested deeper than 64 levels at byte 128")),
        (chained(MAX_DEPTH + 1), None),
        (chained(MAX_DEPTH + 2), Some("the filter is nested deeper than 64 levels at byte 262")),
        (joined(MAX_EXPRESSION_BYTES / 9), None),
        (" ".repeat(MAX_EXPRESSION_BYTES - 5) + "a = 1", None),
        (" ".repeat(MAX_EXPRESSION_BYTES - 4) + "a = 1", Some("the filter takes 16385 bytes, the limit is 16384")),
    ] {
        let parsed = Expression::parse(&expression).map_err(|error| error.to_string());
        assert_eq!(parsed.as_ref().err().map(String::as_str), error, "{expression:.80}");
        if let Ok(parsed) = parsed {
            let _ = parsed.matches(|_| Some("1"));
        }
    }
}

#[test]
fn an_evaluation_error_names_the_text() {
    let expression = Expression::parse("a > 5").expect("parses");
    let error = expression.evaluate(|_| Some("much")).expect_err("no number");
    assert_eq!(error.to_string(), "\"much\" is not a whole number of 32 bits");
}
