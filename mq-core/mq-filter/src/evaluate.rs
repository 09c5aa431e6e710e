//! The tree of an expression and its value for one message. No allocation, and no more depth than the parser allows.

use std::cmp::Ordering;

use crate::value::{EvaluationError, Value, equal, order};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Constant(Constant),
    Property(String),
    Negative(Box<Node>),
    /// A property where a truth is wanted: its text is no truth, so it is unknown or false.
    Truth(Box<Node>),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Equal(Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    Order(Relation, Box<Node>, Box<Node>),
    Between {
        value: Box<Node>,
        low: Box<Node>,
        high: Box<Node>,
        negated: bool,
    },
    Text {
        value: Box<Node>,
        test: TextTest,
        part: String,
        negated: bool,
    },
    In {
        property: String,
        texts: Vec<String>,
        negated: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Null,
    Boolean(bool),
    Integer(i32),
    Long(i64),
    Double(f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

type Outcome<'v, T> = Result<T, EvaluationError<'v>>;

impl Constant {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(truth) => Value::Boolean(*truth),
            Self::Integer(number) => Value::Integer(*number),
            Self::Long(number) => Value::Long(*number),
            Self::Double(number) => Value::Double(*number),
            Self::Text(text) => Value::Text(text),
        }
    }
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl TextTest {
    fn holds(self, text: &str, part: &str) -> bool {
        match self {
            Self::Contains => text.contains(part),
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
        }
    }
}

impl Node {
    /// The node as a truth: `None` is unknown. The parser puts only truths where a truth is asked for.
    pub(crate) fn truth<'v>(&'v self, property: &impl Fn(&str) -> Option<&'v str>) -> Outcome<'v, Option<bool>> {
        Ok(match self.value(property)? {
            Value::Boolean(truth) => Some(truth),
            _ => None,
        })
    }

    fn value<'v>(&'v self, property: &impl Fn(&str) -> Option<&'v str>) -> Outcome<'v, Value<'v>> {
        let truth = match self {
            Self::Constant(constant) => return Ok(constant.value()),
            Self::Property(name) => return Ok(property(name).map_or(Value::Null, Value::Text)),
            Self::Negative(node) => return Ok(node.value(property)?.negated()),
            Self::Truth(node) => match node.value(property)? {
                Value::Null => None,
                value => Some(value == Value::Boolean(true)),
            },
            Self::Not(node) => node.truth(property)?.map(|truth| !truth),
            Self::All(nodes) => decide(nodes, false, property)?,
            Self::Any(nodes) => decide(nodes, true, property)?,
            Self::Equal(left, right) => equal(left.value(property)?, right.value(property)?)?,
            Self::IsNull(node) => Some(node.value(property)? == Value::Null),
            Self::Order(relation, left, right) => related(*relation, left.value(property)?, right.value(property)?)?,
            Self::Between { value, low, high, negated } => {
                let value = value.value(property)?;
                let (below, above, decisive) = match negated {
                    false => (Relation::GreaterOrEqual, Relation::LessOrEqual, false),
                    true => (Relation::Less, Relation::Greater, true),
                };
                match related(below, value, low.value(property)?)? {
                    first if first == Some(decisive) => first,
                    first => {
                        let second = related(above, value, high.value(property)?)?;
                        if second == Some(decisive) { second } else { first.and(second) }
                    }
                }
            }
            // Nothing but a text passes, also not by NOT; neither does any text by an empty part.
            Self::Text { value, test, part, negated } => match value.value(property)? {
                Value::Text(text) if !part.is_empty() => Some(test.holds(text, part) != *negated),
                _ => Some(false),
            },
            Self::In { property: name, texts, negated } => {
                property(name).map(|value| texts.iter().any(|text| text == value) != *negated)
            }
        };
        Ok(truth.map_or(Value::Null, Value::Boolean))
    }
}

/// OR (`decisive` is true) or AND (false): the first decisive truth is the answer, the rest is not looked at.
fn decide<'v>(
    nodes: &'v [Node],
    decisive: bool,
    property: &impl Fn(&str) -> Option<&'v str>,
) -> Outcome<'v, Option<bool>> {
    let mut answer = Some(!decisive);
    for node in nodes {
        match node.truth(property)? {
            Some(truth) if truth == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => answer = None,
        }
    }
    Ok(answer)
}

fn related<'v>(relation: Relation, left: Value<'v>, right: Value<'v>) -> Outcome<'v, Option<bool>> {
    Ok(order(left, right)?.map(|order| relation.holds(order)))
}
