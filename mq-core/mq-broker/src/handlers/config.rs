//! The broker's settings as tools read (26) and change (25) them.

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::BrokerConfigResponse;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::config::java_properties;

/// Code 25. A change goes to disk, so it runs on the blocking lane.
pub(crate) fn update(request: &Command) -> Handled {
    let text = std::str::from_utf8(&request.body)
        .map_err(|_| Refusal::new(response::INVALID_PARAMETER, "the settings are not UTF-8"))?
        .to_owned();
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        let remark = broker.change_settings(&text)?.map(Into::into);
        Ok(Reply::Now(Command { remark, ..answer }))
    })))
}

/// Code 26. What was changed and waits for a restart is shown as it will be.
pub(crate) fn get(broker: &Broker, request: &Command) -> Handled {
    let text = java_properties::print(broker.live().values());
    let version = mq_protocol::body::to_json(&broker.settings_version());
    let version = String::from_utf8(version.into()).expect("JSON is UTF-8").into();
    Ok(Reply::body(request, text.into())?.with_header(&BrokerConfigResponse { version }))
}
