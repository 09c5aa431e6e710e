//! What server processes of this machine cost: CPU time and anonymous memory, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of CPU times in /proc/PID/stat; fixed for user space on Linux.
const TICKS_A_SECOND: f64 = 100.0;
/// Fields of /proc/PID/stat behind the command's name: user and system time.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;

pub(super) fn cpu(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of(*pid)).sum()
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("no process {pid} on this machine"))?;
    let ticks = parse_ticks(&stat).with_context(|| format!("{path} is not readable"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_A_SECOND))
}

fn parse_ticks(stat: &str) -> Option<u64> {
    let behind_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(field(USER_TIME)? + field(SYSTEM_TIME)?)
}

/// MiB that belong to no file.
pub(super) fn anonymous_mib(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| anonymous_of(*pid)).sum()
}

fn anonymous_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("no process {pid} on this machine"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no RssAnon"))? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b c) S 1 2 3 4 5 6 7 8 9 10 400 23 0 0";
        assert_eq!(parse_ticks(stat), Some(423));
        assert_eq!(parse_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_is_an_error() {
        let me = std::process::id();
        assert!(anonymous_mib(&[me]).expect("readable") > 0.0);
        assert!(cpu(&[me]).is_ok() && cpu(&[u32::MAX]).is_err());
    }
}
