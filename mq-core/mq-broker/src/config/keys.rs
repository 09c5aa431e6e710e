//! The names of RocketMQ's settings: which are known, and which one was probably meant.

use super::ConfigWarning;

/// Settings that have an effect here; `BrokerConfig::set` gives it to them.
pub(super) const EFFECTIVE: &[&str] = &[
    "accessMessageInMemoryMaxRatio",
    "aclEnable",
    "authenticationEnabled",
    "authorizationEnabled",
    "autoCreateSubscriptionGroup",
    "autoCreateTopicEnable",
    "bindAddress",
    "brokerClusterName",
    "brokerId",
    "brokerIP1",
    "brokerName",
    "brokerPermission",
    "brokerRole",
    "cleanFileForciblyEnable",
    "cleanResourceInterval",
    "defaultMessageRequestMode",
    "defaultPopShareQueueNum",
    "defaultTopicQueueNums",
    "deleteWhen",
    "diskMaxUsedSpaceRatio",
    "enableControllerMode",
    "enableDLegerCommitLog",
    "enablePopMessageThreshold",
    "enablePropertyFilter",
    "enableRetryTopicV2",
    "fileReservedTime",
    "flushConsumerOffsetInterval",
    "flushDiskType",
    "flushIntervalCommitLog",
    "initPopOffsetByCheckMsgInMem",
    "listenPort",
    "longPollingEnable",
    "mappedFileSizeCommitLog",
    "mappedFileSizeConsumeQueue",
    "maxHashSlotNum",
    "maxIndexNum",
    "mappedFileSizeTimerLog",
    "maxMessageSize",
    "maxPopPollingSize",
    "messageDelayLevel",
    "messageIndexEnable",
    "metricsExporterType",
    "metricsPromExporterHost",
    "metricsPromExporterPort",
    "minFreeDiskBytes",
    "namesrvAddr",
    "osPageCacheBusyTimeOutMills",
    "popFromRetryProbability",
    "popInflightMessageThreshold",
    "popPollingSize",
    "rangeChecksumEnable",
    "recallMessageEnable",
    "registerNameServerPeriod",
    "rejectTransactionMessage",
    "retrieveMessageFromPopRetryTopicV1",
    "serverChannelMaxIdleTimeSeconds",
    "storePathCommitLog",
    "storePathRootDir",
    "storeReplyMessageEnable",
    "storeType",
    "timerCongestNumEachSlot",
    "timerMaxDelaySec",
    "timerPrecisionMs",
    "timerRollWindowSlot",
    "timerWheelEnable",
    "traceTopicEnable",
    "transactionCheckInterval",
    "transactionCheckMax",
    "transactionTimeOut",
    "useServerSideResetOffset",
];

/// What happens when a tool changes a setting of a running broker (25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// At once.
    Live,
    /// At the next start.
    Restart,
    /// It may not: who reaches the port could move the broker, or lock it out of its own files.
    Never,
}

const LIVE: &[&str] = &[
    "autoCreateSubscriptionGroup",
    "autoCreateTopicEnable",
    "brokerPermission",
    "cleanFileForciblyEnable",
    "defaultTopicQueueNums",
    "deleteWhen",
    "diskMaxUsedSpaceRatio",
    "enablePropertyFilter",
    "fileReservedTime",
    "longPollingEnable",
    "rejectTransactionMessage",
    "serverChannelMaxIdleTimeSeconds",
    "storeReplyMessageEnable",
    "timerCongestNumEachSlot",
    "timerMaxDelaySec",
    "timerRollWindowSlot",
    "transactionCheckInterval",
    "transactionCheckMax",
    "transactionTimeOut",
    "useServerSideResetOffset",
];

const NEVER: &[&str] = &[
    "bindAddress",
    "brokerConfigPath",
    "brokerIP1",
    "configBlackList",
    "listenPort",
    "mappedFileSizeCommitLog",
    "mappedFileSizeConsumeQueue",
    "metricsPromExporterHost",
    "rocketmqHome",
    "storePathCommitLog",
    "storePathRootDir",
];

