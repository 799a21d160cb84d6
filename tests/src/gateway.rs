//! A gateway with the host behind it, and `mpvpn` run on it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::TunnelConfig;
use crate::device::{Interface, Mac};
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{self, Output, Process};
use crate::traffic::Ping;

/// The word that `mpvpn up` prints after the tunnel's name when the tunnel carries packets.
pub const READY: &str = "ready";
/// How long a daemon may take until it is ready.
pub const READY_PATIENCE: Duration = Duration::from_secs(20);
/// How long the first handshakes may take once the daemons of both ends are ready.
pub const SESSION_PATIENCE: Duration = Duration::from_secs(10);
/// How long a command of `mpvpn` may take.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

const ETHERNET_MTU: u32 = 1500;

/// A gateway: forwards between the host behind it (interface `lan`) and its uplinks (`up0`, `up1`, ...).
///
/// Gateway number n has the LAN 10.98.n.0/24 and `fd98:n::/64`: the gateway is .1 and `::1`, the host .2 and `::2`.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    number: u8,
    namespace: Namespace,
    host: Namespace,
    directory: PathBuf,
    bpffs: PathBuf,
    uplinks: AtomicU32,
    daemons: AtomicU32,
}

impl Gateway {
    /// Makes gateway `name` (one or two letters) with host `h<name>` behind it, bpffs and directory. Its uplinks are made by
    /// [`Connection::new`](crate::Connection::new).
    pub fn new(lab: &Lab, name: &str, number: u8) -> Result<Self> {
        let namespace = lab.namespace(name)?;
        let host = lab.namespace(&format!("h{name}"))?;
        let bpffs = lab.bpffs(name)?;
        let gateway = Self {
            name: name.to_owned(),
            number,
            namespace,
            host,
            directory: lab.directory().join(name),
            bpffs,
            uplinks: AtomicU32::new(0),
            daemons: AtomicU32::new(0),
        };
        gateway.namespace.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        let end = |interface: &str, last: u8| Interface {
            name: interface.to_owned(),
            mac: Mac([0x02, 0x98, 0, number, 0, last]),
            mtu: ETHERNET_MTU,
            v4: Some((gateway.lan_v4(last), 24)),
            v6: Some((gateway.lan_v6(last), 64)),
        };
        lab.veth([(&gateway.namespace, &end("lan", 1)), (&gateway.host, &end("eth0", 2))])?;
        gateway.host.ip(&format!(
            "route add default via {}\nroute add default via {}",
            gateway.lan_v4(1),
            gateway.lan_v6(1)
        ))?;
        Ok(gateway)
    }

    /// Name: `a`, `b`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number: the n of the addresses.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The gateway's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The namespace of the host behind the gateway.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// Has the gateway and its host know each other, over both families: resolving a neighbour may take the kernel a second.
    ///
    /// # Errors
    /// A ping is not answered.
    pub fn meet_host(&self) -> Result<()> {
        for host in [IpAddr::from(self.host_v4()), IpAddr::from(self.host_v6())] {
            let report = Ping { count: 2, interval: Duration::ZERO, ..Ping::to(host) }.run(&self.namespace)?;
            ensure!(report.received == 2, "gateway {} does not reach {host}: {report:?}", self.name);
        }
        Ok(())
    }

    /// IPv4 address of the host behind the gateway: 10.98.n.2.
    pub fn host_v4(&self) -> Ipv4Addr {
        self.lan_v4(2)
    }

    /// IPv6 address of the host behind the gateway: `fd98:n::2`.
    pub fn host_v6(&self) -> Ipv6Addr {
        self.lan_v6(2)
    }

    /// Directory for configuration, keys and logs; goes with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The gateway's own bpffs, mounted.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Writes `<directory>/<tunnel>.toml`, for nobody else to read, and returns its path.
    pub fn write_config(&self, config: &TunnelConfig) -> Result<PathBuf> {
        let path = self.directory.join(format!("{}.toml", config.name));
        self.write_secret(&path, &config.to_toml()?)?;
        Ok(path)
    }

