//! The name servers themselves: their settings, and whether they hand a broker to producers. Each keeps its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{AddWritePermResponse, WipeWritePermResponse, WritePermOfBroker};
use mq_protocol::java_properties;

use super::Admin;
use crate::error::{CallError, ClientError};

impl Admin {
    /// The settings of each name server, by its address.
    pub async fn name_server_settings(&self) -> Result<Vec<(String, BTreeMap<String, String>)>, ClientError> {
        let answers = self.0.0.routes.names().ask_all(&Command::request(request::GET_NAMESRV_CONFIG)).await?;
        let settings = |body: &[u8]| java_properties::parse(&String::from_utf8_lossy(body)).into_iter().collect();
        Ok(answers.into_iter().map(|(address, answer)| (address.to_string(), settings(&answer.body))).collect())
    }

    /// Changes settings of every name server. Returns what each has to say about it, by its address.
    pub async fn change_name_server_settings(
        &self,
        settings: &[(String, String)],
    ) -> Result<Vec<(String, String)>, ClientError> {
        let text = java_properties::print(settings.iter().map(|(key, value)| (key, value)));
        let command = Command::request(request::UPDATE_NAMESRV_CONFIG).with_body(Bytes::from(text));
        let answers = self.0.0.routes.names().ask_all(&command).await?;
        let said = |answer: Command| answer.remark.map_or_else(String::new, |remark| remark.to_string());
        Ok(answers.into_iter().map(|(address, answer)| (address.to_string(), said(answer))).collect())
    }

    /// Has the name servers hand a broker to producers, or to consumers only; until it registers a change. Returns how many
    /// topics that concerns, by name server.
    pub async fn allow_writes(&self, broker: &str, allow: bool) -> Result<Vec<(String, i32)>, ClientError> {
        let code = if allow { request::ADD_WRITE_PERM_OF_BROKER } else { request::WIPE_WRITE_PERM_OF_BROKER };
        let command = Command::request_with(code, &WritePermOfBroker { broker_name: broker.into() });
        let mut topics = Vec::new();
        for (address, answer) in self.0.0.routes.names().ask_all(&command).await? {
            let count = if allow {
                answer.header().map(|AddWritePermResponse { add_topic_count }| add_topic_count)
            } else {
                answer.header().map(|WipeWritePermResponse { wipe_topic_count }| wipe_topic_count)
            };
            let count = count.map_err(|error| CallError::unreadable(&address, code, error))?;
            topics.push((address.to_string(), count));
        }
        Ok(topics)
    }
}
