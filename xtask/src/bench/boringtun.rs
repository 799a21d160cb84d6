//! boringtun from gateway to gateway: `WireGuard` in user space, configured by its text protocol.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multipath_tests::{Gateway, Process};

use super::rig::{Rig, Way};

const PORT: u16 = 51_820;
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a `WireGuard` in user space has its socket (<https://www.wireguard.com/xplatform/>).
const SOCKETS: &str = "/var/run/wireguard";

/// A boringtun tunnel; ends when dropped.
pub(crate) struct Boringtun {
    way: Way,
    #[expect(dead_code, reason = "held for its drop")]
    ends: [End; 2],
}

/// One end: the process, and the socket that it leaves behind when it is killed.
struct End {
    process: Process,
    socket: PathBuf,
}

impl Boringtun {
    /// Brings it up over uplink number `uplink`.
    pub(crate) fn start(program: &Path, rig: &Rig, uplink: u8) -> Result<Self> {
        // Any keys will do; those of the tunnel over this uplink are as good as others.
        let keys = rig.configs(uplink, &[]).map(|config| {
            let public = config.peers.first().map(|peer| peer.public_key.clone()).unwrap_or_default();
            (config.tunnel.private_key, public)
        });
        let device = format!("wg{}", std::process::id());
        let start = |gateway: &Gateway, own: u8, far: u8| -> Result<End> {
            let end = End::start(program, gateway, &format!("{device}{}", gateway.name()))?;
            let (private, public) = &keys[usize::from(own) - 1];
            end.configure(&format!(
                "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={}\nendpoint={}:{PORT}\nallowed_ip={}/32\n\n",
                hexadecimal(private)?,
                hexadecimal(public)?,
                Rig::outer(uplink, far),
                Rig::inner(uplink, far),
            ))?;
            let inner = Rig::inner(uplink, own);
            let name = format!("{device}{}", gateway.name());
            // What WireGuard's own tools set: room for its headers over IPv6.
            gateway.namespace().ip(&format!("addr add {inner}/24 dev {name}\nlink set {name} mtu 1420 up"))?;
            Ok(end)
        };
        let ends = [start(rig.gateway_a(), 1, 2)?, start(rig.gateway_b(), 2, 1)?];
        let way = Rig::inside(&format!("{device}a"), uplink);
        // The first packet makes the handshake.
        rig.round_trip(&way, 10)?;
        Ok(Self { way, ends })
    }

    /// The way through it.
    pub(crate) fn way(&self) -> &Way {
        &self.way
    }
}

impl End {
    fn start(program: &Path, gateway: &Gateway, device: &str) -> Result<Self> {
        let socket = Path::new(SOCKETS).join(format!("{device}.sock"));
        let log = gateway.directory().join("boringtun.log");
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = gateway.namespace().command(program);
        command.args(["--foreground", "--disable-drop-privileges", device]);
        let mut end = Self { process: Process::spawn_logged(command, &file)?, socket };
        let start = Instant::now();
        while !end.socket.exists() {
            if !end.process.is_running() || start.elapsed() > PATIENCE {
                bail!("boringtun does not get ready: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(end)
    }

    /// Sends settings in `WireGuard`'s text protocol.
    fn configure(&self, settings: &str) -> Result<()> {
        let mut stream = UnixStream::connect(&self.socket).context("boringtun does not take its configuration")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(settings.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("boringtun does not answer")?;
        ensure!(answer.trim() == "errno=0", "boringtun refuses its configuration: {answer}");
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

fn hexadecimal(base64: &str) -> Result<String> {
    let bytes = STANDARD.decode(base64).context("a key of the lab is not base64")?;
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect())
}
