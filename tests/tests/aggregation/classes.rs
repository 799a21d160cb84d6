//! `mpvpn class list`, and rules that change.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_loader::observe::{CarriedStatus, ClassStatus};
use multipath_tests::{config::ClassSection, traffic::Ping};
use serde_json::Value;

use crate::scene::{AGGREGATE, DUPLICATE, PIN, Scene, class_list};

/// Packets of a stream.
const PACKETS: u64 = 200;

fn rule<'a>(list: &'a [ClassStatus], name: &str) -> Result<&'a ClassStatus> {
    list.iter().find(|class| class.name.as_deref() == Some(name)).with_context(|| format!("no rule {name} in {list:?}"))
}

fn carried<'a>(status: &'a ClassStatus, way: &str) -> Option<&'a CarriedStatus> {
    status.carried.iter().find(|carried| carried.class == way)
}

/// A short stream of one class.
fn send(scene: &Scene, port: u16) -> Result<()> {
    let stream = scene.stream(port, 200, 500, Duration::from_secs(1));
    let report = stream.run(scene.topology.ha(), scene.topology.hb())?;
    ensure!(report.lost == 0 && report.sent.abs_diff(PACKETS) <= 2, "{report:?}");
    Ok(())
}

#[test]
fn what_each_rule_has_caught() -> Result<()> {
    let scene = Scene::rated("10/10,10/20")?;
    let ways = [("bulk", AGGREGATE, "aggregate"), ("voice", DUPLICATE, "duplicate"), ("steady", PIN, "pin")];
    for (_, port, _) in ways {
        send(&scene, port)?;
    }
    Ping { count: 20, ..Ping::to(scene.b().host_v4()) }.run(scene.topology.ha())?;
    let list = class_list(scene.a())?;
    println!("{list:#?}");
    for (name, port, way) in ways {
        let status = rule(&list, name)?;
        ensure!((status.class, status.catches.as_str()) == (way, format!("ports {port}").as_str()), "{status:?}");
        ensure!(status.lookups >= 1, "{status:?}");
        let packets = carried(status, way).map_or(0, |carried| carried.packets);
        ensure!(packets.abs_diff(PACKETS) <= 2, "{packets} packets of {name}: {status:?}");
    }
    let voice = carried(rule(&list, "voice")?, "duplicate").context("it was duplicated")?;
    ensure!(voice.copies > PACKETS * 9 / 10 && voice.copied_bytes > voice.copies * 500, "{voice:?}");
    ensure!(carried(rule(&list, "steady")?, "pin").is_some_and(|pin| pin.copies == 0), "{list:?}");

    let rest = list.last().context("there is a last line")?;
    ensure!((rest.rule, rest.class, rest.catches.as_str()) == (0, "automatic", "everything else"), "{rest:?}");
    ensure!(carried(rest, "pin").is_some_and(|pin| pin.packets >= 20), "{rest:?}");

    // The same as text and as JSON.
    let text = scene.a().mpvpn(&["class", "list"])?.success()?.to_owned();
    println!("{text}");
    ensure!(["bulk", "voice", "steady", "everything else"].iter().all(|part| text.contains(part)), "{text}");
    let json: Value = serde_json::from_str(scene.a().mpvpn(&["class", "list", "mp0", "--json"])?.success()?)?;
    ensure!(json["tunnel"] == "mp0" && json["classes"][1]["carried"][0]["copies"] == voice.copies, "{json}");
    scene.close()
}

/// A flow that is under way goes by the new rules.
#[test]
fn a_rule_that_changes() -> Result<()> {
    let scene = Scene::rated("10/10,10/20")?;
    let mut config = scene.configs[0].clone();
    config.classes = vec![ClassSection { name: Some("new".to_owned()), ..ClassSection::ports("pin", "7000") }];
    let stream = scene.stream(AGGREGATE, 200, 500, Duration::from_secs(2));
    let stream = stream.start(scene.topology.ha(), scene.topology.hb())?;
    thread::sleep(Duration::from_secs(1));
    scene.a().write_config(&config)?;
    scene.a().mpvpn(&["reload", "mp0"])?.success()?;
    let list = class_list(scene.a())?;
    ensure!(list.len() == 2, "{list:?}");
    let report = stream.finish()?;
    ensure!(report.lost == 0 && report.duplicated == 0, "{report:?}");
    let list = class_list(scene.a())?;
    let pinned = carried(rule(&list, "new")?, "pin").map_or(0, |pin| pin.packets);
    ensure!(pinned > 50, "{list:?}");
    scene.close()
}
