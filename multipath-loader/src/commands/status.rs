//! `mpvpn status`: what the tunnels do.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use tracing::warn;

use super::{path_quality::path_lines, units};
use crate::{
    cli::{Global, Status},
    dataplane::{Pins, tunnels},
    observe::{ArrivalsStatus, DropStatus, PeerStatus, TunnelStatus, collect},
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
    writeln!(out, "  packets held by: {}", tunnel.held_by)?;
    for peer in &tunnel.peers {
        writeln!(out, "\npeer: {}", peer.name)?;
        writeln!(out, "  public key: {}", peer.public_key)?;
        writeln!(out, "  cipher: {}{}", peer.cipher, cipher_mark(peer.cipher))?;
        writeln!(out, "  session: {}", session(peer))?;
        if let Some(trouble) = peer.trouble {
            writeln!(out, "  WARNING: no handshake gets through: {trouble}")?;
        }
        for line in [bond_out(peer), bond_in(peer)].into_iter().flatten() {
            writeln!(out, "  {line}")?;
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

/// By which paths aggregate flows to the peer go, if there is a choice.
fn bond_out(peer: &PeerStatus) -> Option<String> {
    let members: Vec<&str> = peer.paths.iter().filter(|path| path.bond.out).map(|path| path.name.as_str()).collect();
    let spread = units::milliseconds(peer.bond.spread_out_us);
    (!members.is_empty()).then(|| format!("bond out: {}; held there for up to {spread} ms", members.join(", ")))
}

/// What of aggregate flows has come from the peer, if anything has.
fn bond_in(peer: &PeerStatus) -> Option<String> {
    let used = peer.paths.iter().filter(|path| path.arrivals.striped != 0);
    let shares: Vec<_> =
        used.clone().map(|path| format!("{} {:.0} %", path.name, path.bond.share_in * 100.0)).collect();
    let sum = |count: fn(&ArrivalsStatus) -> u64| used.clone().map(|path| count(&path.arrivals)).sum::<u64>();
    let spread = units::milliseconds(peer.bond.spread_in_us);
    (!shares.is_empty()).then(|| {
        format!(
            "bond in: {}; held here for up to {spread} ms; of {} packets {} late, {} not held",
            shares.join(", "),
            sum(|arrivals| arrivals.striped),
            sum(|arrivals| arrivals.overdue),
            sum(|arrivals| arrivals.unheld)
        )
    })
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