pub(crate) fn change_of(key: &str) -> Change {
    if NEVER.contains(&key) {
        Change::Never
    } else if LIVE.contains(&key) {
        Change::Live
    } else {
        Change::Restart
    }
}

/// Settings of RocketMQ that tune what this broker does not have.
const WITHOUT_EFFECT: &[&str] = &[
    "adminBrokerThreadPoolNums",
    "brokerIP2",
    "brokerTopicEnable",
    "clientManageThreadPoolNums",
    "clusterTopicEnable",
    "commitCommitLogThoroughInterval",
    "commitIntervalCommitLog",
    "compressedRegister",
    "consumerManageThreadPoolNums",
    "deleteCommitLogFilesInterval",
    "diskFallRecorded",
    "enableConsumeQueueExt",
    "enabledAppendPropCRC",
    "enableLmq",
    "enableMultiDispatch",
    "enablePopBufferMerge",
    "enableSlaveActingMaster",
    "endTransactionThreadPoolNums",
    "fastFailIfNoBufferInStorePool",
    "fetchNamesrvAddrByAddressServer",
    "flushCommitLogThoroughInterval",
    "flushConsumerOffsetHistoryInterval",
    "flushDelayOffsetInterval",
    "flushIntervalConsumeQueue",
    "forceRegister",
    "forceVerifyPropCRC",
    "haHousekeepingInterval",
    "haListenPort",
    "haMasterAddress",
    "haMaxGapNotInSync",
    "haSendHeartbeatInterval",
    "haTransferBatchSize",
    "heartbeatThreadPoolNums",
    "highSpeedMode",
    "inSyncReplicas",
    "maxDelayTime",
    "maxTransferBytesOnMessageInDisk",
    "maxTransferBytesOnMessageInMemory",
    "maxTransferCountOnMessageInDisk",
    "maxTransferCountOnMessageInMemory",
    "messageIndexSafe",
    "minInSyncReplicas",
    "popConsumerKVServiceEnable",
    "processReplyMessageThreadPoolNums",
    "pullMessageThreadPoolNums",
    "pullThreadPoolQueueCapacity",
    "queryMessageThreadPoolNums",
    "readUnCommitted",
    "redeleteHangedFileInterval",
    "reviveQueueNum",
    "rocketmqHome",
    "sendMessageThreadPoolNums",
    "sendThreadPoolQueueCapacity",
    "serverAsyncSemaphoreValue",
    "serverCallbackExecutorThreads",
    "serverOnewaySemaphoreValue",
    "serverPooledByteBufAllocatorEnable",
    "serverSelectorThreads",
    "serverSocketRcvBufSize",
    "serverSocketSndBufSize",
    "serverWorkerThreads",
    "shortPollingTimeMills",
    "slaveReadEnable",
    "slaveTimeout",
    "syncFlushTimeout",
    "timerCheckMetricsWhen",
    "timerEnableCheckMetrics",
    "timerEnableDisruptor",
    "timerFlushIntervalMs",
    "timerGetMessageThreadNum",
    "timerInterceptDelayLevel",
    "timerMetricSmallThreshold",
    "timerProgressLogIntervalMs",
    "timerPutMessageThreadNum",
    "timerSkipUnknownError",
    "timerWarmEnable",
    "totalReplicas",
    "transactionOpBatchInterval",
    "transactionOpMsgMaxSize",
    "transferMsgByHeap",
    "transientStorePoolEnable",
    "transientStorePoolSize",
    "useEpollNativeSelector",
    "useReentrantLockWhenPutMessage",
    "useTLS",
    "waitTimeMillsInPullQueue",
    "waitTimeMillsInSendQueue",
    "waitTimeMillsInTransactionQueue",
    "warmMapedFileEnable",
];

