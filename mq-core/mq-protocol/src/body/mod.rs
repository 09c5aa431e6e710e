//! JSON bodies, under Apache's bean names. Null fields are omitted, empty maps and lists printed; reading defaults both.

mod client;
mod config;
mod connections;
mod control;
mod object_keys;
mod pop;
mod route;
mod running;
mod stats;
mod timer;
mod txn;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use client::*;
pub use config::*;
pub use connections::*;
pub use control::*;
pub use object_keys::{ObjectKey, QueueKey, to_json_with_object_keys};
pub use pop::*;
pub use route::*;
pub use running::*;
pub use stats::*;
pub use timer::*;
pub use txn::*;

use crate::java;

/// A body that cannot be read: what was expected, and where it broke.
#[derive(Debug, thiserror::Error)]
#[error("the body is not a {what}: {reason}")]
pub struct BodyError {
    what: &'static str,
    reason: String,
}

/// Reads a JSON body, also with fastjson's unquoted integer keys and its objects as keys.
pub fn from_json<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, BodyError> {
    let text = std::str::from_utf8(body).map_err(|error| BodyError { what, reason: error.to_string() })?;
    let text = object_keys::quote_object_keys(text);
    serde_json::from_str(&java::quote_integer_keys(&text))
        .map_err(|error| BodyError { what, reason: error.to_string() })
}

/// Prints a JSON body.
#[must_use]
pub fn to_json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("bodies have text keys and printable values").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is, how to read and print it, and its text.
    type Sample = (&'static str, fn(&[u8]) -> Bytes, &'static str);

    /// Real bodies; each must survive reading and printing with every key and value.
    const SAMPLES: &[Sample] = &[
        (
            "heartbeat",
            again::<HeartbeatData>,
            r#"{"clientID":"192.0.2.2@1#4","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":1795255063427,"tagsSet":["TagA"],"topic":"t"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"withoutSub":false}"#,
        ),
        ("consumer ids", again::<ConsumerIds>, r#"{"consumerIdList":["192.0.2.2@14260#4935191759721"]}"#),
        (
            "lock request",
            again::<LockBatch>,
            r#"{"clientId":"c","consumerGroup":"g","mqSet":[{"brokerName":"b","queueId":2,"topic":"t"}],"onlyThisBroker":false}"#,
        ),
        ("locked", again::<LockedQueues>, r#"{"lockOKMQSet":[{"brokerName":"b","queueId":2,"topic":"t"}]}"#),
        (
            "registration",
            again::<RegisterBrokerBody>,
            r#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1795257704597},"mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":1795257707624},"topicConfigTable":{"T":{"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":1}},"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}"#,
        ),
        (
            "route",
            again::<TopicRoute>,
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.2:30911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":7,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}"#,
        ),
        (
            "cluster",
            again::<ClusterInfo>,
            r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"127.0.0.2:30911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#,
        ),
        (
            "group",
            again::<SubscriptionGroup>,
            r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":false,"consumeEnable":true,"consumeFromMinEnable":false,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":3,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#,
        ),
    ];

    fn again<T: Serialize + DeserializeOwned>(body: &[u8]) -> Bytes {
        to_json(&from_json::<T>("sample", body).expect("readable"))
    }

    #[test]
    fn real_bodies_round_trip_with_every_key() {
        for (what, again, sample) in SAMPLES {
            let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
            assert_eq!(read(&again(sample.as_bytes())), read(sample.as_bytes()), "{what}");
        }
    }

    #[test]
    fn routes_print_integer_keys_as_the_client_expects_them() {
        let sample = SAMPLES.iter().find(|(what, ..)| *what == "route").expect("there").2;
        let route: TopicRoute = from_json("route", sample.as_bytes()).expect("readable");
        assert!(route.to_json(400).starts_with(br#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.2:30911"}"#));
        assert!(route.to_json(401).starts_with(br#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.2:30911"}"#));
        let again: TopicRoute = from_json("route", &route.to_json(400)).expect("readable");
        assert_eq!(again, route);
    }

    #[test]
    fn an_unreadable_body_says_what_it_should_have_been() {
        let error = from_json::<ConsumerIds>("consumer list", b"{]").expect_err("broken");
        assert!(error.to_string().starts_with("the body is not a consumer list: "));
    }
}
