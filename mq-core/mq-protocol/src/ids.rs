//! Newtypes for what Java keeps as `long` and `int`: mixing two does not compile.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = <$inner as std::str::FromStr>::Err;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// A byte position in the commit log.
    LogOffset(u64)
}
number! {
    /// The index of a message in its queue, from 0, dense.
    QueueOffset(u64)
}
number! {
    /// A queue of a topic. On the wire an `int`; -1 means "any" and is not a `QueueId`.
    QueueId(u32)
}
number! {
    /// Milliseconds since the Unix epoch.
    UnixMillis(i64)
}

impl LogOffset {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl QueueOffset {
    pub const ZERO: Self = Self(0);

    /// Saturates: peers name any offset.
    #[must_use]
    pub fn plus(self, entries: u64) -> Self {
        Self(self.0.saturating_add(entries))
    }
}

impl UnixMillis {
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to `self`; zero when the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}
