//! The programs of the stack and their command lines. One place that knows what each is called with; both the demo and
//! the replays start from here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::process::Program;

/// The key shared by the gateway and the order service of one stack. A demo's key, on loopback only.
const GATEWAY_SECRET: &str = "checkback-demo-gateway";
/// Who sends it may manage sales.
pub const ADMIN_TOKEN: &str = "checkback-demo-admin";

/// Where the parts of one stack listen, all on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub name_server: SocketAddr,
    pub broker: SocketAddr,
    pub gateway: SocketAddr,
    pub orders: SocketAddr,
    pub red_packets: SocketAddr,
    pub sale: SocketAddr,
}

#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Makes the programs of a stack whose files lie in `data`.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Where `mq`, `order-service` and `seckill-demo` lie: beside the running program.
    bin: PathBuf,
    data: PathBuf,
    at: Addresses,
}

impl Programs {
    pub fn new(data: &Path, at: Addresses) -> Result<Self> {
        let me = std::env::current_exe().context("where this program lies")?;
        let bin = me.parent().context("a program lies in a folder")?.to_owned();
        std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
        Ok(Self { bin, data: data.to_owned(), at })
    }

    fn program(&self, name: &'static str, file: &str) -> Program {
        Program::new(name, self.bin.join(file)).env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or("warn".into()))
    }

    /// The SQLite file of a service.
    #[must_use]
    pub fn database(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.db"))
    }

    fn database_url(&self, name: &str) -> String {
        order_service::database::sqlite_url(&self.database(name))
    }

    /// Name server and broker in one process. `settings` are lines of a `broker.conf`.
    pub fn broker(&self, settings: &str) -> Result<Program> {
        let conf = self.data.join("broker.conf");
        std::fs::write(&conf, settings).with_context(|| format!("cannot write {}", conf.display()))?;
        let store = self.data.join("store");
        Ok(self.program("broker", "mq").args(["up", "-c"]).args([conf.display().to_string()]).args([
            "--store".into(),
            store.display().to_string(),
            "--port".into(),
            self.at.broker.port().to_string(),
            "--namesrv-port".into(),
            self.at.name_server.port().to_string(),
        ]))
    }

    /// Reservations are in no other place, so every write is logged and nothing is evicted.
    pub fn redis(&self, port: u16) -> Result<Program> {
        let dir = self.data.join("redis");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let settings = ["--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"];
        let place = ["--port".to_owned(), port.to_string(), "--dir".to_owned(), dir.display().to_string()];
        Ok(Program::new("redis", "redis-server").args(settings).args(place))
    }

    #[must_use]
    pub fn sale(&self, redis_url: &str) -> Program {
        self.program("flash-sale", "seckill-demo")
            .args(["serve"])
            .env("LISTEN", self.at.sale.to_string())
            .env("REDIS_URL", redis_url)
            .env("NAMESRV_ADDR", self.at.name_server.to_string())
            .env("ORDER_SERVICE_URL", format!("http://{}", self.at.orders))
            .env("ADMIN_TOKEN", ADMIN_TOKEN)
    }

    #[must_use]
    pub fn gateway(&self) -> Program {
        self.program("gateway", "order-service")
            .args(["gateway"])
            .env("LISTEN", self.at.gateway.to_string())
            .env("DATABASE_URL", self.database_url("gateway"))
            .env("GATEWAY_SECRET", GATEWAY_SECRET)
    }

    #[must_use]
    pub fn orders(&self) -> Program {
        self.program("orders", "order-service")
            .args(["serve"])
            .env("LISTEN", self.at.orders.to_string())
            .env("DATABASE_URL", self.database_url("orders"))
            .env("NAMESRV_ADDR", self.at.name_server.to_string())
            .env("GATEWAY_URL", format!("http://{}", self.at.gateway))
            .env("GATEWAY_SECRET", GATEWAY_SECRET)
            .env("ADMIN_TOKEN", ADMIN_TOKEN)
    }

    #[must_use]
    pub fn red_packets(&self) -> Program {
        self.program("red-packets", "order-service")
            .args(["red-packets"])
            .env("LISTEN", self.at.red_packets.to_string())
            .env("DATABASE_URL", self.database_url("red-packets"))
            .env("NAMESRV_ADDR", self.at.name_server.to_string())
    }

    /// The order service that commits and then sends; only the replay has it.
    #[must_use]
    pub fn naive_orders(&self) -> Program {
        self.naive("orders", "naive-orders", self.at.orders)
    }

    /// The consumer that acknowledges and then works; only the replay has it.
    #[must_use]
    pub fn naive_red_packets(&self) -> Program {
        self.naive("red-packets", "naive-red-packets", self.at.red_packets)
    }

    fn naive(&self, name: &'static str, command: &str, listen: SocketAddr) -> Program {
        self.program(name, "seckill-demo")
            .args([command])
            .env("LISTEN", listen.to_string())
            .env("DATABASE_URL", self.database_url(name))
            .env("NAMESRV_ADDR", self.at.name_server.to_string())
    }
}
