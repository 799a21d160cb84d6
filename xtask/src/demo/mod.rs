//! `cargo xtask demo`: three unequal links, one tunnel over them, 32 TCP flows and a UDP stream through it.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counters of a minute become rates to be shown"
)]

pub(crate) mod meter;
mod report;
mod scene;
mod view;

use std::collections::VecDeque;
use std::env;
use std::os::unix::process::CommandExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use multipath_tests::traffic::iperf::RunningIperf;
use multipath_tests::traffic::stream::RunningStream;

use crate::command::{as_root, run as execute};
use crate::workspace::{Profile, Workspace};
use crate::{build, setup};

use meter::{Figures, INNER_HEADERS, OVERHEAD, Snapshot};
use report::{Report, Single};
use scene::{FLOWS, Scene, Tunnel};
use view::View;

/// Seconds at the start of the load on one link, in which its rate is found, and for which it is measured then.
const ALONE: (u32, u32) = (6, 4);
/// Seconds at the start of the load on all links, in which their rates are found, and for which it is measured then.
const TOGETHER: (u32, u32) = (6, 10);
/// More than the UDP stream alone: the TCP flows are connected and send.
const FLOWING_MBPS: f64 = 1.0;
/// Small UDP flows while a weight changes: so many that the hash spreads them to some 2 points.
const SMALL_FLOWS: u16 = 500;
/// The path whose weight changes, and its weight then.
const CHANGED: (&str, &str) = ("3g", "30");
/// How far the small flows may be from the new weights, in points of a hundred: four standard deviations of the hash.
const FOLLOWED_POINTS: f64 = 9.0;
/// A longer silence of the UDP stream means that the cut was not healed by the tunnel, milliseconds.
const LONGEST_GAP: f64 = 2000.0;

const REFRESH: Duration = Duration::from_millis(200);
/// Rates that are shown are those of the last second.
const WINDOW_SECONDS: f64 = 1.0;

/// How to show it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Plain lines instead of the live view; so also where standard output is no terminal
    #[arg(long)]
    no_tty: bool,
    /// End standard output with one line of JSON
    #[arg(long)]
    json: bool,
    /// Everything is set up and built
    #[arg(long, hide = true)]
    built: bool,
}

/// Sets up, builds, plays the demo.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.built {
        let toolchain = setup::machine(workspace)?;
        build::object(workspace, &toolchain)?;
        build_mpvpn(workspace)?;
        return Err(play_as_root(workspace)?.into());
    }
    let scene = Scene::new()?;
    let rate = scene.links.iter().map(|link| link.profile.rate).sum();
    let mut demo = Demo { scene, view: View::open(options.no_tty, rate), recent: VecDeque::new() };
    let played = demo.play();
    if played.is_err() && demo.view.is_interrupted() {
        // The handler of the interrupt removes the lab and ends this process.
        loop {
            thread::park();
        }
    }
    let Demo { scene, view, .. } = demo;
    view.close();
    let report = played?;
    scene.close()?;
    println!("\n{}", report.table());
    if options.json {
        println!("{}", report.json()?);
    }
    report.verdict()
}

fn build_mpvpn(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    execute(cargo.args(["build", "--release", "--package", "multipath-loader"])).context("`mpvpn` does not build")
}

/// Becomes the same command as root, with the release build of `mpvpn` for the lab; returns only when that fails.
fn play_as_root(workspace: &Workspace) -> Result<std::io::Error> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let mut again = as_root("env")?;
    again.arg(format!("MPVPN_BIN={}", workspace.mpvpn(Profile::Release).display())).arg(program);
    Ok(again.args(env::args_os().skip(1)).arg("--built").exec())
}

struct Demo {
    scene: Scene,
    view: View,
    /// Of the last second, of the tunnel that is up.
    recent: VecDeque<Snapshot>,
}

