//! `mpvpn path`: lists paths and sets the operator's values of them, in the maps, at once.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use multipath_common::{health::Role, maps::PathSettings};

use super::units;
use crate::{
    cli::{Global, PathList, PathSet, Setting},
    config::{Rate, path_name},
    dataplane::{Maps, PathRecord, Pins, name_text, tunnels},
    observe::{PathStatus, TrafficStatus, collect},
};

/// Runs `mpvpn path list`.
#[expect(clippy::unused_async, reason = "commands share one signature")]
pub async fn list(args: &PathList, global: &Global) -> Result<()> {
    let name = only_tunnel(&global.bpffs, args.name.as_deref())?;
    let tunnel = collect(&Pins::new(&global.bpffs, &name))?;
    let paths: Vec<PathStatus> = tunnel.peers.into_iter().flat_map(|peer| peer.paths).collect();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "tunnel": name, "paths": paths }))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&paths))?;
    }
    Ok(())
}

/// The table of `mpvpn path list`. A star stands behind what was set by hand.
fn table(paths: &[PathStatus]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["path", "key", "state", "role", "weight", "share", "rate", "remote", "sent", "received"]);
    let star = |is_by_hand| if is_by_hand { "*" } else { "" };
    for path in paths {
        let rate = path.rate_kbps.and_then(Rate::from_kbit).map_or_else(|| "-".to_owned(), |rate| rate.to_string());
        table.add_row([
            path.name.clone(),
            path.key.to_string(),
            path.state.to_owned(),
            format!("{}{}", path.role, star(path.operator_role.is_some())),
            format!("{}{}", path.weight, star(path.operator_weight.is_some())),
            format!("{:.0} %", path.share * 100.0),
            format!("{rate}{}", star(path.operator_rate_kbps.is_some())),
            path.remote.to_string(),
            traffic(&path.egress),
            traffic(&path.ingress),
        ]);
    }
    for column in [1, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn traffic(traffic: &TrafficStatus) -> String {
    match traffic.last_seen_seconds {
        Some(seconds) => {
            format!("{} packets, {}B ({} ago)", traffic.packets, units::bytes(traffic.bytes), units::seconds(seconds))
        }
        None => "nothing".to_owned(),
    }
}

/// Runs `mpvpn path set`.
#[expect(clippy::unused_async, reason = "commands share one signature")]
pub async fn set(args: &PathSet, global: &Global) -> Result<()> {
    let name = only_tunnel(&global.bpffs, args.tunnel.as_deref())?;
    let mut maps = Maps::open(&Pins::new(&global.bpffs, &name).current_maps()?)?;
    let mut named: Vec<(String, PathRecord)> = Vec::new();
    for peer in maps.peers()? {
        let owner = name_text(peer.peer.name);
        for record in maps.paths_of(peer.number)? {
            let path = &record.path;
            named.push((path_name(&owner, &name_text(path.uplink), path.endpoint, path.flow), record));
        }
    }
    let chosen: Vec<PathRecord> = named
        .iter()
        .filter(|(name, record)| *name == args.path || name_text(record.path.uplink) == args.path)
        .map(|(_, record)| *record)
        .collect();
    if chosen.is_empty() {
        let paths: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        bail!("the tunnel {name} has no path or uplink {}: it has {}", args.path, paths.join(", "));
    }
    for record in chosen {
        maps.set_operator(record.peer, record.id, with_setting(record.operator, args.setting))?;
    }
    maps.advance_operator()
}

/// The operator's settings of a path after one of them was set.
fn with_setting(had: PathSettings, setting: Setting) -> PathSettings {
    let role = |role: Role| PathSettings { role: role as u32, ..had };
    match setting {
        Setting::Up | Setting::Active => role(Role::Active),
        Setting::Backup => role(Role::Backup),
        Setting::Metered => role(Role::Metered),
        Setting::Down => role(Role::Down),
        Setting::Auto => role(Role::Automatic),
        Setting::Weight { value } => PathSettings { weight: value.fixed().unwrap_or(0), ..had },
        Setting::Rate { value } => PathSettings { rate_kbps: value.fixed().map_or(0, Rate::kbit), ..had },
    }
}

/// The tunnel of this name, or the only one.
pub(super) fn only_tunnel(bpffs: &Path, name: Option<&str>) -> Result<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let mut names = tunnels(bpffs)?;
    match names.len() {
        0 => bail!("no tunnel is up"),
        1 => Ok(names.remove(0)),
        _ => bail!("several tunnels are up, say which: {}", names.join(", ")),
    }
}
