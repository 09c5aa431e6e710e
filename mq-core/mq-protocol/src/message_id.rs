//! Message ids: the broker's offset id, and the client's unique key in Java's layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ids::LogOffset;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Upper-case hex of store address (4 or 16 bytes), port (4) and commit-log offset (8).
#[must_use]
pub fn offset_id(store_host: SocketAddr, offset: LogOffset) -> String {
    // Exact: a text with room to spare is moved when it is shared.
    let mut id = String::with_capacity(if store_host.is_ipv4() { 32 } else { 56 });
    match store_host.ip() {
        IpAddr::V4(ip) => push_hex(&mut id, &ip.octets()),
        IpAddr::V6(ip) => push_hex(&mut id, &ip.octets()),
    }
    push_hex(&mut id, &u32::from(store_host.port()).to_be_bytes());
    push_hex(&mut id, &offset.0.to_be_bytes());
    id
}

/// Reads an offset id; `None` when it is none.
#[must_use]
pub fn parse_offset_id(id: &str) -> Option<(SocketAddr, LogOffset)> {
    let bytes = from_hex(id)?;
    let (ip, rest): (IpAddr, &[u8]) = match bytes.len() {
        16 => (Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..4]).ok()?).into(), &bytes[4..]),
        28 => (Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..16]).ok()?).into(), &bytes[16..]),
        _ => return None,
    };
    let port = u16::try_from(u32::from_be_bytes(rest[..4].try_into().ok()?)).ok()?;
    let offset = u64::from_be_bytes(rest[4..].try_into().ok()?);
    Some((SocketAddr::new(ip, port), LogOffset(offset)))
}

/// The parts of a unique key that are fixed for a process, as Java lays them out.
#[derive(Clone, Debug)]
pub struct UniqueKeyPrefix(String);

impl UniqueKeyPrefix {
    /// `salt` stands where Java puts the class loader's hash: it tells apart two producers of one process id.
    #[must_use]
    pub fn new(ip: Ipv4Addr, process_id: u32, salt: u32) -> Self {
        let mut prefix = String::with_capacity(20);
        push_hex(&mut prefix, &ip.octets());
        push_hex(&mut prefix, &(process_id as u16).to_be_bytes());
        push_hex(&mut prefix, &salt.to_be_bytes());
        Self(prefix)
    }

    /// `since_month_start_ms` lets tools read the time back; `counter` tells keys of one millisecond apart.
    #[must_use]
    pub fn key(&self, since_month_start_ms: u32, counter: u16) -> String {
        let mut key = String::with_capacity(32);
        key.push_str(&self.0);
        push_hex(&mut key, &since_month_start_ms.to_be_bytes());
        push_hex(&mut key, &counter.to_be_bytes());
        key
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_ids_round_trip() {
        for host in ["127.0.0.2:30911", "[2001:db8::7]:10911"] {
            let host: SocketAddr = host.parse().expect("an address");
            let id = offset_id(host, LogOffset(0x63372A));
            assert_eq!(parse_offset_id(&id), Some((host, LogOffset(0x63372A))));
        }
        assert_eq!(
            offset_id("127.0.0.2:30911".parse().expect("an address"), LogOffset(6502186)),
            "7F000002000078BF000000000063372A"
        );
        for bad in ["", "7F", "zz000002000078BF000000000063372A", "7F000002000178BF000000000063372A", "订单"] {
            assert_eq!(parse_offset_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn unique_keys_have_javas_layout() {
        let key = UniqueKeyPrefix::new(Ipv4Addr::new(192, 0, 2, 2), 0x1_3D26, 0x1DBD_16A6).key(0x6923_480B, 7);
        assert_eq!(key, "C00002023D261DBD16A66923480B0007");
    }
}
