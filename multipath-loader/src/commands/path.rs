//! `mpvpn path`: lists paths and sets the operator's values of them, in the maps, at once.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Result, bail};
use multipath_common::maps::PathSettings;

use super::status::path_table;
use crate::{
    cli::{Global, PathList, PathSet, Setting},
    config::Rate,
    dataplane::{Maps, PathRecord, Pins, name_text, tunnels},
    observe::{PathStatus, collect, path_name},
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
        writeln!(out, "{}", path_table(&paths))?;
    }
    Ok(())
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
            named.push((path_name(&owner, &name_text(record.path.uplink), record.path.endpoint), record));
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
        let settings = match args.setting {
            Setting::Weight { value } => PathSettings { weight: value.fixed().unwrap_or(0), ..record.operator },
            Setting::Rate { value } => {
                PathSettings { rate_kbps: value.fixed().map_or(0, Rate::kbit), ..record.operator }
            }
        };
        maps.set_operator(record.peer, record.id, settings)?;
    }
    maps.advance_operator()
}

/// The tunnel of this name, or the only one.
fn only_tunnel(bpffs: &Path, name: Option<&str>) -> Result<String> {
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
