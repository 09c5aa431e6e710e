//! Real database servers for tests, each in a temporary directory of its own behind a Unix socket: PostgreSQL and MariaDB
//! from the system's packages, and MySQL, which Debian has in its next release only, from `target/mysql`.
//!
//! A server goes with the process that started it, whatever way that goes: a shell between the two waits for the end of
//! its standard input, then ends the server by its process id and removes the directory. (Statics are never dropped, a
//! killed test drops nothing, and a death signal would come with the end of the starting thread.)

use std::fs::File;
use std::io::Write;
use std::os::unix::{fs::chown, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::workspace;

const START_TIMEOUT: Duration = Duration::from_secs(180);
/// PostgreSQL refuses to run as root, MariaDB does not like to: `nobody`, on every system.
const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatabaseKind {
    Postgres,
    MariaDb,
    MySql,
}

/// A running server.
pub struct DatabaseServer {
    kind: DatabaseKind,
    directory: PathBuf,
    /// Its standard input, held open.
    keeper: Child,
}

/// `directory`, then the server's command. One line of input says that its files are there; then reading ends with the
/// writer. Whoever was creating the files may outlive that for a moment, hence several tries to remove them.
const KEEPER: &str = r#"
    trap '' INT TERM HUP
    directory=$1; shift
    if read -r created; then
        "$@" </dev/null >"$directory/log" 2>&1 &
        server=$!
        echo $server >"$directory/started"
        read -r never
        kill -QUIT $server 2>/dev/null
        for wait in 1 2 3 4 5 6 7 8 9 10; do kill -0 $server 2>/dev/null || break; sleep 0.1; done
        kill -KILL $server 2>/dev/null
        wait $server
    fi
    for attempt in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$directory" && [ ! -e "$directory" ] && break; sleep 1; done
"#;

impl DatabaseServer {
    /// Starts one with these settings over its own (`("fsync", "off")`).
    pub fn start(kind: DatabaseKind, settings: &[(&str, &str)]) -> Result<Self> {
        let temporary = TempDir::with_prefix("checkback-db-")?;
        if is_root() {
            chown(temporary.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let (mut create, serve) = match kind {
            DatabaseKind::Postgres => postgres(temporary.path())?,
            DatabaseKind::MariaDb => mariadb(temporary.path())?,
            DatabaseKind::MySql => mysql(temporary.path())?,
        };
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(temporary.path())
            .args(serve)
            .args(settings.iter().map(|(name, value)| format!("--{name}={value}")))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // From here on the keeper removes it.
        let mut server = Self { kind, directory: temporary.keep(), keeper };
        let created = create.output().with_context(|| format!("{create:?} does not start; {INSTALL}"))?;
        if !created.status.success() {
            bail!("{create:?} failed:\n{}", String::from_utf8_lossy(&created.stderr));
        }
        server.keeper.stdin.as_mut().expect("it is piped").write_all(b"created\n")?;
        server.wait_until_it_is_ready()?;
        Ok(server)
    }

    /// The URL of a database there; without a name, of the one that is always there.
    #[must_use]
    pub fn url(&self, database: Option<&str>) -> String {
        let directory = self.directory.display();
        match self.kind {
            DatabaseKind::Postgres => {
                format!("postgres://root@localhost/{}?host={directory}", database.unwrap_or("postgres"))
            }
            DatabaseKind::MariaDb | DatabaseKind::MySql => {
                format!("mysql://root@localhost/{}?socket={directory}/socket", database.unwrap_or("mysql"))
            }
        }
    }

    fn wait_until_it_is_ready(&self) -> Result<()> {
        let ready = match self.kind {
            DatabaseKind::Postgres => "database system is ready to accept connections",
            DatabaseKind::MariaDb | DatabaseKind::MySql => "ready for connections",
        };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            if log.contains(ready) {
                return Ok(());
            }
            if Instant::now() > deadline || self.has_ended() {
                bail!("the {:?} server does not start:\n{log}", self.kind);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn has_ended(&self) -> bool {
        let Ok(pid) = std::fs::read_to_string(self.directory.join("started")) else { return false };
        !pid.is_empty() && !Path::new("/proc").join(pid.trim()).exists()
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

const INSTALL: &str = "`make databases` installs it";

/// What creates its files, and what serves them.
type Commands = (Command, Vec<String>);

fn postgres(directory: &Path) -> Result<Commands> {
    let data = directory.join("data").display().to_string();
    let mut create = unprivileged(&binary("initdb")?);
    create.args(["--no-sync", "--auth=trust", "--username=root", "--locale=C", "--encoding=UTF8", "--pgdata", &data]);
    let mut serve = unprivileged_words();
    serve.extend([binary("postgres")?, "-D".into(), data, "-k".into(), directory.display().to_string()]);
    serve.extend(["--listen_addresses=", "--max_connections=300", "--shared_buffers=64MB"].map(Into::into));
    Ok((create, serve))
}

fn mariadb(directory: &Path) -> Result<Commands> {
    let data = format!("--datadir={}", directory.join("data").display());
    let mut create = unprivileged(&binary("mariadb-install-db")?);
    create.args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"]);
    // Only for the creation.
    create.args(["--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=16M"]);
    let mut serve = unprivileged_words();
    serve.extend([binary("mariadbd")?, "--no-defaults".into(), data]);
    serve.push(format!("--socket={}", directory.join("socket").display()));
    serve.extend(["--skip-networking", "--max-connections=300", "--innodb-buffer-pool-size=64M"].map(Into::into));
    Ok((create, serve))
}

/// Debian's own, unpacked beside the system with all the libraries it wants, so its loader starts it. It runs as whoever
/// runs the tests, for nobody else may be able to read `target`.
fn mysql(directory: &Path) -> Result<Commands> {
    let root = workspace().join("target/mysql/usr");
    let libraries = root.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    let mut files = std::fs::read_dir(&libraries).into_iter().flatten().flatten().map(|file| file.path());
    let loader =
        files.find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux")));
    let loader = loader.with_context(|| format!("there is no MySQL in {}; {INSTALL}", root.display()))?;
    let words = [loader, "--library-path".into(), libraries, root.join("sbin/mysqld")];
    let mut words = words.map(|word| word.display().to_string()).to_vec();
    words.extend([
        "--no-defaults".into(),
        format!("--basedir={}", root.display()),
        "--user=root".into(),
        "--secure-file-priv=NULL".into(),
    ]);
    words.push(format!("--datadir={}", directory.join("data").display()));
    let mut create = Command::new(&words[0]);
    create.args(&words[1..]).args(["--initialize-insecure", "--innodb-flush-log-at-trx-commit=0", "--disable-log-bin"]);
    create.current_dir("/").stdin(Stdio::null());
    let mut serve = words;
    serve.push(format!("--socket={}", directory.join("socket").display()));
    serve.extend(["--skip-networking", "--mysqlx=OFF", "--max-connections=300"].map(Into::into));
    serve.extend(["--innodb-buffer-pool-size=64M", "--performance-schema=OFF"].map(Into::into));
    Ok((create, serve))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unprivileged_words() -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    let nobody = NOBODY.to_string();
    ["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"].map(Into::into).into()
}

fn unprivileged(program: &str) -> Command {
    let mut words = unprivileged_words();
    words.push(program.to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir("/").stdin(Stdio::null());
    command
}

/// Debian keeps the servers of PostgreSQL outside of PATH, by version, and MariaDB's in `/usr/sbin`.
fn binary(name: &str) -> Result<String> {
    let mut directories: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    directories.push("/usr/sbin".into());
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        directories.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = directories.into_iter().map(|directory| directory.join(name)).find(|path| File::open(path).is_ok());
    let path = found.with_context(|| format!("there is no {name} on this machine; {INSTALL}"))?;
    Ok(path.display().to_string())
}
