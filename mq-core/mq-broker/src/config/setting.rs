//! One line of `broker.conf`, read as what its key asks for. Knows no keys.

use std::str::FromStr;
use std::time::Duration;

use mq_protocol::body::perm;

use super::{ConfigError, FlushDiskType, MAX_QUEUES_PER_TOPIC};

/// One line of the file.
pub(super) struct Setting<'t> {
    pub(super) key: &'t str,
    pub(super) value: &'t str,
}

impl Setting<'_> {
    pub(super) fn wrong(&self, expected: &'static str) -> ConfigError {
        ConfigError::Value { key: self.key.into(), value: self.value.into(), expected }
    }

    pub(super) fn unsupported(&self, reason: &'static str) -> ConfigError {
        ConfigError::Unsupported { key: self.key.into(), value: self.value.into(), reason }
    }

    pub(super) fn parse<T: FromStr>(&self, expected: &'static str) -> Result<T, ConfigError> {
        self.value.parse().map_err(|_| self.wrong(expected))
    }

    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        self.value.to_ascii_lowercase().parse().map_err(|_| self.wrong("true or false"))
    }

    pub(super) fn millis(&self) -> Result<Duration, ConfigError> {
        self.parse("a number of milliseconds").map(Duration::from_millis)
    }

    pub(super) fn at_least(&self, least: u64) -> Result<u64, ConfigError> {
        let value = self.parse("a number of bytes")?;
        if value < least { Err(self.wrong("a larger number of bytes")) } else { Ok(value) }
    }

    pub(super) fn parse_at_least(&self, least: u32) -> Result<u32, ConfigError> {
        let value = self.parse("a number")?;
        if value < least { Err(self.wrong("a larger number")) } else { Ok(value) }
    }

    pub(super) fn in_range(
        &self,
        range: std::ops::RangeInclusive<u8>,
        expected: &'static str,
    ) -> Result<u8, ConfigError> {
        self.parse(expected)
            .and_then(|value| if range.contains(&value) { Ok(value) } else { Err(self.wrong(expected)) })
    }

    pub(super) fn queues(&self) -> Result<u32, ConfigError> {
        let queues = self.parse("a number of queues")?;
        if (1..=MAX_QUEUES_PER_TOPIC).contains(&queues) { Ok(queues) } else { Err(self.wrong("1 to 16384 queues")) }
    }

    pub(super) fn permission(&self) -> Result<u32, ConfigError> {
        let bits: u32 = self.parse("2 (write), 4 (read) or 6 (both)")?;
        if bits & !perm::READ_WRITE == 0 { Ok(bits) } else { Err(self.wrong("2 (write), 4 (read) or 6 (both)")) }
    }

    pub(super) fn name(&self) -> Result<String, ConfigError> {
        mq_protocol::topic::check_topic(self.value).map_err(|_| self.wrong("a name of letters, digits and % | _ -"))?;
        Ok(self.value.to_owned())
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.value.split(';').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn flush_disk_type(&self) -> Result<FlushDiskType, ConfigError> {
        match self.value {
            "SYNC_FLUSH" => Ok(FlushDiskType::Sync),
            "ASYNC_FLUSH" => Ok(FlushDiskType::Async),
            _ => Err(self.wrong("SYNC_FLUSH or ASYNC_FLUSH")),
        }
    }

    pub(super) fn metrics_exporter(&self) -> Result<bool, ConfigError> {
        match self.value {
            // Apache's number for it, too.
            "PROM" | "3" => Ok(true),
            "DISABLE" | "0" => Ok(false),
            _ => Err(self.unsupported("figures are told to Prometheus (PROM) or to nobody (DISABLE)")),
        }
    }

    pub(super) fn one_of(&self, supported: &[&str], reason: &'static str) -> Result<(), ConfigError> {
        if supported.contains(&self.value) { Ok(()) } else { Err(self.unsupported(reason)) }
    }
}
