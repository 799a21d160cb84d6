//! `mpvpn status`: what the tunnels do.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use tracing::warn;

use super::{path_quality::path_lines, units};
use crate::{
    cli::{Global, Status},
    dataplane::{Pins, tunnels},
    observe::{DropStatus, PeerStatus, TunnelStatus, collect},
};

/// Runs `mpvpn status`.
#[expect(clippy::unused_async, reason = "commands share one signature")]
pub async fn status(args: &Status, global: &Global) -> Result<()> {
    let names = args.name.clone().map_or_else(|| tunnels(&global.bpffs), |name| Ok(vec![name]))?;
    let mut found = Vec::new();
    for name in &names {
        match collect(&Pins::new(&global.bpffs, name)) {
            Ok(tunnel) => found.push(tunnel),
            // One that is just coming up or going down must not hide the others.
            Err(error) if args.name.is_none() => warn!("tunnel {name}: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "tunnels": found }))?;
        writeln!(out)?;
        return Ok(());
    }
    if found.is_empty() {
        writeln!(out, "no tunnel is up")?;
    }
    for tunnel in &found {
        print(&mut out, tunnel)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, tunnel: &TunnelStatus) -> Result<()> {
    writeln!(out, "tunnel: {}", tunnel.name)?;
    writeln!(out, "  daemon: {}", daemon(tunnel))?;
    writeln!(out, "  listening port: {}", tunnel.listen_port)?;
    writeln!(out, "  mtu: {}", tunnel.mtu)?;
    writeln!(out, "  maps: {}", tunnel.maps)?;
    for peer in &tunnel.peers {
        writeln!(out, "\npeer: {}", peer.name)?;
        writeln!(out, "  public key: {}", peer.public_key)?;
        writeln!(out, "  cipher: {}{}", peer.cipher, cipher_mark(peer.cipher))?;
        writeln!(out, "  session: {}", session(peer))?;
        if let Some(trouble) = peer.trouble {
            writeln!(out, "  WARNING: no handshake gets through: {trouble}")?;
        }
        writeln!(out, "{}", path_lines(&peer.paths))?;
    }
    if !tunnel.drops.is_empty() {
        writeln!(out, "\ndropped:\n{}", drop_table(&tunnel.drops))?;
    }
    Ok(())
}

/// Whether the daemon runs, and what it means for the rest if it does not.
fn daemon(tunnel: &TunnelStatus) -> String {
    if tunnel.daemon {
        return "running".to_owned();
    }
    let age = tunnel
        .measured_seconds
        .map_or_else(String::new, |age| format!("; what was measured of the paths is {} old", units::seconds(age)));
    format!("not running (the kernel forwards on until the sessions end{age})")
}

/// What nobody should overlook about a cipher.
fn cipher_mark(cipher: &str) -> &'static str {
    match cipher {
        "none" => " (NOT ENCRYPTED, NOT AUTHENTICATED: anybody on the way can read and forge)",
        "auth" => " (NOT ENCRYPTED: anybody on the way can read)",
        _ => "",
    }
}

/// A peer's session in a line.
fn session(peer: &PeerStatus) -> String {
    let attempts = match peer.handshake_attempts {
        0 => String::new(),
        1 => ", a handshake is on its way".to_owned(),
        attempts => format!(", {attempts} handshakes without an answer"),
    };
    match &peer.session {
        Some(session) if session.expires_seconds > 0.0 => {
            format!(
                "up, {}, last handshake {:.0} s ago, ends in {:.0} s{attempts}",
                session.cipher, session.handshake_seconds, session.expires_seconds
            )
        }
        Some(_) => format!("ENDED{attempts}"),
        None => format!("none{attempts}"),
    }
}

fn drop_table(drops: &[DropStatus]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["reason", "came by", "path", "packets", "bytes"]);
    for drop in drops {
        table.add_row([
            drop.reason.to_owned(),
            drop.interface.clone(),
            drop.path.clone().unwrap_or_else(|| "-".to_owned()),
            drop.packets.to_string(),
            drop.bytes.to_string(),
        ]);
    }
    table
}
