//! Up and down: what is there in between, and that nothing is left.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use multipath_tests::{Gateway, Topology};
use serde_json::Value;

use crate::{PATIENCE, alone, close, fails, passes, status, topology, until, up};

/// Ids of the tunnel's programs and maps.
struct Objects {
    programs: Vec<u64>,
    maps: Vec<u64>,
}

fn json_of(gateway: &Gateway, words: &[&str]) -> Result<Value> {
    let output = gateway.namespace().output(words, PATIENCE)?;
    serde_json::from_str(output.success()?).with_context(|| format!("{words:?}"))
}

/// The tunnel's programs, by its pinned links.
fn programs(gateway: &Gateway) -> Result<Vec<u64>> {
    let mut programs = Vec::new();
    for link in fs::read_dir(gateway.bpffs().join("mpvpn/mp0/links"))? {
        let link = link?.path();
        let shown = json_of(gateway, &["bpftool", "--json", "link", "show", "pinned", &link.to_string_lossy()])?;
        programs.push(shown["prog_id"].as_u64().with_context(|| format!("{} has no program", link.display()))?);
    }
    Ok(programs)
}

fn objects(gateway: &Gateway) -> Result<Objects> {
    let programs = programs(gateway)?;
    let mut maps = Vec::new();
    for program in &programs {
        let shown = json_of(gateway, &["bpftool", "--json", "prog", "show", "id", &program.to_string()])?;
        for id in shown["map_ids"].as_array().into_iter().flatten() {
            maps.extend(id.as_u64());
        }
    }
    maps.sort_unstable();
    maps.dedup();
    Ok(Objects { programs, maps })
}

/// No device, no pins, nothing attached, and the kernel has freed every program and map.
fn assert_gone(gateway: &Gateway, objects: &Objects) -> Result<()> {
    let links = gateway.namespace().output(&["ip", "-brief", "link"], PATIENCE)?;
    assert!(!links.success()?.contains("mp0"), "{}", links.stdout);
    assert!(!gateway.bpffs().join("mpvpn").exists(), "pins are left");
    let net = gateway.namespace().output(&["bpftool", "net"], PATIENCE)?;
    assert!(!net.success()?.contains("gress"), "{}", net.stdout);
    let is_there = |kind: &str, id: &u64| -> Result<bool> {
        let shown = gateway.namespace().output(&["bpftool", kind, "show", "id", &id.to_string()], PATIENCE)?;
        Ok(shown.status.success())
    };
    // The kernel frees them after a grace period.
    for (kind, ids) in [("prog", &objects.programs), ("map", &objects.maps)] {
        for id in ids {
            until(&format!("{kind} {id} is gone"), || Ok(!is_there(kind, id)?))?;
        }
    }
    Ok(())
}

/// Six links: `egress` and `ingress_tc` on the port, `ingress_tc` and XDP on the uplink, `steer` and `delivered` on the
/// device.
fn assert_up(topology: &Topology) -> Result<Objects> {
    passes(topology)?;
    let objects = objects(&topology.a)?;
    assert!(objects.programs.len() == 6 && objects.maps.len() >= 10, "{:?} {:?}", objects.programs, objects.maps);
    Ok(objects)
}

#[test]
fn every_way_down_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let gateway = &topology.a;
    let [config, _] = topology.tunnel_configs(0);
    let [mut daemon, _b] = up(&topology)?;

    // By command, while the daemon runs: it ends by itself.
    let objects = assert_up(&topology)?;
    gateway.mpvpn(&["down", "mp0"])?.success()?;
    assert!(daemon.wait(PATIENCE)?.success(), "{}", daemon.log());
    assert_gone(gateway, &objects)?;
    let message = fails(gateway, 1, &["down", "mp0"])?;
    assert!(message.contains("there is no tunnel mp0"), "{message}");

    // By command, while the daemon is dead.
    let mut daemon = gateway.up(&config)?;
    let objects = assert_up(&topology)?;
    daemon.kill()?;
    gateway.mpvpn(&["down", "mp0"])?.success()?;
    assert_gone(gateway, &objects)?;

    // By Ctrl-C.
    let mut daemon = gateway.up(&config)?;
    let objects = assert_up(&topology)?;
    assert!(daemon.interrupt()?.success());
    assert_gone(gateway, &objects)?;

    // SIGTERM keeps the tunnel; a later down removes it.
    let mut daemon = gateway.up(&config)?;
    let objects = assert_up(&topology)?;
    assert!(daemon.terminate()?.success());
    assert_eq!(status(gateway)?["daemon"], false);
    passes(&topology)?;
    gateway.mpvpn(&["down", "mp0"])?.success()?;
    assert_gone(gateway, &objects)?;

    // By deleting the device, as an administrator who does not know better.
    let mut daemon = gateway.up(&config)?;
    let objects = assert_up(&topology)?;
    gateway.namespace().ip("link del mp0")?;
    daemon.wait(Duration::from_secs(2))?;
    gateway.mpvpn(&["down", "mp0"])?.success()?;
    assert_gone(gateway, &objects)?;
    close(topology)
}