impl Demo {
    fn play(&mut self) -> Result<Report> {
        let singles = self.single_links()?;
        let all: Vec<usize> = (0..self.scene.links.len()).collect();
        let tunnel = self.tunnel(&all)?;
        let (figures, mbps) = self.all_links(&tunnel)?;
        let changed = self.weight_change(&tunnel)?;
        let cut_gap_ms = self.cut(&tunnel)?;
        tunnel.close()?;

        let mut report = Report::new(&singles, &figures, mbps, cut_gap_ms);
        for figures in changed {
            let points = figures.largest_deviation();
            report.check(points <= FOLLOWED_POINTS, || {
                format!("after a change of weights a share was {points:.1} points from its weight")
            });
        }
        report.check(cut_gap_ms <= LONGEST_GAP, || {
            format!("the UDP stream was silent for {cut_gap_ms:.0} ms when its link was cut")
        });
        Ok(report)
    }

    /// Each link alone, by a tunnel that has only this uplink.
    fn single_links(&mut self) -> Result<Vec<Single>> {
        let links: Vec<String> =
            self.scene.links.iter().map(|link| format!("{:<9} {}", link.name, link.describe())).collect();
        self.view.tell(&format!("two gateways, a host behind each, three links:\n{}", links.join("\n")))?;
        let mut singles = Vec::new();
        for number in 0..self.scene.links.len() {
            let tunnel = self.tunnel(&[number])?;
            let mtu = self.scene.look(&tunnel)?.mtu;
            let link = &self.scene.links[number];
            let (name, rate, loss) = (link.name, link.profile.rate, link.profile.loss);
            let capacity_mbps = link.profile.payload_mbps(mtu, INNER_HEADERS, OVERHEAD);
            self.view.begin(&format!("{name} alone: {FLOWS} TCP flows and a UDP stream through it"))?;
            let (figures, ..) = self.loaded(&tunnel, ALONE)?;
            tunnel.close()?;
            let alone_mbps = figures.total();
            let arithmetic =
                format!("{rate} x ({mtu} - {INNER_HEADERS})/({mtu} + {OVERHEAD}) x {:.3}", 1.0 - loss / 100.0);
            self.view.tell(&format!("{name} alone: {alone_mbps:.2} of {capacity_mbps:.2} = {arithmetic}"))?;
            singles.push(Single { capacity_mbps, alone_mbps });
        }
        self.view.set_capacity(singles.iter().map(|single: &Single| single.capacity_mbps).sum())?;
        Ok(singles)
    }

    fn all_links(&mut self, tunnel: &Tunnel) -> Result<(Figures, f64)> {
        self.view.begin(&format!("one tunnel over all links: {FLOWS} TCP flows and a UDP stream"))?;
        let (figures, mut load, stream) = self.loaded(tunnel, TOGETHER)?;
        while load.is_running() {
            self.watch(tunnel, 0.2)?;
        }
        // What arrived holds packets that TCP sent twice; the goodput holds what had arrived before and waited for one that was lost.
        let mbps = Scene::goodput_mbps(&load.finish()?, &stream.stop()?).min(figures.total());
        self.view.tell(&format!("all links: {mbps:.2} Mbit/s of payload"))?;
        Ok((figures, mbps))
    }

    /// TCP flows and the UDP stream: the figures of some seconds after slow start.
    fn loaded(
        &mut self,
        tunnel: &Tunnel,
        (slow_start, seconds): (u32, u32),
    ) -> Result<(Figures, RunningIperf, RunningStream)> {
        let stream = self.scene.stream()?;
        // It begins before anything is seen of it, and must not end before the measurement does.
        let mut load = self.scene.load(seconds + 2, slow_start)?;
        while load.is_running() && self.watch(tunnel, 0.5)?.total() < FLOWING_MBPS {}
        self.watch(tunnel, slow_start.into())?;
        let figures = self.watch(tunnel, seconds.into())?;
        Ok((figures, load, stream))
    }

