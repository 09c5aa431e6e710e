//! What a reader wants of a topic, ready to be asked message by message: by tag or by SQL92.
//!
//! A filter is compiled once per subscription, not per pull; pulls that bring their own share what was compiled lately.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;

use mq_filter::{Expression, ParseError};
use mq_protocol::body::Subscription;
use mq_protocol::{properties, record};
use parking_lot::Mutex;

/// Filters of pulls that bring their own; each takes a few times its text, which is bounded.
const MAX_KEPT_FILTERS: usize = 1_024;

/// A subscription and its compiled filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection {
    subscription: Subscription,
    /// Of an SQL92 subscription.
    filter: Option<Arc<Expression>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("filters of type {0} are unknown here; use TAG or SQL92")]
    Type(String),
}

impl Deref for Selection {
    type Target = Subscription;

    fn deref(&self) -> &Subscription {
        &self.subscription
    }
}

impl Selection {
    /// A filter that cannot be read is left out; [`Selection::is_usable`] says so, and [`compile`] why.
    pub(crate) fn new(subscription: Subscription) -> Self {
        let filter = compile(&subscription).ok().flatten().map(Arc::new);
        Self { subscription, filter }
    }

    /// Whether the filter could be read.
    pub(crate) fn is_usable(&self) -> bool {
        self.subscription.is_tag() || self.filter.is_some()
    }

    /// Whether the queue's entry leaves the message in play.
    pub(crate) fn may_match(&self, tags_code: i64) -> bool {
        self.filter.is_some() || self.subscription.may_match(tags_code)
    }

    /// Whether the decision needs the record itself.
    pub(crate) fn reads_records(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether the record, as it lies in the log, is wanted. One that cannot be read is the reader's to complain about.
    pub(crate) fn matches(&self, record: &[u8]) -> bool {
        let Some(filter) = &self.filter else { return true };
        record::properties_in(record).is_none_or(|text| filter.matches(|name| properties::find(text, name)))
    }
}

/// The filter of a subscription; `None`: it goes by tags.
pub(crate) fn compile(subscription: &Subscription) -> Result<Option<Expression>, FilterError> {
    match &*subscription.expression_type {
        _ if subscription.is_tag() => Ok(None),
        Subscription::SQL92 => Ok(Some(Expression::parse(&subscription.sub_string)?)),
        other => Err(FilterError::Type(other.to_owned())),
    }
}

/// The compiled filters of pulls that brought them along.
#[derive(Default)]
pub(crate) struct Filters(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    filters: HashMap<String, Arc<Expression>>,
    /// The oldest first.
    order: VecDeque<String>,
}

impl Filters {
    pub(crate) fn select(&self, subscription: Subscription) -> Result<Selection, FilterError> {
        if subscription.expression_type != Subscription::SQL92 {
            compile(&subscription)?;
            return Ok(Selection { subscription, filter: None });
        }
        let known = self.0.lock().filters.get(&subscription.sub_string).cloned();
        let filter = match known {
            Some(filter) => filter,
            None => self.keep(&subscription.sub_string, Expression::parse(&subscription.sub_string)?),
        };
        Ok(Selection { subscription, filter: Some(filter) })
    }

    fn keep(&self, text: &str, filter: Expression) -> Arc<Expression> {
        let filter = Arc::new(filter);
        let mut kept = self.0.lock();
        if kept.filters.insert(text.to_owned(), filter.clone()).is_none() {
            kept.order.push_back(text.to_owned());
        }
        if kept.order.len() > MAX_KEPT_FILTERS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.filters.remove(&oldest);
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(expression: &str) -> Subscription {
        Subscription {
            expression_type: Subscription::SQL92.into(),
            sub_string: expression.into(),
            ..Subscription::default()
        }
    }

    #[test]
    fn filters_of_pulls_are_compiled_once_and_forgotten_in_turn() {
        let filters = Filters::default();
        let first = filters.select(sql("a = 0")).expect("a filter").filter.expect("compiled");
        let again = filters.select(sql("a = 0")).expect("a filter").filter.expect("compiled");
        assert!(Arc::ptr_eq(&first, &again));
        for n in 1..=MAX_KEPT_FILTERS {
            filters.select(sql(&format!("a = {n}"))).expect("a filter");
        }
        let kept = filters.0.lock();
        assert_eq!((kept.filters.len(), kept.order.len()), (MAX_KEPT_FILTERS, MAX_KEPT_FILTERS));
        assert!(!kept.filters.contains_key("a = 0"), "the oldest went");
    }

    #[test]
    fn a_filter_that_cannot_be_read_makes_the_selection_unusable() {
        for (subscription, usable) in [
            (Subscription::tags("t", "a || b", 1), true),
            (sql("a > 1"), true),
            (sql("a >"), false),
            (Subscription { expression_type: "XPATH".into(), ..Subscription::default() }, false),
        ] {
            assert_eq!(Selection::new(subscription.clone()).is_usable(), usable, "{subscription:?}");
            assert_eq!(compile(&subscription).is_ok(), usable);
        }
    }
}