    /// Writes a file that nobody else can read.
    pub fn write_secret(&self, path: &Path, text: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// The sessions of a tunnel; `None` for a peer that has none.
    ///
    /// # Errors
    /// There is no such tunnel.
    pub fn sessions(&self, tunnel: &str) -> Result<Vec<Option<Session>>> {
        #[derive(Deserialize)]
        struct Peer {
            session: Option<Session>,
        }
        Ok(self.peers::<Peer>(tunnel)?.into_iter().map(|peer| peer.session).collect())
    }

    /// The health of all paths of a tunnel, in the words of `mpvpn status`.
    ///
    /// # Errors
    /// There is no such tunnel.
    pub fn health(&self, tunnel: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Peer {
            paths: Vec<Path>,
        }
        #[derive(Deserialize)]
        struct Path {
            health: String,
        }
        let paths = self.peers::<Peer>(tunnel)?.into_iter().flat_map(|peer| peer.paths);
        Ok(paths.map(|path| path.health).collect())
    }

    /// What `mpvpn status --json` says of the peers of a tunnel.
    fn peers<T: DeserializeOwned>(&self, tunnel: &str) -> Result<Vec<T>> {
        #[derive(Deserialize)]
        struct Document<T> {
            tunnels: Vec<Tunnel<T>>,
        }
        #[derive(Deserialize)]
        struct Tunnel<T> {
            peers: Vec<T>,
        }
        let output = self.mpvpn(&["status", tunnel, "--json"])?;
        let document: Document<T> = serde_json::from_str(output.success()?).context("`mpvpn status --json`")?;
        Ok(document.tunnels.into_iter().next().context("there is no tunnel in the status")?.peers)
    }

    /// Waits until a tunnel has a session with each of its peers: the daemons of both ends must run.
    ///
    /// # Errors
    /// It has none within [`SESSION_PATIENCE`], or there is no such tunnel.
    pub fn wait_for_sessions(&self, tunnel: &str) -> Result<()> {
        self.wait_until(tunnel, "has no session with one of its peers", |own| Ok(own.iter().all(Option::is_some)))
    }

    /// Waits until a tunnel's packets to another gateway, and those from there, are sealed with one session: one end may
    /// have an older one that the other has forgotten.
    ///
    /// # Errors
    /// As [`Gateway::wait_for_sessions`].
    pub fn wait_for_session_with(&self, other: &Self, tunnel: &str) -> Result<()> {
        self.wait_until(tunnel, &format!("has no session in common with {}", other.name), |own| {
            let theirs = other.sessions(tunnel)?;
            let is_shared = |own: &Session| theirs.iter().flatten().any(|their| their.is_other_end_of(*own));
            Ok(own.iter().flatten().any(is_shared))
        })
    }

    fn wait_until(
        &self,
        tunnel: &str,
        complaint: &str,
        mut is_so: impl FnMut(&[Option<Session>]) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let sessions = self.sessions(tunnel)?;
            if is_so(&sessions)? {
                return Ok(());
            }
            if start.elapsed() > SESSION_PATIENCE {
                bail!("{tunnel} of gateway {} {complaint} after {SESSION_PATIENCE:?}: {sessions:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `mpvpn --bpffs <the gateway's> <arguments>` on the gateway, to its end.
    ///
    /// # Errors
    /// It cannot be started or hangs. A failure exit is no error: see [`Output::success`].
    pub fn mpvpn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        process::output(self.mpvpn_command(arguments)?, COMMAND_PATIENCE)
    }

    /// Starts `mpvpn up <config>` and waits until it says [`READY`].
    ///
    /// # Errors
    /// It ends, or is not ready within [`READY_PATIENCE`]; the error has its log.
    pub fn daemon(&self, config: &Path) -> Result<Daemon> {
        self.daemon_with(config, &[])
    }

    /// Starts `mpvpn up <config> <options>` and waits until it says [`READY`].
    ///
    /// # Errors
    /// As [`Gateway::daemon`].
    pub fn daemon_with(&self, config: &Path, options: &[&str]) -> Result<Daemon> {
        let number = self.daemons.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.join(format!("mpvpn-{number}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = self.mpvpn_command(&[OsStr::new("up"), config.as_os_str()])?;
        command.args(options);
        let mut daemon = Daemon { process: Process::spawn_logged(command, &file)?, log, ready_after: Duration::ZERO };
        daemon.wait_until_ready().with_context(|| format!("mpvpn up on gateway {}", self.name))?;
        Ok(daemon)
    }

    /// Writes the configuration and starts the daemon with it.
    pub fn up(&self, config: &TunnelConfig) -> Result<Daemon> {
        self.daemon(&self.write_config(config)?)
    }

    /// `mpvpn --bpffs <the gateway's> <arguments>`, not yet started.
    pub fn mpvpn_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = self.namespace.command(mpvpn_binary()?);
        command.arg("--bpffs").arg(&self.bpffs).args(arguments);
        // The gateways of a lab share the machine's /var, and their tunnels have the same names.
        command.env("MPVPN_STATE", &self.directory);
        Ok(command)
    }

    pub(crate) fn next_uplink(&self) -> String {
        format!("up{}", self.uplinks.fetch_add(1, Ordering::Relaxed))
    }

    fn lan_v4(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 98, self.number, last)
    }

    fn lan_v6(&self, last: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd98, self.number.into(), 0, 0, 0, 0, 0, last.into())
    }
}

/// What a gateway's packets to a peer are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Session {
    /// Its own receiver index.
    pub index: u32,
    /// The peer's receiver index.
    pub remote_index: u32,
}

impl Session {
    fn is_other_end_of(self, other: Self) -> bool {
        (self.index, self.remote_index) == (other.remote_index, other.index)
    }
}

/// A running `mpvpn up`; killed with `SIGKILL` when dropped, which leaves its data plane until the lab goes.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    log: PathBuf,
    ready_after: Duration,
}

