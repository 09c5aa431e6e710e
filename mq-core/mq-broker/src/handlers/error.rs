//! The only place that chooses response codes for errors.

use std::borrow::Cow;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::HeaderError;

/// Why a request was not done, as the client will read it: what happened, which limit, what to do.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) remark: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: remark.into() }
    }

    pub(crate) fn unsupported(code: i32) -> Self {
        Self::new(response::REQUEST_CODE_NOT_SUPPORTED, format!("request type {code} not supported"))
    }

    pub(crate) fn answer(self, request: &Command) -> Command {
        request.error(self.code, self.remark.into_owned())
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}
