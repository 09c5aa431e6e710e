//! The settings as texts, under RocketMQ's names: what a tool reads (26).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{BrokerConfig, FlushDiskType, keys};

impl BrokerConfig {
    /// Every setting that has an effect, with its value or default.
    #[must_use]
    pub fn values(&self) -> BTreeMap<&'static str, String> {
        keys::EFFECTIVE.iter().filter_map(|key| Some((*key, self.show(key)?))).collect()
    }

    /// The text that sets `key` to what it is. `None`: not set at all.
    fn show(&self, key: &str) -> Option<String> {
        Some(match key {
            "brokerClusterName" => self.cluster_name.clone(),
            "brokerName" => self.broker_name.clone(),
            "brokerId" => self.broker_id.to_string(),
            "brokerIP1" => self.broker_ip?.to_string(),
            "bindAddress" => self.bind_address.to_string(),
            "listenPort" => self.listen_port.to_string(),
            "namesrvAddr" => self.name_servers.join(";"),
            "brokerRole" => "ASYNC_MASTER".into(),
            "storePathRootDir" => self.store_root.display().to_string(),
            "storePathCommitLog" => self.store_root.join("commitlog").display().to_string(),
            "storeType" => "default".into(),
            "enableDLegerCommitLog" | "enableControllerMode" => "false".into(),
            "aclEnable" | "authenticationEnabled" | "authorizationEnabled" => "false".into(),
            "flushDiskType" => flush_disk_type(self.flush_disk_type).into(),
            "flushIntervalCommitLog" => millis(self.flush_interval),
            "mappedFileSizeCommitLog" => self.commit_log_segment_bytes.to_string(),
            "mappedFileSizeConsumeQueue" => self.consume_queue_file_bytes.to_string(),
            "fileReservedTime" => (self.file_reserved_time.as_secs() / 3600).to_string(),
            "deleteWhen" => self.delete_hours.to_string(),
            "diskMaxUsedSpaceRatio" => self.max_used_disk_percent.to_string(),
            "minFreeDiskBytes" => self.min_free_disk_bytes.to_string(),
            "cleanFileForciblyEnable" => self.clean_forcibly.to_string(),
            "cleanResourceInterval" => millis(self.clean_interval),
            "messageIndexEnable" => self.index_messages.to_string(),
            "maxHashSlotNum" => self.index.slots.to_string(),
            "maxIndexNum" => self.index.entries.to_string(),
            "maxMessageSize" => self.max_message_bytes.to_string(),
            "accessMessageInMemoryMaxRatio" => self.memory_hot_percent.to_string(),
            "rangeChecksumEnable" => self.range_checksums.to_string(),
            "autoCreateTopicEnable" => self.auto_create_topic.to_string(),
            "autoCreateSubscriptionGroup" => self.auto_create_group.to_string(),
            "defaultTopicQueueNums" => self.default_topic_queues.to_string(),
            "brokerPermission" => self.permission.to_string(),
            "traceTopicEnable" => self.trace_topic.to_string(),
            "longPollingEnable" => self.long_polling.to_string(),
            "osPageCacheBusyTimeOutMills" => millis(self.disk_busy_after),
            "useServerSideResetOffset" => self.server_side_reset.to_string(),
            "storeReplyMessageEnable" => self.store_replies.to_string(),
            "enablePropertyFilter" => self.property_filter.to_string(),
            "messageDelayLevel" => self.delay_levels.clone(),
            "timerWheelEnable" => self.timer_wheel.to_string(),
            "timerMaxDelaySec" => self.timer_max_delay.as_secs().to_string(),
            "timerPrecisionMs" => millis(self.timer_precision),
            "timerRollWindowSlot" => self.timer_roll_window_slots.to_string(),
            "timerCongestNumEachSlot" => self.timer_congestion.to_string(),
            "mappedFileSizeTimerLog" => self.timer_log_file_bytes.to_string(),
            "recallMessageEnable" => self.recall.to_string(),
            "transactionTimeOut" => millis(self.transaction_timeout),
            "transactionCheckInterval" => millis(self.transaction_check_interval),
            "transactionCheckMax" => self.transaction_check_max.to_string(),
            "rejectTransactionMessage" => self.reject_transactions.to_string(),
            "flushConsumerOffsetInterval" => millis(self.flush_offsets_interval),
            "metricsExporterType" => if self.metrics_enabled { "PROM" } else { "DISABLE" }.into(),
            "metricsPromExporterHost" => self.metrics_host?.to_string(),
            "metricsPromExporterPort" => self.metrics_port.to_string(),
            "registerNameServerPeriod" => millis(self.register_interval),
            "serverChannelMaxIdleTimeSeconds" => match self.max_idle.as_secs() {
                never if never == u64::from(u32::MAX) => "0".into(),
                seconds => seconds.to_string(),
            },
            _ => return self.pop.show(key),
        })
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn flush_disk_type(flush: FlushDiskType) -> &'static str {
    match flush {
        FlushDiskType::Sync => "SYNC_FLUSH",
        FlushDiskType::Async => "ASYNC_FLUSH",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::java_properties;

    #[test]
    fn every_setting_is_shown_and_set_again_by_its_text() {
        let mut config = BrokerConfig {
            broker_ip: Some([10, 0, 0, 1].into()),
            metrics_host: Some([127, 0, 0, 1].into()),
            metrics_enabled: true,
            ..BrokerConfig::default()
        };
        config.max_idle = Duration::from_secs(u64::from(u32::MAX));
        config.flush_disk_type = FlushDiskType::Async;
        let values = config.values();
        for key in keys::EFFECTIVE {
            assert!(values.contains_key(key), "{key} has no arm in show()");
        }
        let mut again = BrokerConfig { store_root: config.store_root.clone(), ..BrokerConfig::default() };
        assert_eq!(again.apply(&java_properties::print(values)), Ok(Vec::new()));
        assert_eq!(again, config);
    }
}
