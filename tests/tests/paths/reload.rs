//! `mpvpn reload`: uplinks and endpoints that come and go while packets flow.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_loader::observe::PathStatus;
use multipath_tests::{Gateway, TunnelConfig, traffic::UdpStream, traffic::stream::RunningStream};

use crate::{
    scene::{BACK_WITHIN, Scene, check_whole, delayed, until, until_used},
    status::paths,
};

fn reload(gateway: &Gateway, config: &TunnelConfig) -> Result<()> {
    gateway.write_config(config)?;
    gateway.mpvpn(&["reload", "mp0"])?.success().map(drop)
}

fn names(gateway: &Gateway) -> Result<Vec<String>> {
    Ok(paths(gateway)?.into_iter().map(|path| path.name).collect())
}

/// A configuration without some of its uplinks, and without the endpoints that only they reach.
fn without(config: &TunnelConfig, uplinks: &[&str]) -> TunnelConfig {
    let mut config = config.clone();
    let is_left = |name: &str| !uplinks.contains(&name);
    config.uplinks.retain(|uplink| is_left(&uplink.name));
    for peer in &mut config.peers {
        peer.endpoints.retain(|endpoint| endpoint.uplinks.iter().all(|uplink| is_left(uplink)));
    }
    config
}

fn many_flows(scene: &Scene) -> Result<RunningStream> {
    let stream = UdpStream { flows: 40, ..UdpStream::to(scene.b().host_v4(), 1000, 200, Duration::from_mins(1)) };
    stream.start(scene.topology.ha(), scene.topology.hb())
}

#[test]
fn uplinks_come_and_go() -> Result<()> {
    let mut whole = None;
    let scene = Scene::with(&[delayed(5), delayed(5), delayed(5)], |_, configs| {
        let [a, b] = &*configs;
        let less = [without(a, &["up2"]), without(b, &["up2"])];
        whole = Some(std::mem::replace(configs, less));
        Ok(())
    })?;
    let [a, b] = whole.expect("the scene has made configurations");
    ensure!(names(scene.a())? == ["b/up0", "b/up1"]);
    let stream = many_flows(&scene)?;

    reload(scene.a(), &a)?;
    reload(scene.b(), &b)?;
    let added = until_used(scene.a(), "b/up2", true, 2 * BACK_WITHIN)?;
    until_used(scene.b(), "a/up2", true, 2 * BACK_WITHIN)?;
    println!("the new path is used after {added:.0?}");
    let sent = || Ok::<_, anyhow::Error>(paths(scene.a())?.iter().map(|path| path.egress.packets).collect::<Vec<_>>());
    let before = sent()?;
    until("all paths carry", BACK_WITHIN, || Ok(sent()?.iter().zip(&before).all(|(now, before)| *now > before + 100)))?;

    reload(scene.a(), &without(&a, &["up0"]))?;
    ensure!(names(scene.a())? == ["b/up1", "b/up2"]);
    reload(scene.b(), &without(&b, &["up0"]))?;
    ensure!(names(scene.b())? == ["a/up1", "a/up2"]);
    scene.passes()?;
    let received = stream.received();
    until("the stream goes on", BACK_WITHIN, || Ok(stream.received() > received + 200))?;

    reload(scene.a(), &a)?;
    reload(scene.b(), &b)?;
    until_used(scene.a(), "b/up0", true, 2 * BACK_WITHIN)?;
    check_whole(&stream.stop()?, 0)?;
    ensure!(names(scene.a())?.len() == 3);
    scene.close()
}

/// Endpoints and weights; the paths that stay are not touched.
#[test]
fn endpoints_and_weights_change() -> Result<()> {
    let mut first = None;
    let scene = Scene::with(&[delayed(5), delayed(5)], |_, configs| {
        first = Some(configs.clone());
        Ok(())
    })?;
    let [mut a, _] = first.expect("the scene has made configurations");
    // The other gateway's second address on that link.
    scene.b().namespace().ip("addr add 10.101.0.3/24 dev up1")?;
    let stream = many_flows(&scene)?;

    let mut second = a.peers[0].endpoints[1].clone();
    second.address = "10.101.0.3:5182".parse()?;
    a.peers[0].endpoints.push(second);
    reload(scene.a(), &a)?;
    until_used(scene.a(), "b/up1/2", true, 2 * BACK_WITHIN)?;
    ensure!(names(scene.a())? == ["b/up0", "b/up1", "b/up1/2"]);

    a.peers[0].endpoints.pop();
    a.uplinks[0].weight = Some(7);
    reload(scene.a(), &a)?;
    // The other gateway may go on to speak from that address, and then it is a learned one.
    let left: Vec<PathStatus> = paths(scene.a())?.into_iter().filter(|path| !path.learned).collect();
    ensure!(left.len() == 2 && left[0].weight == 7 && left[1].name == "b/up1", "{left:?}");
    check_whole(&stream.stop()?, 0)?;
    scene.close()
}

#[test]
fn a_wrong_file_changes_nothing() -> Result<()> {
    let scene = Scene::new(&[delayed(5), delayed(5)])?;
    let file = scene.a().directory().join("mp0.toml");
    let good = fs::read_to_string(&file)?;
    let stream = many_flows(&scene)?;
    for (old, new, expected) in [
        ("name = \"up1\"", "name = \"up1\"\ncolour = \"red\"", "colour"),
        ("name = \"up1\"", "name = \"up1\"\nweight = 0", "weight"),
        ("listen_port = 5182", "listen_port = 5999", "refused"),
    ] {
        let bad = good.replacen(old, new, 1).replacen("interface = \"up0\"", "interface = \"up9\"", 1);
        ensure!(bad.contains("up9") && bad.contains(new), "{bad}");
        fs::write(&file, bad)?;
        let output = scene.a().mpvpn(&["reload", "mp0"])?;
        println!("{}", output.stderr.trim_end());
        ensure!(output.status.code() == Some(1) && output.stderr.contains(expected), "{output:?}");
        let paths = paths(scene.a())?;
        ensure!(paths.len() == 2 && paths.iter().all(|path| path.used), "{paths:?}");
    }
    fs::write(&file, good)?;
    scene.a().mpvpn(&["reload", "mp0"])?.success()?;
    thread::sleep(Duration::from_millis(300));
    check_whole(&stream.stop()?, 0)?;
    scene.close()
}
