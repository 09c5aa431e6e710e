//! Key-value configuration of the name servers. Each keeps its own: a change is told to all of them.

use std::collections::BTreeMap;

use mq_protocol::body::KvTable;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{KvConfigKey, KvNamespace, PutKvConfig};

use super::{Admin, from_json};
use crate::error::ClientError;

impl Admin {
    /// Every key of a namespace; none, if nobody set one.
    pub async fn kv(&self, namespace: &str) -> Result<BTreeMap<String, String>, ClientError> {
        let header = KvNamespace { namespace: namespace.into() };
        let command = Command::request_with(request::GET_KVLIST_BY_NAMESPACE, &header);
        let names = self.0.0.routes.names();
        match names.call(&command).await {
            Ok(answer) => Ok(from_json::<KvTable>(names.first(), command.code, &answer)?.table),
            Err(error) if error.code() == Some(response::QUERY_NOT_FOUND) => Ok(BTreeMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn put_kv(&self, namespace: &str, key: &str, value: &str) -> Result<(), ClientError> {
        let header = PutKvConfig { namespace: namespace.into(), key: key.into(), value: value.into() };
        Ok(self.0.0.routes.names().tell_all(&Command::request_with(request::PUT_KV_CONFIG, &header)).await?)
    }

    pub async fn delete_kv(&self, namespace: &str, key: &str) -> Result<(), ClientError> {
        let header = KvConfigKey { namespace: namespace.into(), key: key.into() };
        Ok(self.0.0.routes.names().tell_all(&Command::request_with(request::DELETE_KV_CONFIG, &header)).await?)
    }
}
