//! Addresses on loopback: the usual port, or the next free one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// How far from the usual port to look for a free one.
const SEARCH_LIMIT: u16 = 200;

/// Hands out ports, never the same twice.
#[derive(Debug, Default)]
pub struct Ports {
    taken: BTreeSet<u16>,
    /// Where other parts usually are: nobody moves there.
    kept: BTreeSet<u16>,
    /// What had to move, as sentences for the user.
    pub moved: Vec<String>,
}

impl Ports {
    #[must_use]
    pub fn keeping(usual: impl IntoIterator<Item = u16>) -> Self {
        Self { kept: usual.into_iter().collect(), ..Self::default() }
    }

    /// The first port from `usual` on at which it and every `usual + offset` are free.
    pub fn pick(&mut self, name: &str, usual: u16, offsets: &[i16]) -> Result<u16> {
        for port in usual..=usual.saturating_add(SEARCH_LIMIT) {
            let all: Vec<u16> = std::iter::once(Some(port))
                .chain(offsets.iter().map(|by| port.checked_add_signed(*by)))
                .flatten()
                .collect();
            let is_kept = port != usual && all.iter().any(|port| self.kept.contains(port));
            let is_ours = |port: &u16| !self.taken.contains(port) && is_free(*port);
            if all.len() == offsets.len() + 1 && !is_kept && all.iter().all(is_ours) {
                self.taken.extend(all);
                if port != usual {
                    self.moved.push(format!("{name}: port {usual} is busy, using {port}"));
                }
                return Ok(port);
            }
        }
        bail!("{name}: no free port between {usual} and {}", usual.saturating_add(SEARCH_LIMIT))
    }
}

/// Ports that nobody uses now, for runs in which the number does not matter.
pub fn any_free() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_moves_to_where_another_part_usually_is() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let usual = busy.local_addr().expect("bound").port();
        let mut ports = Ports::keeping([usual, usual + 1]);
        assert!(ports.pick("orders", usual, &[]).expect("another is free") > usual + 1);
    }

    #[test]
    fn a_busy_port_is_passed_over_and_said() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let usual = busy.local_addr().expect("bound").port();
        let mut ports = Ports::default();
        let first = ports.pick("broker", usual, &[]).expect("another is free");
        let second = ports.pick("name server", usual, &[]).expect("another is free");
        assert!(first > usual && second > first);
        assert!(ports.moved[0].contains(&format!("port {usual} is busy, using {first}")));
    }
}
