//! Which messages of a topic a consumer wants. The broker filters by hash, this side by the tag itself.

use mq_protocol::body::Subscription;

use crate::message::ReceivedMessage;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    kind: &'static str,
    expression: String,
}

impl Filter {
    #[must_use]
    pub fn all() -> Self {
        Self::tags(Subscription::ALL)
    }

    /// One tag, or several joined by `||`; `*` for all.
    #[must_use]
    pub fn tags(expression: impl Into<String>) -> Self {
        Self { kind: Subscription::TAG, expression: expression.into() }
    }

    /// A condition over properties; the broker must have such filters switched on.
    #[must_use]
    pub fn sql(expression: impl Into<String>) -> Self {
        Self { kind: Subscription::SQL92, expression: expression.into() }
    }

    pub(crate) fn subscription(&self, topic: &str, version: i64) -> Subscription {
        if self.kind == Subscription::TAG {
            return Subscription::tags(topic, &self.expression, version);
        }
        Subscription {
            topic: topic.into(),
            expression_type: self.kind.into(),
            sub_string: self.expression.clone(),
            sub_version: version,
            ..Subscription::default()
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::all()
    }
}

/// The broker's filter goes by a hash, in which tags may collide.
pub(super) fn wants(subscription: &Subscription, message: &ReceivedMessage) -> bool {
    !subscription.is_tag()
        || subscription.tags_set.is_empty()
        || message.tags().is_some_and(|tag| subscription.tags_set.contains(tag))
}
