//! What the broker has of messages that wait for a time of their own, if that is switched on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::{Backend, Clock, DiskError, Store};
use parking_lot::Mutex;

use super::{Broker, StartError};
use crate::bell::Bell;
use crate::config::BrokerConfig;
use crate::settings::{timer_options, timer_settings};
use crate::stats::Stats;
use crate::timers::{self, TimerRefusal, TimerRules, TimerWish, Timers};

pub(super) struct Timed {
    /// `None`: switched off.
    pub(super) timers: Option<Arc<Timers>>,
    /// Taken by `run`.
    pub(super) driver: Mutex<Option<timers::Driver>>,
    pub(super) bell: Arc<Bell>,
    first_resting: Option<LogOffset>,
}

impl Timed {
    pub(super) fn open(
        config: &BrokerConfig,
        store: &Store,
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        stats: Arc<Stats>,
    ) -> Result<Self, StartError> {
        let now = clock.now();
        let open = || {
            let (options, settings) = (timer_options(config), timer_settings(config));
            Timers::open(backend, options, &config.config_directory(), settings, stats, now)
        };
        let anything_waits = store.queue_bounds(topic::TIMER, timers::QUEUE).max > QueueOffset::ZERO;
        let mut timed = Self { timers: None, driver: Mutex::new(None), bell: Arc::default(), first_resting: None };
        if config.timer_wheel {
            let (timers, progress, start) = open()?;
            let (found, bell) = ((progress, start), timed.bell.clone());
            let driver = timers::Driver::new(store.clone(), clock, timers.clone(), bell, found);
            (timed.timers, timed.driver) = (Some(timers), Mutex::new(Some(driver)));
        } else if anything_waits {
            timed.first_resting = open()?.0.needed_from(store)?;
        }
        Ok(timed)
    }
}

impl Broker {
    /// The waiting messages; an error when they are switched off.
    pub(crate) fn timers(&self) -> Result<&Arc<Timers>, TimerRefusal> {
        self.timed.timers.as_ref().ok_or(TimerRefusal::Off)
    }

    pub(crate) fn timer_rules(&self) -> TimerRules {
        TimerRules {
            enabled: self.timed.timers.is_some(),
            precision_ms: self.config.timer_precision.as_millis() as i64,
            max_delay: self.live().timer_max_delay,
        }
    }

    /// The slot that a message waits in, if it takes it; `None`: the time is over, deliver now.
    pub(crate) fn timer_slot(&self, wish: TimerWish<'_>, takes_back: bool) -> Result<Option<UnixMillis>, TimerRefusal> {
        let slot = self.timer_rules().slot(wish, takes_back, self.clock.now())?;
        if let (Some(slot), Some(timers), false) = (slot, &self.timed.timers, takes_back) {
            timers.congestion.admit(slot)?;
        }
        Ok(slot)
    }

    /// How many messages wait to be due within each of Apache's times (5 s to 24 h) and not within a shorter one; the
    /// later ones stand at [`Duration::MAX`]. For metrics: reads the wheel's file where it is not empty.
    pub fn pending_timers(&self) -> Result<BTreeMap<Duration, u64>, DiskError> {
        self.timed.timers.as_ref().map_or_else(|| Ok(BTreeMap::new()), |timers| timers.pending(self.clock.now()))
    }

    /// Where the first message lies that waits until timers are switched on again.
    pub(crate) fn first_resting_timer(&self) -> Option<LogOffset> {
        self.timed.first_resting
    }

    pub(crate) fn timer_bell(&self) -> &Arc<Bell> {
        &self.timed.bell
    }
}
