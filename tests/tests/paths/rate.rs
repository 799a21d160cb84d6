//! Rates that the daemon finds by itself: behind a modem with a second of buffer, and against what fools others.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use multipath_tests::{
    End, Family, LinkSpec, Shape,
    traffic::{Iperf, Ping, PingReport, stream::RunningStream},
};

use crate::{
    scene::{Scene, delayed, until},
    status::path,
};

const MBIT: u64 = 1_000_000;
/// One-way delay of the link.
const DELAY_MS: u64 = 10;
/// A modem with a second of buffer, at its rate; way back without limit.
const fn modem(rate: u64) -> Shape {
    Shape { rate, delay_us: DELAY_MS * 1000, queue: rate / 8, ..Shape::PERFECT }
}
/// How long a new rate may take to be found.
const FOUND_WITHIN: Duration = Duration::from_secs(3);
/// Share of it that must be found.
const FOUND: f64 = 0.9;
/// What the tunnel's own packets may make for a queue, milliseconds.
const QUEUE_MS: f64 = 30.0;
/// Bytes of UDP payload of the load.
const SIZE: u16 = 1200;

fn scene(rate: u64) -> Result<Scene> {
    let back = Shape { delay_us: DELAY_MS * 1000, ..Shape::PERFECT };
    Scene::new(&[LinkSpec { shapes: Some([modem(rate), back]), ..LinkSpec::PERFECT.family(Family::V4) }])
}

/// UDP that does not care for losses: one and a half times what the link carries.
fn overload(scene: &Scene, rate: u64) -> Result<RunningStream> {
    scene.stream((rate * 3 / 2 / 8 / u64::from(SIZE)) as u32, SIZE)
}

/// What the link carries for a second, bit/s, and pings through the tunnel meanwhile.
fn a_second_of(scene: &Scene) -> Result<(f64, PingReport)> {
    let link = scene.topology.link(0)?;
    let before = link.counters(End::A)?.bytes_forwarded;
    let start = std::time::Instant::now();
    let ping = Ping { count: 50, ..Ping::to(scene.b().host_v4()) };
    let pings = thread::scope(|scope| {
        let pings = scope.spawn(|| ping.run(scene.topology.ha()));
        thread::sleep(Duration::from_secs(1));
        let bits = (link.counters(End::A)?.bytes_forwarded - before) as f64 * 8.0 / start.elapsed().as_secs_f64();
        Ok::<_, anyhow::Error>((bits, pings.join().expect("the thread does not panic")?))
    })?;
    Ok(pings)
}

fn check_second(scene: &Scene, rate: u64, share: f64) -> Result<()> {
    let (bits, pings) = a_second_of(scene)?;
    let queue = pings.median_ms() - (2 * DELAY_MS) as f64;
    let path = path(scene.a(), "b/up0")?;
    println!(
        "{} Mbit/s: {:.2} Mbit/s carried, {queue:.1} ms in the queue (of {} pings), rate {:?}, capacity {:?} kbit/s",
        rate / MBIT,
        bits / 1e6,
        pings.received,
        path.rate_kbps,
        path.quality.capacity_out_kbps
    );
    ensure!(bits > share * rate as f64, "{:.2} Mbit/s of {}", bits / 1e6, rate / MBIT);
    ensure!(pings.received >= 10 && queue < QUEUE_MS, "{queue:.1} ms in the queue, {} pings", pings.received);
    Ok(())
}

#[test]
fn a_rate_that_changes_is_found() -> Result<()> {
    let scene = scene(10 * MBIT)?;
    for rate in [10 * MBIT, 4 * MBIT, 20 * MBIT] {
        scene.topology.link(0)?.set_shape(End::A, modem(rate))?;
        let stream = overload(&scene, rate)?;
        thread::sleep(FOUND_WITHIN);
        check_second(&scene, rate, FOUND)?;
        ensure!(stream.stop()?.duplicated == 0);
    }
    scene.close()
}

/// One flow that cares for losses keeps the link busy without filling the modem's buffer.
#[test]
fn tcp_behind_a_second_of_buffer() -> Result<()> {
    let scene = scene(10 * MBIT)?;
    let tcp = Iperf::tcp(scene.b().host_v4(), 8).start(scene.topology.ha(), scene.topology.hb())?;
    thread::sleep(FOUND_WITHIN + Duration::from_secs(1));
    check_second(&scene, 10 * MBIT, 0.8)?;
    let report = tcp.finish()?;
    println!("TCP: {:.2} Mbit/s, {} segments again", report.received_mbps, report.retransmits);
    ensure!(report.received_mbps > 7.0, "{report:?}");
    scene.close()
}

/// Neither random loss nor an application that has little to send lowers the rate.
#[test]
fn loss_and_little_to_send_do_not_fool_it() -> Result<()> {
    let scene = scene(10 * MBIT)?;
    scene.topology.link(0)?.set_shape(End::A, Shape { loss: 0.02, ..modem(10 * MBIT) })?;
    let stream = overload(&scene, 10 * MBIT)?;
    thread::sleep(FOUND_WITHIN);
    check_second(&scene, 10 * MBIT, FOUND * 0.98)?;
    stream.stop()?;
    let little = overload(&scene, MBIT)?;
    thread::sleep(Duration::from_secs(3));
    little.stop()?;
    let again = overload(&scene, 10 * MBIT)?;
    thread::sleep(Duration::from_millis(300));
    check_second(&scene, 10 * MBIT, FOUND * 0.98)?;
    again.stop()?;
    scene.close()
}

/// What the operator says holds, on a link that would carry more.
#[test]
fn a_rate_that_is_set_by_hand() -> Result<()> {
    let scene = Scene::new(&[delayed(DELAY_MS)])?;
    let set = |rate: &str| scene.a().mpvpn(&["path", "set", "b/up0", "rate", rate])?.success().map(drop);
    set("5mbit")?;
    let stream = overload(&scene, 10 * MBIT)?;
    thread::sleep(Duration::from_secs(1));
    let (bits, pings) = a_second_of(&scene)?;
    println!("{:.2} Mbit/s, pings {:.1} ms", bits / 1e6, pings.median_ms());
    ensure!((4.5e6..5.3e6).contains(&bits), "{:.2} Mbit/s", bits / 1e6);
    ensure!(pings.median_ms() < (2 * DELAY_MS) as f64 + 60.0, "{:.1} ms", pings.median_ms());
    ensure!(path(scene.a(), "b/up0")?.rate_kbps == Some(5000));
    set("auto")?;
    let is_free = || Ok(a_second_of(&scene)?.0 > 14e6);
    until("nothing limits it any more", FOUND_WITHIN, is_free).context("after `auto`")?;
    stream.stop()?;
    scene.close()
}