/// What this broker does where RocketMQ has these settings.
fn instead_of(key: &str) -> Option<&'static str> {
    let threads = "a connection's requests run on its task, on a thread for each core";
    Some(match key {
        "serverSelectorThreads" | "serverWorkerThreads" | "serverCallbackExecutorThreads" => threads,
        "warmMapedFileEnable" => "files are allocated before they are used and written without a map: nothing to warm",
        "transientStorePoolEnable" | "transientStorePoolSize" | "fastFailIfNoBufferInStorePool" => {
            "each read of a socket is one write to the page cache, without buffers in between"
        }
        "commitIntervalCommitLog" | "commitCommitLogThoroughInterval" => "nothing waits to be committed",
        "useReentrantLockWhenPutMessage" => "one short lock for all messages of a read",
        "transferMsgByHeap" => "pulls are answered from the mapped log, without a copy",
        "serverPooledByteBufAllocatorEnable" => "idle connections keep no buffer",
        "useEpollNativeSelector" => "epoll is always used",
        "syncFlushTimeout" => "an answer waits as long as the disk takes; see osPageCacheBusyTimeOutMills",
        "waitTimeMillsInSendQueue" | "waitTimeMillsInPullQueue" | "waitTimeMillsInTransactionQueue" => {
            "requests do not queue: a connection is read when its requests can be done"
        }
        key if key.ends_with("ThreadPoolNums") || key.ends_with("ThreadPoolQueueCapacity") => threads,
        _ => return None,
    })
}

/// Why a key that nothing was set by is passed over.
pub(super) fn explain(key: &str) -> ConfigWarning {
    if WITHOUT_EFFECT.contains(&key) {
        return ConfigWarning::NoEffect { key: key.into(), instead: instead_of(key) };
    }
    let known = EFFECTIVE.iter().chain(WITHOUT_EFFECT);
    let nearest = known.map(|name| (distance(key, name), *name)).min();
    // A third of the letters wrong is another word.
    let nearest = nearest.filter(|(distance, name)| *distance <= name.len() / 3).map(|(_, name)| name);
    ConfigWarning::Unknown { key: key.into(), nearest }
}

/// Levenshtein's, letters in either case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, r) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(l != *r)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BrokerConfig;

    #[test]
    fn the_page_tells_each_setting_with_its_default_and_how_it_changes() {
        const PAGE: &str = include_str!("../../../../docs/SETTINGS.md");
        let defaults = BrokerConfig::default().values();
        let mut missing: Vec<&str> = EFFECTIVE.to_vec();
        for row in PAGE.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for key in cells[1].split(", ").map(|key| key.trim_matches('`')) {
                missing.retain(|missing| *missing != key);
                let changed = match change_of(key) {
                    Change::Live => "at once",
                    Change::Restart => "restart",
                    Change::Never => "file",
                };
                assert_eq!(cells[3], changed, "{key}");
                let told = cells[2].trim_matches('`').replace("$HOME", &std::env::var("HOME").unwrap_or(".".into()));
                match (&*told, defaults.get(key)) {
                    ("the machine's name", Some(_)) | ("-", None) => {}
                    ("-", Some(default)) => assert_eq!(default, "", "{key}"),
                    (told, default) => assert_eq!(Some(told), default.map(|text| &**text), "{key}"),
                }
            }
        }
        assert_eq!(missing, [""; 0], "the page does not tell them");
    }

    #[test]
    fn every_effective_name_is_one_that_a_setting_has() {
        for key in EFFECTIVE {
            let outcome = BrokerConfig::default().set(key, "\u{0}");
            assert!(!matches!(outcome, Ok(false)), "{key}");
        }
        for key in LIVE {
            assert!(EFFECTIVE.contains(key), "{key}");
        }
        for key in WITHOUT_EFFECT {
            assert_eq!(BrokerConfig::default().set(key, ""), Ok(false), "{key}");
        }
    }
}
