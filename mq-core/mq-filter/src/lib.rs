//! SQL92 message filters, as RocketMQ understands them: an expression becomes a predicate over a message's properties.
//!
//! Truth has three values: what a missing property takes part in is mostly unknown, and an unknown message does not
//! match. Nothing here knows messages, brokers or where properties come from; whoever asks passes a lookup.
//!
//! The rules are those of Apache's `filter` module, its surprises included, so that a group reads the same messages
//! from either broker (`tests/it/table.rs` lists them). Two things differ, both towards the author of an expression:
//! text behind the expression is refused, where Apache silently ignores it (`a = 1 ADN b = 2` reads as `a = 1` there),
//! and the literal `0.0` is a number.

mod evaluate;
mod lexer;
mod parser;
mod value;

pub use value::EvaluationError;

use evaluate::Node;

/// Bytes of one expression.
pub const MAX_EXPRESSION_BYTES: usize = 16 << 10;
/// Levels of parentheses and signs in one expression.
pub const MAX_DEPTH: usize = 64;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression(Node);

/// The value of an expression for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    /// Something that was needed is missing.
    Unknown,
}

/// Why a text is not an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the filter takes {bytes} bytes, the limit is {MAX_EXPRESSION_BYTES}")]
    TooLong { bytes: usize },
    #[error("the filter is nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep { at: usize },
    #[error("the filter cannot be read at byte {at}: {reason}")]
    Syntax { at: usize, reason: String },
}

impl Expression {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parser::parse(text).map(Self)
    }

    /// `property` gives the value of a property; properties are text. An error ends the evaluation, as in Apache: a
    /// message whose property is no number where one is needed does not match, whatever else the expression says.
    pub fn evaluate<'v>(&'v self, property: impl Fn(&str) -> Option<&'v str>) -> Result<Truth, EvaluationError<'v>> {
        Ok(match self.0.truth(&property)? {
            Some(true) => Truth::True,
            Some(false) => Truth::False,
            None => Truth::Unknown,
        })
    }

    /// Whether a message with these properties is wanted.
    pub fn matches<'v>(&'v self, property: impl Fn(&str) -> Option<&'v str>) -> bool {
        matches!(self.evaluate(property), Ok(Truth::True))
    }
}