    /// The figures after the weight was changed, and after it was given back.
    fn weight_change(&mut self, tunnel: &Tunnel) -> Result<[Figures; 2]> {
        let (uplink, weight) = CHANGED;
        self.view
            .begin(&format!("{SMALL_FLOWS} small UDP flows, less than the links carry: shares follow the weights"))?;
        let stream = self.scene.small_flows(SMALL_FLOWS)?;
        let before = self.watch(tunnel, 2.0)?;
        let path = &before.path(uplink)?.name;
        let mut change = |value| {
            let command = self.scene.set_weight(path, value)?;
            self.view.begin(&format!("`{command}`"))?;
            // The packets that are on the slowest link arrive first.
            self.watch(tunnel, 0.5)?;
            let figures = self.watch(tunnel, 3.0)?;
            let shares: Vec<String> = figures
                .paths
                .iter()
                .map(|path| {
                    format!(
                        "{} {:.0} % (weight {}: {:.0} %)",
                        path.uplink,
                        path.share * 100.0,
                        path.weight,
                        path.due_share * 100.0
                    )
                })
                .collect();
            self.view.tell(&shares.join(", "))?;
            Ok::<Figures, anyhow::Error>(figures)
        };
        let changed = [change(weight)?, change("auto")?];
        stream.stop()?;
        Ok(changed)
    }

    /// The stream's longest silence, milliseconds, while the link that it takes is cut and healed under load.
    fn cut(&mut self, tunnel: &Tunnel) -> Result<f64> {
        self.view.begin("a UDP stream: which link does it take?")?;
        let stream = self.scene.stream()?;
        let started = Instant::now();
        let alone = self.watch(tunnel, 1.0)?;
        let busiest = (0..).zip(&alone.paths).max_by(|(_, one), (_, other)| one.mbps.total_cmp(&other.mbps));
        let (number, path) = busiest.context("the tunnel has no path")?;
        let uplink = &path.uplink;
        self.view.begin(&format!("the stream goes by {uplink}; {FLOWS} TCP flows join it"))?;
        let mut load = self.scene.load(12, 0)?;
        self.watch(tunnel, 4.0)?;
        let cut_at = started.elapsed();
        self.scene.set_black_hole(number, true)?;
        self.view.begin(&format!("{uplink} is dead: nothing passes it any more, and nobody says so"))?;
        self.watch(tunnel, 4.0)?;
        self.scene.set_black_hole(number, false)?;
        self.view.begin(&format!("{uplink} is healed"))?;
        self.watch(tunnel, 4.0)?;
        let healed_at = started.elapsed();
        while load.is_running() {
            self.watch(tunnel, 0.2)?;
        }
        load.finish()?;
        let report = stream.stop()?;
        let others = self.scene.links.iter().enumerate().filter(|(other, _)| *other != number);
        let full = others.map(|(_, link)| link.full_delay_ms()).fold(0.0, f64::max);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let gap_ms = report.largest_gap_within(ms(cut_at)..ms(healed_at));
        self.view.tell(&format!(
            "longest silence of the stream {gap_ms:.0} ms (it waits in another link's queue now: up to {full:.0} ms); {} of {} packets lost",
            report.lost, report.sent
        ))?;
        Ok(gap_ms)
    }

    fn tunnel(&mut self, uplinks: &[usize]) -> Result<Tunnel> {
        self.recent.clear();
        self.scene.tunnel(uplinks)
    }

    /// Shows the tunnel for so many seconds; returns the figures of that time.
    fn watch(&mut self, tunnel: &Tunnel, seconds: f64) -> Result<Figures> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let first = self.scene.look(tunnel)?;
        let mut now = first.clone();
        loop {
            self.recent.push_back(now);
            let left = end.saturating_duration_since(Instant::now());
            thread::sleep(left.min(REFRESH));
            now = self.scene.look(tunnel)?;
            while self.recent.len() > 1 && now.age(&self.recent[1]) >= WINDOW_SECONDS {
                self.recent.pop_front();
            }
            self.view.show(&now.since(&self.recent[0]))?;
            if left <= REFRESH {
                return Ok(now.since(&first));
            }
        }
    }
}
