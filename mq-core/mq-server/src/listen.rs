//! Ports: taken before anything else starts, opened once somebody answers behind them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpListener, TcpSocket};

use crate::arguments::Exposure;

/// Connections that wait to be accepted; a fleet of clients reconnects at once after a restart.
const BACKLOG: u32 = 1024;

/// A port that is ours. Whoever connects is refused until it listens.
pub(crate) struct Reserved {
    socket: TcpSocket,
    pub(crate) address: SocketAddr,
}

impl Reserved {
    pub(crate) fn listen(self) -> Result<TcpListener> {
        self.socket.listen(BACKLOG).with_context(|| format!("cannot listen on {}", self.address))
    }
}

/// What to do about a port that cannot be had.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; is one running already? --port and --namesrv-port name other ports",
        _ => "",
    }
}

/// Takes the port for `what`, on loopback unless the user says that the network may see it.
pub(crate) fn reserve(what: &str, ip: IpAddr, port: u16, exposure: Exposure) -> Result<Reserved> {
    if !ip.is_loopback() && !exposure.insecure {
        bail!(
            "the {what} is not to listen on {ip}: there is no authentication and no TLS yet, so whoever reaches the \
             port can read and write everything. Keep it on loopback, or pass --insecure if you trust the network"
        );
    }
    let address = SocketAddr::new(ip, port);
    let bound = (|| {
        let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let address = socket.local_addr()?;
        Ok::<_, std::io::Error>(Reserved { socket, address })
    })();
    bound.map_err(|error| anyhow!("the {what} cannot take {address}: {error}{}", hint(&error)))
}
