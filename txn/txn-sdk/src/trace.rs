//! W3C trace context in message properties: read, passed on, continued. Knows no tracing backend; a service that has one
//! says by a hook which context it is in.
//!
//! <https://www.w3.org/TR/trace-context/>

use std::{fmt, future::Future};

use mq_client::{Message, ReceivedMessage};
use tracing::Span;
use uuid::Uuid;

/// The properties, named as the HTTP headers.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// Of `tracestate`; a longer one is dropped, as the specification allows.
const MAX_STATE_BYTES: usize = 512;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Where in a trace something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// `None` for what is not a context, zero ids included. Later versions are read as far as they are known.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut fields = traceparent.split('-');
        let version = hex(fields.next()?, 2)?;
        let (trace_id, span_id) = (hex(fields.next()?, 32)?, hex(fields.next()?, 16)?);
        let flags = hex(fields.next()?, 2)?;
        let is_known = version != 0xff && (version != 0 || fields.next().is_none());
        if !is_known || trace_id == 0 || span_id == 0 {
            return None;
        }
        let printable =
            |state: &&str| state.len() <= MAX_STATE_BYTES && state.bytes().all(|byte| (32..127).contains(&byte));
        let state = tracestate.filter(printable).filter(|state| !state.is_empty()).map(str::to_owned);
        Some(Self { trace_id, span_id: u64::try_from(span_id).ok()?, flags: u8::try_from(flags).ok()?, state })
    }

    /// What a message says that it belongs to.
    #[must_use]
    pub fn of(message: &ReceivedMessage) -> Option<Self> {
        Self::parse(message.property(TRACEPARENT)?, message.property(TRACESTATE))
    }

    /// Of the delivery that is being handled, in its handler.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Puts it on a message: its half, its checkback and its consumers continue from here.
    #[must_use]
    pub fn attach(&self, message: Message) -> Message {
        let state = self.state.clone().unwrap_or_default();
        message.property(TRACEPARENT, self.to_string()).property(TRACESTATE, state)
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        let (span_id, _) = Uuid::new_v4().as_u64_pair();
        Self { span_id, ..self.clone() }
    }

    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    #[must_use]
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    pub(crate) fn attached_to(message: &Message) -> Option<Self> {
        let property = |name| message.properties().get(name).map(|value| &**value);
        Self::parse(property(TRACEPARENT)?, property(TRACESTATE))
    }

    /// Fills in the fields of a span that were left empty.
    pub(crate) fn record(&self, parent: &Self, span: &Span) {
        span.record("trace_id", self.trace_id());
        span.record("span_id", self.span_id());
        span.record("parent_span_id", parent.span_id());
    }

    /// Makes it the current one of a future.
    pub(crate) async fn around<F: Future>(this: Option<Self>, future: F) -> F::Output {
        match this {
            Some(context) => CURRENT.scope(context, future).await,
            None => future.await,
        }
    }
}

/// A span of the SDK's below `parent`, if there is one, and its place in the trace.
macro_rules! span {
    ($name:literal, $parent:expr $(, $($fields:tt)*)?) => {{
        let parent: Option<&crate::trace::TraceContext> = $parent;
        let context = parent.map(crate::trace::TraceContext::child);
        let span = tracing::info_span!(
            $name,
            trace_id = tracing::field::Empty,
            span_id = tracing::field::Empty,
            parent_span_id = tracing::field::Empty,
            $($($fields)*)?
        );
        if let (Some(parent), Some(context)) = (parent, &context) {
            context.record(parent, &span);
        }
        (span, context)
    }};
}
pub(crate) use span;

/// `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Lower case, and so many digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn contexts_are_read_as_the_specification_says() {
        let whole = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for (text, read) in [
            (whole.as_str(), true),
            (&format!("00-{TRACE}-00f067aa0ba902b7-00"), true),
            (&format!("01-{TRACE}-00f067aa0ba902b7-01-more"), true),
            (&format!("00-{TRACE}-00f067aa0ba902b7-01-more"), false),
            (&format!("ff-{TRACE}-00f067aa0ba902b7-01"), false),
            (&format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), false),
            (&format!("00-{TRACE}-0000000000000000-01"), false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            (&format!("00-{TRACE}-00f067aa0ba902b7"), false),
            (&format!("00-{TRACE}-00f067aa0ba902b-01"), false),
            ("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("", false),
        ] {
            assert_eq!(TraceContext::parse(text, None).is_some(), read, "{text:?}");
        }
        let context = TraceContext::parse(&whole, Some("vendor=1,other=2")).unwrap();
        assert_eq!((context.to_string(), context.state()), (whole.clone(), Some("vendor=1,other=2")));
        let child = context.child();
        assert_eq!((child.trace_id(), child.state()), (TRACE.to_owned(), context.state()));
        assert_ne!(child.span_id(), context.span_id());
        for state in ["", "a\u{1}b", &"x".repeat(513)] {
            assert_eq!(TraceContext::parse(&whole, Some(state)).unwrap().state(), None, "{state:?}");
        }
    }
}
