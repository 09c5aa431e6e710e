//! Values and how they compare: Java's `Integer`, `Long`, `Double`, `Boolean` and `String`, because the widths decide
//! what a property's text is read as.

use std::cmp::Ordering;

/// A value of an expression; texts belong to the expression or to the message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'v> {
    Null,
    Boolean(bool),
    Integer(i32),
    Long(i64),
    Double(f64),
    Text(&'v str),
}

/// Why an expression has no value for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError<'v> {
    #[error("{text:?} is not {wanted}")]
    NotANumber { text: &'v str, wanted: &'static str },
    #[error("a truth cannot be compared with the text {text:?}")]
    TruthWithText { text: &'v str },
}

use Value::{Boolean, Double, Integer, Long, Null, Text};

impl Value<'_> {
    pub(crate) fn negated(self) -> Self {
        match self {
            Integer(number) => Integer(number.wrapping_neg()),
            Long(number) => Long(number.wrapping_neg()),
            Double(number) => Double(-number),
            Null | Boolean(_) | Text(_) => Null,
        }
    }
}

/// `=`: the left side decides what a missing value means.
pub(crate) fn equal<'v>(left: Value<'v>, right: Value<'v>) -> Result<Option<bool>, EvaluationError<'v>> {
    Ok(match (left, right) {
        (Null, Null) => Some(true),
        (Null, _) => None,
        (_, Null) => Some(false),
        _ => Some(compare(left, right)? == Some(Ordering::Equal)),
    })
}

/// For `<`, `<=`, `>` and `>=`; `None`: a side is missing. Two texts are two numbers.
pub(crate) fn order<'v>(left: Value<'v>, right: Value<'v>) -> Result<Option<Ordering>, EvaluationError<'v>> {
    match (left, right) {
        (Null, _) | (_, Null) => Ok(None),
        (Text(left), Text(right)) => Ok(Some(compare_doubles(double(left)?, double(right)?))),
        _ => compare(left, right),
    }
}

/// Neither is missing. A text beside a number is read as a number of that width. `None`: they have nothing in common.
pub(crate) fn compare<'v>(left: Value<'v>, right: Value<'v>) -> Result<Option<Ordering>, EvaluationError<'v>> {
    Ok(Some(match (left, right) {
        (Text(left), Text(right)) => left.cmp(right),
        (Text(left), Boolean(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        (Text(left), Integer(right)) => integer(left)?.cmp(&right),
        (Text(left), Long(right)) => long(left)?.cmp(&right),
        (Text(left), Double(right)) => compare_doubles(double(left)?, right),
        (Integer(left), Text(right)) => left.cmp(&integer(right)?),
        (Long(left), Text(right)) => left.cmp(&long(right)?),
        (Double(left), Text(right)) => compare_doubles(left, double(right)?),
        (Boolean(left), Boolean(right)) => left.cmp(&right),
        (Boolean(_), Text(text)) => return Err(EvaluationError::TruthWithText { text }),
        (Integer(left), Integer(right)) => left.cmp(&right),
        (Integer(left), Long(right)) => i64::from(left).cmp(&right),
        (Long(left), Integer(right)) => left.cmp(&i64::from(right)),
        (Long(left), Long(right)) => left.cmp(&right),
        (Integer(left), Double(right)) => compare_doubles(f64::from(left), right),
        (Long(left), Double(right)) => compare_doubles(left as f64, right),
        (Double(left), Integer(right)) => compare_doubles(left, f64::from(right)),
        (Double(left), Long(right)) => compare_doubles(left, right as f64),
        (Double(left), Double(right)) => compare_doubles(left, right),
        (Boolean(_), _) | (_, Boolean(_)) | (Null, _) | (_, Null) => return Ok(None),
    }))
}

/// As `Double.compare`: -0 is below 0, and NaN is equal to itself and above all.
fn compare_doubles(left: f64, right: f64) -> Ordering {
    let plain = |number: f64| if number.is_nan() { f64::NAN.abs() } else { number };
    plain(left).total_cmp(&plain(right))
}

fn integer(text: &str) -> Result<i32, EvaluationError<'_>> {
    text.parse().map_err(|_| EvaluationError::NotANumber { text, wanted: "a whole number of 32 bits" })
}

fn long(text: &str) -> Result<i64, EvaluationError<'_>> {
    text.parse().map_err(|_| EvaluationError::NotANumber { text, wanted: "a whole number of 64 bits" })
}

/// What `Double.valueOf` takes, hexadecimal numbers excepted: blanks around it, and a type letter behind it.
fn double(text: &str) -> Result<f64, EvaluationError<'_>> {
    let trimmed = text.trim_matches(|c| c <= ' ');
    let bare = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    let named = matches!(bare, "NaN" | "Infinity");
    let number = trimmed.strip_suffix(['d', 'D', 'f', 'F']).filter(|_| !named).unwrap_or(trimmed);
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    let parsed = if named || number.chars().all(digits) { number.parse().ok() } else { None };
    parsed.ok_or(EvaluationError::NotANumber { text, wanted: "a number" })
}
