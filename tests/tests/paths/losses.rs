//! Loss, jitter, reordering and delivery rate against what the links were made to do.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::{
    End, Shape,
    traffic::{UdpStream, stream::RunningStream},
};

use crate::{
    scene::{Scene, delayed},
    status::path,
};

/// Packets a second, their bytes of UDP payload, and of the outer IP packet: IP, UDP, header, inner IP and UDP, tag.
const PACE: u32 = 1000;
const SIZE: u16 = 200;
const OUTER: u16 = SIZE + 20 + 8 + 20 + 20 + 8 + 16;

fn start(scene: &Scene, end: End) -> Result<RunningStream> {
    let topology = &scene.topology;
    let (from, to, address) = match end {
        End::A => (topology.ha(), topology.hb(), topology.b.host_v4()),
        End::B => (topology.hb(), topology.ha(), topology.a.host_v4()),
    };
    UdpStream::to(address, PACE, SIZE, Duration::from_mins(1)).start(from, to)
}

/// From a to b every 33rd packet is lost, from b to a none: both gateways know of both.
#[test]
fn losses_of_one_direction() -> Result<()> {
    let scene = Scene::new(&[delayed(10)])?;
    let link = scene.topology.link(0)?;
    link.set_shape(End::A, Shape { loss: 0.03, ..link.shape(End::A)? })?;
    let streams = [start(&scene, End::A)?, start(&scene, End::B)?];
    thread::sleep(Duration::from_secs(7));
    let [a, b] = [path(scene.a(), "b/up0")?, path(scene.b(), "a/up0")?];
    for stream in streams {
        stream.stop()?;
    }
    let [a, b] = [a.quality, b.quality];
    println!("{a:?}\n{b:?}");
    // 5000 packets in 5 s: the standard deviation is 0.24 %.
    for lossy in [&a.out, &b.inward] {
        ensure!((18_000..42_000).contains(&lossy.loss_5s_ppm), "{lossy:?}");
    }
    for whole in [&a.inward, &b.out] {
        ensure!(whole.loss_5s_ppm < 2000, "{whole:?}");
    }
    let expected = f64::from(OUTER) * f64::from(PACE) * 8.0 / 1000.0 * 0.97;
    for delivered in [a.out.delivered_kbps, b.inward.delivered_kbps] {
        ensure!((f64::from(delivered) / expected - 1.0).abs() < 0.2, "{delivered} kbit/s instead of {expected:.0}");
    }
    scene.close()
}

/// On a link with jitter packets overtake each other; on one without, none does.
#[test]
fn jitter_and_disorder() -> Result<()> {
    // Mean difference of two delays of a normal distribution: 2 / sqrt(pi) standard deviations.
    const DEVIATION_US: u64 = 3000;
    const EXPECTED_US: u32 = (DEVIATION_US * 1128 / 1000) as u32;
    let scene = Scene::new(&[delayed(20)])?;
    let stream = start(&scene, End::A)?;
    thread::sleep(Duration::from_millis(1500));
    let smooth = path(scene.a(), "b/up0")?.quality;
    let link = scene.topology.link(0)?;
    link.set_shape(End::A, Shape { jitter_us: DEVIATION_US, ..link.shape(End::A)? })?;
    thread::sleep(Duration::from_secs(3));
    let [a, b] = [path(scene.a(), "b/up0")?.quality, path(scene.b(), "a/up0")?.quality];
    stream.stop()?;
    println!("before {smooth:?}\nthen {a:?}\nand {b:?}");
    for direction in [&a.out, &b.inward] {
        ensure!((EXPECTED_US / 2..2 * EXPECTED_US).contains(&direction.jitter_us), "{direction:?}");
        ensure!(direction.reordered_60s_ppm > 50_000, "{direction:?}");
    }
    for direction in [&smooth.out, &smooth.inward, &a.inward, &b.out] {
        ensure!(direction.jitter_us < 1000 && direction.reordered_60s_ppm < 10_000, "{direction:?}");
    }
    scene.close()
}
