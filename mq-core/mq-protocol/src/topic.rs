//! Topic and group names: what a name may look like, and the names that the system keeps for itself.

/// A topic that carries the queue number and permissions of topics created by a send.
pub const AUTO_CREATE: &str = "TBW102";
pub const SCHEDULE: &str = "SCHEDULE_TOPIC_XXXX";
pub const HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const OP_HALF: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Half messages that 15 checks, or the lack of anybody to ask, did not settle.
pub const CHECK_MAX_TIME: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const TIMER: &str = "rmq_sys_wheel_timer";
pub const TRACE: &str = "RMQ_SYS_TRACE_TOPIC";
pub const SELF_TEST: &str = "SELF_TEST_TOPIC";
pub const BENCHMARK: &str = "BenchmarkTest";
pub const OFFSET_MOVED: &str = "OFFSET_MOVED_EVENT";
pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";
/// The internal group whose offsets say how far half and OP topics are settled.
pub const TRANSACTION_GROUP: &str = "CID_RMQ_SYS_TRANS";
/// The internal group whose offsets say how far the revive topic is settled.
pub const REVIVE_GROUP: &str = "CID_RMQ_SYS_REVIVE_GROUP";
pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
pub const TOOLS_GROUP: &str = "TOOLS_CONSUMER";

/// Longest name that fits the one-byte length of a V1 record.
pub const MAX_TOPIC_BYTES: usize = 127;
pub const MAX_RETRY_TOPIC_BYTES: usize = 255;
pub const MAX_GROUP_BYTES: usize = 120;

/// Topics that a client must not write to directly.
const NOT_WRITABLE: [&str; 7] = [SCHEDULE, TIMER, HALF, OP_HALF, CHECK_MAX_TIME, SELF_TEST, OFFSET_MOVED];
/// The cluster's name follows.
const REVIVE_PREFIX: &str = "rmq_sys_REVIVE_LOG_";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the {kind} name is empty")]
    Empty { kind: &'static str },
    #[error("the {kind} name takes {bytes} bytes, the limit is {limit}")]
    TooLong { kind: &'static str, bytes: usize, limit: usize },
    #[error("the {kind} name {name:?} may only have letters, digits and % | _ -")]
    Character { kind: &'static str, name: String },
}

pub fn check_topic(name: &str) -> Result<(), NameError> {
    let limit = if is_retry(name) || is_dead_letter(name) { MAX_RETRY_TOPIC_BYTES } else { MAX_TOPIC_BYTES };
    check("topic", name, limit)
}

pub fn check_group(name: &str) -> Result<(), NameError> {
    check("group", name, MAX_GROUP_BYTES)
}

fn check(kind: &'static str, name: &str, limit: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > limit {
        return Err(NameError::TooLong { kind, bytes: name.len(), limit });
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%|_-".contains(&byte)) {
        return Err(NameError::Character { kind, name: name.into() });
    }
    Ok(())
}

#[must_use]
pub fn is_writable_by_clients(name: &str) -> bool {
    !NOT_WRITABLE.contains(&name) && !name.starts_with(REVIVE_PREFIX)
}

#[must_use]
pub fn is_retry(name: &str) -> bool {
    name.starts_with(RETRY_PREFIX)
}

#[must_use]
pub fn is_dead_letter(name: &str) -> bool {
    name.starts_with(DLQ_PREFIX)
}

/// Where the replies to requests of a cluster are stored.
#[must_use]
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_REPLY_TOPIC")
}

#[must_use]
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// Where a cluster's pops and acknowledgements are recorded.
#[must_use]
pub fn revive_topic(cluster: &str) -> String {
    format!("{REVIVE_PREFIX}{cluster}")
}

#[must_use]
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_apache_checks_them() {
        let long = "t".repeat(128);
        let retry = format!("%RETRY%{}", "g".repeat(120));
        for (name, ok) in [
            ("order|paid-1_%", true),
            ("", false),
            (" ", false),
            ("a b", false),
            ("订单", false),
            (&long, false),
            (&retry, true),
        ] {
            assert_eq!(check_topic(name).is_ok(), ok, "{name:?}");
        }
        assert!(check_group(&"g".repeat(120)).is_ok());
        assert_eq!(
            check_group(&"g".repeat(121)).expect_err("too long").to_string(),
            "the group name takes 121 bytes, the limit is 120"
        );
    }
}
