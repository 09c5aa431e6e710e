//! Half messages: which wait for a verdict or were given up, what happened to one, and settling it by hand. Brokers of
//! Checkback only: Apache's refuse these requests.

use mq_protocol::body::{TxnDeed, TxnDone, TxnName, TxnPage, TxnQuery, TxnResumeAll, TxnResumedAll, TxnShown, to_json};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;

use super::{Admin, Master};
use crate::error::ClientError;

impl Admin {
    pub async fn transactions(&self, broker: &Master, query: &TxnQuery) -> Result<TxnPage, ClientError> {
        self.read(broker, Command::request(request::TXN_LIST).with_body(to_json(query))).await
    }

    /// One half and its history; `None`: the broker knows no such half, or not any more.
    pub async fn transaction(&self, broker: &Master, name: &TxnName) -> Result<Option<TxnShown>, ClientError> {
        match self.read(broker, Command::request(request::TXN_SHOW).with_body(to_json(name))).await {
            Ok(shown) => Ok(Some(shown)),
            Err(ClientError::Call(error)) if error.code() == Some(response::QUERY_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the producer asked about a half now. Returns what the broker has to say about it, as the other two do.
    pub async fn check_transaction(&self, broker: &Master, deed: &TxnDeed) -> Result<String, ClientError> {
        self.settle(broker, request::TXN_CHECK, deed).await
    }

    /// Ends a half as the operator says.
    pub async fn resolve_transaction(&self, broker: &Master, deed: &TxnDeed) -> Result<String, ClientError> {
        self.settle(broker, request::TXN_RESOLVE, deed).await
    }

    /// Has a half that was given up asked about again.
    pub async fn resume_transaction(&self, broker: &Master, deed: &TxnDeed) -> Result<String, ClientError> {
        self.settle(broker, request::TXN_RESUME, deed).await
    }

    /// The same for all that wait on a page of the given-up ones.
    pub async fn resume_transactions(
        &self,
        broker: &Master,
        deed: &TxnResumeAll,
    ) -> Result<TxnResumedAll, ClientError> {
        self.read(broker, Command::request(request::TXN_RESUME_ALL).with_body(to_json(deed))).await
    }

    async fn settle(&self, broker: &Master, code: i32, deed: &TxnDeed) -> Result<String, ClientError> {
        Ok(self.read::<TxnDone>(broker, Command::request(code).with_body(to_json(deed))).await?.done)
    }
}
