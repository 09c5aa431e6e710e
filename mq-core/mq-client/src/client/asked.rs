//! What brokers ask of a client, for themselves and for operators' tools: each request goes to the producer or the member
//! of the group that it is about.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use mq_protocol::ByteString;
use mq_protocol::body::{self, MessageQueue};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    ConsumeMessageDirectly, ConsumerRunningInfo, ConsumerStatus, NotifyConsumerIdsChanged, ResetOffset,
};
use mq_protocol::record::StoredMessage;

use super::{Client, GroupMember, Inner};
use crate::message::ReceivedMessage;
use crate::remoting::{Connection, Inbound};

impl Inner {
    fn answer(&self, connection: &Connection, command: &Command) {
        let reply = match command.code {
            request::GET_CONSUMER_RUNNING_INFO => self.running_info(connection, command),
            request::GET_CONSUMER_STATUS_FROM_CLIENT => self.positions(command),
            request::CONSUME_MESSAGE_DIRECTLY => self.consume_directly(connection, command).map(|()| None),
            request::PUSH_REPLY_MESSAGE_TO_CLIENT => Ok(Some(crate::producer::on_reply(&self.requests, command))),
            request::CHECK_TRANSACTION_STATE
            | request::NOTIFY_CONSUMER_IDS_CHANGED
            | request::RESET_CONSUMER_CLIENT_OFFSET => Ok(Some(command.response(0))),
            code => {
                let reason = format!("this client does not serve {}", request::name(code).unwrap_or("this request"));
                Ok(Some(command.error(response::REQUEST_CODE_NOT_SUPPORTED, reason)))
            }
        };
        match reply {
            Ok(None) => {}
            Ok(Some(reply)) => connection.reply(&reply),
            Err(reason) => connection.reply(&command.error(response::SYSTEM_ERROR, reason)),
        }
    }

    fn member(&self, group: &str) -> Result<Arc<dyn GroupMember>, String> {
        let member = self.consumers.lock().get(group).and_then(Weak::upgrade);
        member.ok_or_else(|| format!("group {group} is not consumed here"))
    }

    /// A look into an inbox may take its time: then the answer comes from a task.
    fn running_info(&self, connection: &Connection, command: &Command) -> Result<Option<Command>, String> {
        let header: ConsumerRunningInfo = command.header().map_err(|error| error.to_string())?;
        let (member, answer) = (self.member(&header.consumer_group)?, command.response(0));
        let (Some(id), Some(inbox), Some(me)) = (header.inbox_of, member.inbox(), self.me.upgrade()) else {
            return Ok(Some(answer.with_body(member.running_info(None))));
        };
        let connection = connection.clone();
        tokio::spawn(async move {
            let told = inbox.answer(Client(me), &id).await;
            connection.reply(&answer.with_body(member.running_info(Some(&told))));
        });
        Ok(None)
    }

    fn positions(&self, command: &Command) -> Result<Option<Command>, String> {
        let header: ConsumerStatus = command.header().map_err(|error| error.to_string())?;
        let positions = self.member(&header.group)?.positions(&header.topic);
        Ok(Some(command.response(0).with_body(body::to_json_with_object_keys(&positions))))
    }

    /// The handler may take its time: the answer comes from a task.
    fn consume_directly(&self, connection: &Connection, command: &Command) -> Result<(), String> {
        let header: ConsumeMessageDirectly = command.header().map_err(|error| error.to_string())?;
        let stored = StoredMessage::decode(&command.body).map_err(|error| error.to_string())?;
        let queue = MessageQueue {
            topic: stored.message.topic.to_string(),
            broker_name: header.broker_name.unwrap_or_default().to_string(),
            queue_id: stored.message.queue_id.0,
        };
        let consuming =
            self.member(&header.consumer_group)?.consume_directly(ReceivedMessage::new(stored, &Arc::new(queue)));
        let (connection, answer) = (connection.clone(), command.response(0));
        tokio::spawn(async move { connection.reply(&answer.with_body(body::to_json(&consuming.await))) });
        Ok(())
    }

    fn reset(&self, command: &Command) -> Result<(), String> {
        let header: ResetOffset = command.header().map_err(|error| error.to_string())?;
        let offsets = body::from_json("table of offsets", &command.body).map_err(|error| error.to_string())?;
        self.member(&header.group)?.reset(offsets);
        Ok(())
    }
}

impl Inbound for Inner {
    fn request(&self, connection: &Connection, command: Command) {
        match command.code {
            request::CHECK_TRANSACTION_STATE => {
                if let Some(me) = self.me.upgrade() {
                    crate::producer::on_check(&me, connection, &command);
                }
            }
            request::RESET_CONSUMER_CLIENT_OFFSET => {
                if let Err(reason) = self.reset(&command) {
                    tracing::warn!(reason, "a reset of offsets that is not followed");
                }
            }
            request::NOTIFY_CONSUMER_IDS_CHANGED => {
                if let Ok(header) = command.header::<NotifyConsumerIdsChanged>() {
                    let member = self.consumers.lock().get(&header.consumer_group).and_then(Weak::upgrade);
                    member.inspect(|member| member.members_changed());
                }
            }
            _ => {}
        }
        if !command.is_oneway() {
            self.answer(connection, &command);
        }
    }

    fn greet(&self, connection: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move { self.heartbeat(&connection).await })
    }

    fn closed(&self, address: &ByteString) {
        if self.closed.is_cancelled() {
            return;
        }
        tracing::info!(%address, "connection lost");
        if let Some(me) = self.me.upgrade() {
            let address = address.clone();
            tokio::spawn(async move { me.reconnect(address).await });
        }
    }
}
