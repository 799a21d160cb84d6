//! `mpvpn path log`: the history of changes with reasons.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_tests::{End, Process};
use serde_json::Value;

use crate::{
    scene::{BACK_WITHIN, PATIENCE, Scene, delayed, until, until_used},
    status::changes,
};

#[test]
fn changes_have_reasons_and_survive_the_daemon() -> Result<()> {
    let mut scene = Scene::new(&[delayed(5), delayed(5)])?;
    let following = Process::spawn(scene.a().mpvpn_command(&["path", "log", "mp0", "--follow"])?)?;

    scene.topology.link(1)?.set_black_hole(true)?;
    until_used(scene.a(), "b/up1", false, BACK_WITHIN)?;
    thread::sleep(Duration::from_millis(200));
    scene.topology.link(1)?.set_black_hole(false)?;
    until_used(scene.a(), "b/up1", true, BACK_WITHIN)?;
    scene.topology.link(0)?.set_carrier(End::A, false)?;
    until_used(scene.a(), "b/up0", false, BACK_WITHIN)?;
    scene.topology.link(0)?.set_carrier(End::A, true)?;
    until_used(scene.a(), "b/up0", true, BACK_WITHIN)?;

    let log = changes(scene.a())?;
    let find = |path: &str, to: &str, reason: &str| {
        let found = log.iter().find(|change| change.path == path && change.to == to && change.reason.contains(reason));
        found.with_context(|| format!("{path} did not become {to} ({reason}): {log:#?}"))
    };
    // A probe is overdue, or nothing is reported of the train of probes that was being sent.
    let doubted = find("b/up1", "stalled", "overdue").or_else(|_| find("b/up1", "stalled", "is reported"))?;
    let down = find("b/up1", "down", "no answer")?;
    ensure!(doubted.sequence < down.sequence);
    find("b/up1", "up", "answered")?;
    find("b/up0", "down", "no carrier")?;
    ensure!(log.windows(2).all(|pair| pair[0].sequence < pair[1].sequence), "{log:#?}");
    ensure!(log.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns), "{log:#?}");

    let json = scene.a().mpvpn(&["path", "log", "mp0", "--json"])?;
    let json: Value = serde_json::from_str(json.success()?)?;
    ensure!(json["tunnel"] == "mp0" && json["changes"] == serde_json::to_value(&log)?, "{json}");
    let text = scene.a().mpvpn(&["path", "log"])?;
    ensure!(text.success()?.contains("b/up1") && text.stdout.contains("no carrier"), "{}", text.stdout);
    until("the log is followed", PATIENCE, || Ok(following.stdout().contains("no carrier")))?;

    scene.daemons[0].kill()?;
    let kept = changes(scene.a())?;
    scene.daemons[0] = scene.a().daemon(&scene.a().directory().join("mp0.toml"))?;
    until("a new daemon goes on with the log", PATIENCE, || Ok(changes(scene.a())?.len() >= kept.len()))?;
    let after = changes(scene.a())?;
    ensure!(after[..kept.len()] == kept[..], "{after:#?}");
    ensure!(after.windows(2).all(|pair| pair[0].sequence < pair[1].sequence), "{after:#?}");
    scene.close()
}
