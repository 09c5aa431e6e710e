//! An operator cleans now: 306, 316, 329. All of it is disk work, on the blocking lane.

use mq_protocol::codes::response;
use mq_protocol::command::Command;

use super::{Handled, Reply};
use crate::retention;

fn done(request: &Command, remark: String) -> Handled {
    let mut answer = request.response(response::SUCCESS);
    answer.remark = Some(remark.into());
    Ok(Reply::Now(answer))
}

/// Code 306: queue and index files of messages that the log no longer has.
pub(crate) fn expired_queues(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.store.sweep()?;
        Reply::ok(&request)
    })))
}

/// Code 316: the messages of topics that do not exist any more.
pub(crate) fn unused_topics(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let topics = retention::forget_unused_topics(broker)?;
        done(&request, format!("the messages of {topics} topics were removed"))
    })))
}

/// Code 329: what is older than fileReservedTime goes now, whatever the hour.
pub(crate) fn expired_log(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let files = retention::clean(broker, true)?;
        done(&request, format!("{files} files of the commit log were removed"))
    })))
}
