//! A path that is added makes no flow slower, however bad it is.

use anyhow::{Result, ensure};

use crate::scene::{AGGREGATE, Scene, attempts};

/// What is left of the rate at least; the rest is for what two measurements differ by.
const LEFT: f64 = 0.9;

/// A flow over two good links, with and without a third one.
fn compare(third: &str) -> Result<()> {
    attempts(|| {
        let scene = Scene::new(&format!("10/10,10/20,{third}"))?;
        let flow = scene.flow(AGGREGATE);
        scene.set_role("up2", "down")?;
        let without = scene.run(&flow)?.received_mbps;
        scene.set_role("up2", "auto")?;
        let before = scene.bytes(2)?;
        let with = scene.run(&flow)?.received_mbps;
        println!(
            "{third}: {without:.1} Mbit/s without it, {with:.1} with it, {} bytes by it",
            scene.bytes(2)? - before
        );
        ensure!(without > 11.0, "{without:.1} Mbit/s by two links of 10");
        ensure!(with >= LEFT * without, "{third} makes {with:.1} of {without:.1} Mbit/s");
        scene.close()
    })
}

#[test]
fn a_slow_path() -> Result<()> {
    compare("10/320")
}

#[test]
fn a_lossy_path() -> Result<()> {
    compare("10/20/0/5")
}

#[test]
fn a_narrow_path() -> Result<()> {
    compare("1/20")
}
