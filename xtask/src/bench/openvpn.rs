//! `OpenVPN` from gateway to gateway: UDP, TLS with certificates made on the fly, AES-256-GCM.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use multipath_tests::{Namespace, Process};

use super::rig::{Rig, Way};

const PORT: &str = "1194";
const DEVICE: &str = "ovpn0";
const PATIENCE: Duration = Duration::from_secs(15);
/// What it writes when the tunnel carries packets.
const READY: &str = "Initialization Sequence Completed";

/// An `OpenVPN` tunnel; ends when dropped.
pub(crate) struct OpenVpn {
    way: Way,
    #[expect(dead_code, reason = "held for its drop")]
    ends: [Process; 2],
}

impl OpenVpn {
    /// Brings it up over uplink number `uplink`.
    pub(crate) fn start(rig: &Rig, uplink: u8) -> Result<Self> {
        let way = Rig::inside(DEVICE, uplink);
        let gateways = [rig.gateway_a(), rig.gateway_b()];
        let mut fingerprints = Vec::new();
        for gateway in gateways {
            fingerprints.push(certificate(gateway.namespace(), gateway.directory())?);
        }
        let mut ends = Vec::new();
        for (own, role) in ["--tls-server", "--tls-client"].into_iter().enumerate() {
            let (gateway, other) = (gateways[own], 1 - own);
            let [own_outer, far_outer] = [own, other].map(|end| Rig::outer(uplink, end as u8 + 1).to_string());
            let [own_inner, far_inner] = [own, other].map(|end| Rig::inner(uplink, end as u8 + 1).to_string());
            let log = gateway.directory().join("openvpn.log");
            let mut command = gateway.namespace().command("openvpn");
            command.current_dir(gateway.directory()).args([
                role,
                "--dev",
                DEVICE,
                "--dev-type",
                "tun",
                "--proto",
                "udp4",
                "--port",
                PORT,
                "--local",
                &own_outer,
                "--remote",
                &far_outer,
                "--ifconfig",
                &own_inner,
                &far_inner,
                "--cert",
                "openvpn.crt",
                "--key",
                "openvpn.key",
                "--peer-fingerprint",
                &fingerprints[other],
                "--data-ciphers",
                "AES-256-GCM",
                "--cipher",
                "AES-256-GCM",
                "--allow-compression",
                "no",
            ]);
            if role == "--tls-server" {
                command.args(["--dh", "none"]);
            }
            let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
            ends.push((Process::spawn_logged(command, &file)?, log));
        }
        for (process, log) in &mut ends {
            wait_until_ready(process, log)?;
        }
        let [server, client] = ends.try_into().map_or_else(|_| bail!("OpenVPN has two ends"), Ok)?;
        Ok(Self { way, ends: [server.0, client.0] })
    }

    /// The way through it.
    pub(crate) fn way(&self) -> &Way {
        &self.way
    }
}

/// Makes a key and a certificate that signs itself; returns its fingerprint, by which the other end knows it.
pub(super) fn certificate(namespace: &Namespace, directory: &Path) -> Result<String> {
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (key, certificate) = (file("openvpn.key"), file("openvpn.crt"));
    let make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let make = [&make[..], &["-subj", "/CN=bench", "-days", "2", "-keyout", &key, "-out", &certificate]].concat();
    namespace.output(&make, PATIENCE)?.success()?;
    let ask = ["openssl", "x509", "-in", &certificate, "-noout", "-fingerprint", "-sha256"];
    let answer = namespace.output(&ask, PATIENCE)?;
    let fingerprint = answer.success()?.trim().split_once('=').context("openssl gave no fingerprint")?.1;
    Ok(fingerprint.to_owned())
}

/// Waits until an end says that the tunnel carries packets.
pub(super) fn wait_until_ready(process: &mut Process, log: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.contains(READY) {
            return Ok(());
        }
        if !process.is_running() || start.elapsed() > PATIENCE {
            bail!("OpenVPN does not get ready: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
