//! Taking a delayed message back before it is delivered.

use mq_protocol::ByteString;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{RecallMessage, RecallMessageResponse};
use mq_protocol::recall::RecallHandle;
use tokio::time::Instant;

use super::Producer;
use crate::error::{ClientError, RouteError};

impl Producer {
    /// Takes back the message whose receipt has this handle, and gives its id. The broker refuses it when the time is
    /// over, and altogether unless `recallMessageEnable=true`. To repeat it does no harm.
    pub async fn recall(&self, handle: &str) -> Result<ByteString, ClientError> {
        let named = RecallHandle::decode(handle).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let route = self.inner().routes.for_sending(&named.topic).await?;
        let no_broker = || RouteError::NoBroker { topic: named.topic.clone(), broker: named.broker_name.clone() };
        let address = route.master(&named.broker_name).ok_or_else(no_broker)?;
        let deadline = Instant::now() + self.0.options.send_timeout;
        let connection = self.inner().connection_by(address, deadline).await?;
        let header = RecallMessage {
            producer_group: Some(self.0.group.clone()),
            topic: named.topic.clone(),
            recall_handle: handle.into(),
            bname: Some(named.broker_name.clone()),
        };
        let command = Command::request_with(request::RECALL_MESSAGE, &header);
        let answer = connection.call(command, deadline.saturating_duration_since(Instant::now())).await?;
        let answered: Result<RecallMessageResponse, _> = answer.header();
        let answered = answered.map_err(|error| connection.unreadable(request::RECALL_MESSAGE, error))?;
        Ok(answered.msg_id)
    }
}