impl Daemon {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How long it took from start to [`READY`].
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Everything the daemon has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// `kill -9`: the daemon dies without a word.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL)
    }

    /// `SIGTERM`: the daemon ends and leaves the data plane forwarding.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// `SIGINT`, as Ctrl-C: the daemon removes everything and ends.
    pub fn interrupt(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGINT)
    }

    /// Waits until the daemon has ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.signal(signal)?;
        self.process.wait(COMMAND_PATIENCE)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let is_running = self.process.is_running();
            // After the tunnel's name and nothing else: log lines may have the word too.
            if self.log().lines().any(|line| line.split_whitespace().skip(1).eq([READY])) {
                self.ready_after = start.elapsed();
                return Ok(());
            }
            if !is_running {
                bail!("it ended before it was ready; its log:\n{}", self.log());
            }
            if start.elapsed() > READY_PATIENCE {
                bail!("not ready after {READY_PATIENCE:?}; its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The `mpvpn` under test: `MPVPN_BIN`, else the one in this program's target directory, built with the same profile or another.
///
/// # Errors
/// There is none.
pub fn mpvpn_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MPVPN_BIN") {
        return Ok(PathBuf::from(path));
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    // target/<profile>/<program> or target/<profile>/deps/<test>
    let profiles = program.ancestors().skip(1).take(2);
    let others = program.ancestors().skip(2).take(2).flat_map(|target| [target.join("release"), target.join("debug")]);
    profiles
        .map(Path::to_owned)
        .chain(others)
        .map(|directory| directory.join("mpvpn"))
        .find(|binary| binary.is_file())
        .with_context(|| {
            format!("no mpvpn near {}: build it (`cargo xtask build`) or name one in MPVPN_BIN", program.display())
        })
}
