//! The broker's settings: defaults, then `broker.conf`, then the command line.

use std::fs;

use anyhow::{Context, Result, bail};
use mq_broker::BrokerConfig;

use crate::arguments::StoreOptions;

pub(crate) fn load(options: &StoreOptions) -> Result<BrokerConfig> {
    let mut config = BrokerConfig::default();
    if let Some(path) = &options.config {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let warnings = config.apply(&text).with_context(|| format!("{}", path.display()))?;
        for warning in warnings {
            tracing::warn!(file = %path.display(), "{warning}");
        }
    }
    if let Some(store) = &options.store {
        config.store_root.clone_from(store);
    }
    if let Some(port) = options.port {
        config.listen_port = port;
    }
    if config.bind_address.is_unspecified() && config.broker_ip.is_none() {
        bail!(
            "bindAddress={} says where to listen, not where clients find it: set brokerIP1 as well",
            config.bind_address
        );
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_conf(text: &str, port: Option<u16>) -> Result<BrokerConfig> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("broker.conf");
        fs::write(&path, text).expect("written");
        load(&StoreOptions { config: Some(path), store: None, port, vip: false })
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        assert_eq!(with_conf("", None).expect("valid").listen_port, 10911);
        assert_eq!(with_conf("listenPort=1", None).expect("valid").listen_port, 1);
        assert_eq!(with_conf("listenPort=1", Some(2)).expect("valid").listen_port, 2);
    }

    #[test]
    fn what_cannot_be_used_names_its_file_and_key() {
        let error = format!("{:#}", with_conf("listenPort=x", None).expect_err("no port"));
        assert!(error.ends_with("broker.conf: listenPort=x: a port is expected"), "{error}");
        let error = with_conf("bindAddress=0.0.0.0", None).expect_err("no address for clients");
        assert!(error.to_string().contains("set brokerIP1"), "{error}");
        assert!(with_conf("bindAddress=0.0.0.0\nbrokerIP1=10.0.0.1", None).is_ok());
    }
}
