//! What tools and consumers ask about a queue: its bounds (30, 31), an offset by time (29), its oldest message (32).

use std::sync::Arc;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{
    EarliestStoreTimeResponse, GetEarliestStoreTime, GetMaxOffset, GetMinOffset, OffsetResponse, SearchOffset,
};
use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_store::Boundary;

use super::{Handled, Reply};
use crate::broker::Broker;

pub(crate) fn max_offset(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: GetMaxOffset = request.header()?;
    answer(request, broker.store.queue_bounds(&header.topic, header.queue_id).max)
}

pub(crate) fn min_offset(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: GetMinOffset = request.header()?;
    answer(request, broker.store.queue_bounds(&header.topic, header.queue_id).min)
}

/// Reads store times out of the log, which may be long out of memory.
pub(crate) fn offset_by_time(request: &Command) -> Handled {
    let header: SearchOffset = request.header()?;
    let ask = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        let upper = header.boundary_type.is_some_and(|boundary| boundary.eq_ignore_ascii_case("upper"));
        let boundary = if upper { Boundary::Upper } else { Boundary::Lower };
        let offset = broker.store.offset_by_time(&header.topic, header.queue_id, header.timestamp, boundary)?;
        Ok(Reply::Now(ask.with_header(&OffsetResponse { offset })))
    })))
}

pub(crate) fn earliest_store_time(request: &Command) -> Handled {
    let header: GetEarliestStoreTime = request.header()?;
    let ask = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        let first = broker.store.queue_bounds(&header.topic, header.queue_id).min;
        let entry = broker.store.entry(&header.topic, header.queue_id, first)?;
        let message = entry.map(|entry| broker.store.read(entry.log_offset)).transpose()?.flatten();
        let timestamp = message.map_or(UnixMillis(-1), |message| message.store_timestamp);
        Ok(Reply::Now(ask.with_header(&EarliestStoreTimeResponse { timestamp })))
    })))
}

fn answer(request: &Command, offset: QueueOffset) -> Handled {
    Ok(Reply::Now(request.response(response::SUCCESS).with_header(&OffsetResponse { offset })))
}
