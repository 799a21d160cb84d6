//! `mpvpn status`: what the tunnels do.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use tracing::warn;

use crate::{
    cli::{Global, Status},
    dataplane::{Pins, tunnels},
    observe::{DropStatus, PeerStatus, TrafficStatus, TunnelStatus, collect},
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
    writeln!(
        out,
        "  daemon: {}",
        if tunnel.daemon { "running" } else { "not running (the kernel forwards on until the sessions end)" }
    )?;
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
        writeln!(out, "{}", path_table(&peer.paths))?;
    }
    if !tunnel.drops.is_empty() {
        writeln!(out, "\ndropped:\n{}", drop_table(&tunnel.drops))?;
    }
    Ok(())
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

/// The table of paths that `status` and `path list` print.
pub(super) fn path_table(paths: &[crate::observe::PathStatus]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["path", "key", "state", "weight", "share", "rate", "remote", "sent", "received"]);
    for path in paths {
        let weight = if path.operator_weight.is_some() { format!("{}*", path.weight) } else { path.weight.to_string() };
        table.add_row([
            path.name.clone(),
            path.key.to_string(),
            path.state.to_owned(),
            weight,
            format!("{:.0} %", path.share * 100.0),
            path.rate_kbps.map_or_else(|| "-".to_owned(), |rate| format!("{rate} kbit/s")),
            path.remote.to_string(),
            traffic(&path.egress),
            traffic(&path.ingress),
        ]);
    }
    for column in [1, 3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn traffic(traffic: &TrafficStatus) -> String {
    match traffic.last_seen_seconds {
        Some(seconds) => format!("{} packets, {} ({seconds:.0} s ago)", traffic.packets, bytes(traffic.bytes)),
        None => "nothing".to_owned(),
    }
}

/// Bytes in the unit that leaves fewest digits.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| bytes >> (10 * (unit + 1)) == 0).unwrap_or(UNITS.len() - 1);
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Tenths, rounded down.
    let tenths = (bytes >> (10 * (unit - 1))) * 10 / 1024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
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
