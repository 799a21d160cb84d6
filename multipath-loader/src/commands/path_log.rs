//! `mpvpn path log`: what has happened to the paths, and why.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;

use super::path::only_tunnel;
use crate::{
    cli::{Global, PathLog},
    dataplane::{Maps, Pins},
    observe::{PathChange, path_changes},
};

/// How often it is looked for further changes.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `mpvpn path log`.
pub async fn log(args: &PathLog, global: &Global) -> Result<()> {
    let name = only_tunnel(&global.bpffs, args.name.as_deref())?;
    let maps = Maps::open(&Pins::new(&global.bpffs, &name).current_maps()?)?;
    let mut out = io::stdout();
    let mut changes = path_changes(&maps)?;
    if args.json && !args.follow {
        changes.retain(|change| is_wanted(change, args));
        serde_json::to_writer(&mut out, &serde_json::json!({ "tunnel": name, "changes": changes }))?;
        writeln!(out)?;
        return Ok(());
    }
    let mut shown = 0;
    loop {
        for change in changes.iter().filter(|change| change.sequence > shown && is_wanted(change, args)) {
            if args.json {
                serde_json::to_writer(&mut out, change)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", line(change))?;
            }
        }
        shown = changes.last().map_or(shown, |change| change.sequence);
        // Maps stay open when their pins are gone: then nobody writes them any more.
        if !args.follow || !maps.directory().exists() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        changes = path_changes(&maps)?;
    }
}

fn is_wanted(change: &PathChange, args: &PathLog) -> bool {
    args.path.as_ref().is_none_or(|path| *path == change.path || *path == change.uplink)
}

/// A change in a line.
fn line(change: &PathChange) -> String {
    let PathChange { at, path, from, to, reason, .. } = change;
    let what = if from == to { (*to).to_owned() } else { format!("{from} -> {to}") };
    let detail = match (change.mtu_bytes, change.loss_ppm) {
        (Some(mtu), _) => format!(" {mtu}"),
        (_, Some(loss)) => format!(" ({:.1} %)", f64::from(loss) / 10_000.0),
        _ => String::new(),
    };
    format!("{at}  {path:<16}  {what:<18}  {reason}{detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut change = PathChange {
            sequence: 1,
            at_ns: 0,
            at: "1970-01-01T00:00:00.000Z".to_owned(),
            path: "hub/lte".to_owned(),
            peer: "hub".to_owned(),
            uplink: "lte".to_owned(),
            from: "up",
            to: "lossy",
            reason: "packets are lost",
            mtu_bytes: None,
            loss_ppm: Some(183_000),
        };
        assert_eq!(
            line(&change),
            "1970-01-01T00:00:00.000Z  hub/lte           up -> lossy         packets are lost (18.3 %)"
        );
        change = PathChange { to: "up", reason: "path MTU", mtu_bytes: Some(1480), loss_ppm: None, ..change };
        assert_eq!(line(&change), "1970-01-01T00:00:00.000Z  hub/lte           up                  path MTU 1480");
    }
}
