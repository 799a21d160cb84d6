//! What must not move a path, and a path that moves too much.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use multipath_loader::observe::PathChange;

use crate::{
    scene::{BACK_WITHIN, Scene, burn, check_whole, delayed, prefer, until_used},
    status::{changes, path, paths},
};

/// Changes that say that a path was thought bad.
fn bad(changes: Vec<PathChange>) -> Vec<PathChange> {
    changes.into_iter().filter(|change| ["down", "lossy"].contains(&change.to)).collect()
}

/// Both processors are busy with something else, and more than busy.
#[test]
fn nothing_flaps_under_load() -> Result<()> {
    let scene = Scene::new(&[delayed(5), delayed(20), delayed(50), delayed(100)])?;
    let before: Vec<usize> =
        scene.gateways().iter().map(|gateway| Ok(changes(gateway)?.len())).collect::<Result<_>>()?;
    let burning = [burn(&scene)?, burn(&scene)?];
    let stream = scene.stream(500, 200)?;
    thread::sleep(Duration::from_secs(10));
    let report = stream.stop()?;
    drop(burning);
    check_whole(&report, 0)?;
    for (gateway, before) in scene.gateways().into_iter().zip(before) {
        let changes = changes(gateway)?.split_off(before);
        println!("{}: {changes:?}", gateway.name());
        ensure!(bad(changes).is_empty(), "a path flapped at {}", gateway.name());
    }
    scene.close()
}

/// As radio links do on a good day: neither `down` nor `lossy`, and the path stays in use.
#[test]
fn nothing_flaps_with_two_percent_of_loss() -> Result<()> {
    let scene = Scene::new(&[delayed(10), delayed(30)])?;
    for link in 0..2 {
        scene.topology.link(link)?.change(|shape| shape.loss = 0.02)?;
    }
    let stream = scene.stream(200, 200)?;
    thread::sleep(Duration::from_secs(8));
    let report = stream.stop()?;
    // 1600 packets: 32 and five times the standard deviation.
    check_whole(&report, 60)?;
    for gateway in scene.gateways() {
        let changes = bad(changes(gateway)?);
        ensure!(changes.is_empty(), "{}: {changes:?}", gateway.name());
        ensure!(paths(gateway)?.iter().all(|path| path.used), "{:?}", paths(gateway)?);
    }
    scene.close()
}

/// The first failure is forgiven, a path that goes on failing has to prove itself.
#[test]
fn a_path_that_comes_and_goes_is_damped() -> Result<()> {
    let scene = Scene::with(&[delayed(5), delayed(5)], |_, configs| {
        prefer(configs, 0);
        Ok(())
    })?;
    let mut back = Vec::new();
    for _ in 0..5 {
        scene.topology.link(0)?.set_black_hole(true)?;
        until_used(scene.a(), "b/up0", false, BACK_WITHIN)?;
        thread::sleep(Duration::from_millis(100));
        scene.topology.link(0)?.set_black_hole(false)?;
        back.push(until_used(scene.a(), "b/up0", true, Duration::from_secs(20))?);
    }
    println!("back after {back:.1?}");
    ensure!(back[0] <= BACK_WITHIN, "the first failure was not forgiven");
    ensure!(back[4] > 2 * back[0] && back[4] > BACK_WITHIN, "it is used as soon as ever");
    ensure!(path(scene.a(), "b/up0")?.quality.flaps_10min >= 5);
    let words: Vec<&str> = changes(scene.a())?.into_iter().map(|change| change.reason).collect();
    ensure!(words.iter().any(|reason| reason.contains("flaps")), "{words:?}");
    scene.close()
}
