//! The settings that a tool may change while the broker runs: saved first, then in effect.

use std::sync::Arc;

use arc_swap::Guard;
use mq_protocol::body::DataVersion;
use tracing::info;

use super::{Broker, StartError};
use crate::config::BrokerConfig;
use crate::config_update::{self, ChangedSettings, UpdateError};
use crate::settings::{timer_settings, transaction_schedule};
use crate::topics::next_version;

impl Broker {
    /// The settings with every change. Only those that change live may be read here; the others are as in `config` until
    /// the next start.
    pub(crate) fn live(&self) -> Guard<Arc<BrokerConfig>> {
        self.live.load()
    }

    /// Changes settings as a tool asks for it: saved first, then in effect. Says what the tool's user should know.
    pub(crate) fn change_settings(&self, text: &str) -> Result<Option<String>, UpdateError> {
        let changed = self.changed_settings.lock();
        let planned = config_update::plan(&self.live(), text)?;
        changed.add(&planned.pairs)?;
        info!(settings = ?planned.pairs, "settings changed");
        self.topics.adopt(&planned.config, self.clock.now())?;
        self.groups.adopt(&planned.config);
        self.transactions.set_schedule(transaction_schedule(&planned.config));
        if let Some(timers) = &self.timed.timers {
            timers.adopt(timer_settings(&planned.config));
            self.timed.bell.ring();
        }
        self.live.store(Arc::new(planned.config));
        let mut version = self.settings_version.lock();
        *version = next_version(*version, self.clock.now());
        Ok(planned.remark)
    }

    /// What it was started with: the caller's settings, and over them those that tools changed.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    pub(crate) fn settings_version(&self) -> DataVersion {
        *self.settings_version.lock()
    }
}

/// The settings of `broker.conf` and the command line, with what tools have changed since.
pub(super) fn with_changes(mut config: BrokerConfig, changed: &ChangedSettings) -> Result<BrokerConfig, StartError> {
    let directory = config.store_root.clone();
    let pairs = changed.load().map_err(|error| StartError::Config { directory: directory.clone(), error })?;
    for (key, value) in &pairs {
        info!(key, value, "changed by a tool, stands over broker.conf (config/broker.properties)");
    }
    config.apply_pairs(pairs).map_err(|error| StartError::ChangedSettings { directory, error })?;
    Ok(config)
}
