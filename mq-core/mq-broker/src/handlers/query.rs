//! QUERY_MESSAGE (12): messages by key, of which the index knows where they are.

use std::sync::Arc;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{QueryMessage, QueryMessageResponse};
use mq_store::{KeyKind, TimeWindow};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;

/// `maxMsgsNumBatch` and `defaultQueryMaxNum`.
const MAX_MESSAGES: i32 = 64;
const MAX_OF_A_UNIQUE_KEY: i32 = 32;

/// Index and messages may be long out of memory, so they are read on the blocking lane.
pub(crate) fn query(broker: &Arc<Broker>, request: &Command) -> Handled {
    if !broker.config.index_messages {
        return Err(Refusal::not_indexed());
    }
    let header: QueryMessage = request.header()?;
    let unique = header.unique_key_query == Some(true);
    let (kind, max) = if unique { (KeyKind::Unique, MAX_OF_A_UNIQUE_KEY) } else { (KeyKind::Any, header.max_num) };
    let max = max.clamp(0, MAX_MESSAGES) as usize;
    let window = TimeWindow { from: header.begin_timestamp, to: header.end_timestamp };
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let found = broker.store.query(&header.topic, &header.key, kind, window, max)?;
        let fields = QueryMessageResponse {
            index_last_update_timestamp: found.indexed_until,
            index_last_update_phyoffset: found.indexed_to,
        };
        if found.records.is_empty() {
            let refusal = Refusal::no_message_of(&header.topic, &header.key);
            return Ok(Reply::Now(refusal.answer(&request).with_header(&fields)));
        }
        let bytes = found.records.iter().map(bytes::Bytes::len).sum();
        let head = request.response(response::SUCCESS).with_header(&fields);
        Ok(Reply::Slices { head, slices: found.records, bytes })
    })))
}
