//! How far the timers are (60) and how many messages wait by topic (61): for slaves and tools. A save may be under way
//! meanwhile, so they run on the blocking lane.

use bytes::Bytes;
use mq_protocol::body;
use mq_protocol::command::Command;

use super::{Handled, Reply};

pub(crate) fn checkpoint(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let checkpoint = broker.timers()?.checkpoint();
        Reply::body(&request, Bytes::copy_from_slice(&checkpoint.encode()))
    })))
}

pub(crate) fn metrics(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| Reply::body(&request, body::to_json(&broker.timers()?.metrics())))))
}
