//! What can go wrong between this process and a broker or name server: one fact per variant, saying what was asked, of
//! whom, and whether the other side may have done it.

use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::codes::{request, response};

/// A request that got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("cannot connect to {address}: {reason}; check that it runs and that this address can be reached")]
    Connect { address: ByteString, reason: String },
    #[error("{address} had no room for {} within {within:?}: too many requests in flight; send slower", request_name(*.code))]
    NoRoom { address: ByteString, code: i32, within: Duration },
    #[error("{address} did not answer {} within {within:?}", request_name(*.code))]
    Timeout { address: ByteString, code: i32, within: Duration },
    #[error("the connection to {address} ended before it answered {}", request_name(*.code))]
    Lost { address: ByteString, code: i32 },
    #[error("a request of {bytes} bytes is over the frame limit of {limit}; send less at once")]
    TooLarge { bytes: usize, limit: usize },
}

impl RequestError {
    /// Whether the other side may have received the request all the same.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Lost { .. })
    }
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} refused {}: {} ({code}){}", request_name(*.request), response::name(*.code).unwrap_or("unknown code"), after_colon(.remark))]
pub struct Refused {
    pub address: ByteString,
    /// The request's code.
    pub request: i32,
    /// The answer's code, of [`mq_protocol::codes::response`].
    pub code: i32,
    pub remark: ByteString,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{address} answered {} with something unreadable: {reason}", request_name(*.request))]
    Unreadable { address: ByteString, request: i32, reason: String },
}

impl CallError {
    pub(crate) fn unreadable(address: &ByteString, request: i32, reason: impl ToString) -> Self {
        Self::Unreadable { address: address.clone(), request, reason: reason.to_string() }
    }

    /// Whether the other side may have done what was asked. An internal error of the server (code 1) leaves that open.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Request(error) => error.may_have_arrived(),
            Self::Refused(refused) => refused.code == response::SYSTEM_ERROR,
            Self::Unreadable { .. } => true,
        }
    }

    /// The response code, when there was an answer.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Refused(refused) => Some(refused.code),
            _ => None,
        }
    }
}

/// No broker is known for a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error(
        "topic {topic} is not known to the name servers ({names}): create it, or send to it where brokers create topics"
    )]
    NoTopic { topic: ByteString, names: String },
    #[error("no name server of {names} answered for topic {topic}: {last}")]
    NoNameServer { topic: ByteString, names: String, last: Box<CallError> },
    #[error("no broker of topic {topic} can be {used} now")]
    NoQueue { topic: ByteString, used: &'static str },
    #[error("broker {broker} is not in the route of {topic}")]
    NoBroker { topic: ByteString, broker: ByteString },
}

/// Anything but a send: starting, ending a transaction, pulling, offsets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Call(#[from] CallError),
    /// Some brokers did what all of them were asked for, others did not; `reason` is that of the first of these.
    #[error("not done at {}: {reason} (done at {})", failed.join(", "), done.join(", "))]
    Partly { failed: Vec<String>, done: Vec<String>, reason: Box<ClientError> },
    #[error("offsets cannot be kept in {path}: {reason}")]
    LocalOffsets { path: String, reason: String },
}

impl From<RequestError> for ClientError {
    fn from(error: RequestError) -> Self {
        Self::Call(error.into())
    }
}

impl ClientError {
    /// Whether the other side may have done what was asked.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Call(error) if error.may_have_happened()) || matches!(self, Self::Partly { .. })
    }
}

/// A message that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {message_id} to {topic} was not acknowledged after {attempts} attempts ({}): {reason}", self.doubt())]
pub struct SendError {
    pub topic: ByteString,
    /// UNIQ_KEY of the message; empty when it never got one.
    pub message_id: ByteString,
    pub attempts: u32,
    pub reason: Box<SendFailure>,
    may_be_stored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Call(#[from] CallError),
    /// Half messages only: the broker would store it and not do what it asks for, as Apache RocketMQ's do.
    #[error("property {property} needs a broker that offers {capability}, and {address} does not say so")]
    NotOffered { property: &'static str, capability: &'static str, address: ByteString },
    /// Half messages only: a half that is stored but not yet safe must not be built upon.
    #[error("the broker stored it but could not make it safe: {0:?}")]
    NotSafe(crate::SendStatus),
}

impl SendError {
    #[must_use]
    pub fn new(topic: ByteString, message_id: ByteString, attempts: u32, reason: SendFailure) -> Self {
        let may_be_stored = match &reason {
            SendFailure::Invalid(_) | SendFailure::Route(_) | SendFailure::NotOffered { .. } => false,
            SendFailure::Call(error) => error.may_have_happened(),
            SendFailure::NotSafe(_) => true,
        };
        Self { topic, message_id, attempts, reason: Box::new(reason), may_be_stored }
    }

    /// An earlier attempt may have been stored, whatever the last one said.
    pub(crate) fn or_stored_before(mut self, earlier: bool) -> Self {
        self.may_be_stored |= earlier;
        self
    }

    /// False: surely no broker has it. True: unknown, for instance because the answer did not come in time.
    #[must_use]
    pub fn may_be_stored(&self) -> bool {
        self.may_be_stored
    }

    fn doubt(&self) -> &'static str {
        if self.may_be_stored { "it may be stored" } else { "it is not stored" }
    }
}

fn request_name(code: i32) -> String {
    request::name(code).map_or_else(|| format!("request {code}"), str::to_owned)
}

fn after_colon(remark: &str) -> String {
    if remark.is_empty() { String::new() } else { format!(": {remark}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_said_only_where_there_is_doubt() {
        let address = ByteString::from_static("127.0.0.1:10911");
        let refused = |code| {
            CallError::Refused(Refused { address: address.clone(), request: 310, code, remark: ByteString::new() })
        };
        let within = Duration::from_secs(3);
        for (error, may) in [
            (RequestError::Connect { address: address.clone(), reason: "refused".into() }.into(), false),
            (RequestError::NoRoom { address: address.clone(), code: 310, within }.into(), false),
            (RequestError::Timeout { address: address.clone(), code: 310, within }.into(), true),
            (RequestError::Lost { address: address.clone(), code: 310 }.into(), true),
            (refused(response::SYSTEM_ERROR), true),
            (refused(response::SYSTEM_BUSY), false),
            (refused(response::TOPIC_NOT_EXIST), false),
        ] {
            let error = SendError::new("T".into(), "ID".into(), 1, SendFailure::Call(error));
            assert_eq!(error.may_be_stored(), may, "{error}");
            assert!(error.or_stored_before(true).may_be_stored());
        }
    }
}
