//! `cargo xtask bench aggregate`: what one flow gets from all links together, beside each of them alone.

#![expect(clippy::cast_sign_loss, reason = "places in a course of time: times that are never negative")]

mod figures;
mod flow;
mod plot;
mod scene;
mod series;
mod trial;

use std::fs;
use std::iter::Cycle;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use multipath_tests::Profile;
use serde_json::{Value, json};

use self::figures::{Case, HEADER};
use self::flow::Flow;
use self::scene::{Class, PORTS, Scene};
use self::trial::Trial;
use super::idle;
use crate::progress::Step;
use crate::workspace::Workspace;

/// How long a flow runs unless the options say so; the second where an automatic flow has to get used to a round trip of
/// more than twice the one that it began with. Seconds.
const SECONDS: u32 = 25;
const LONG: u32 = 60;

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this profile; may be repeated. Default: all
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// Take the profiles from this file instead of `tests/profiles.toml`
    #[arg(long, value_name = "FILE.toml")]
    file: Option<PathBuf>,
    /// Links RATE/DELAY[/JITTER[/LOSS]] (Mbit/s, ms one way, ms, percent) instead of a profile, such as "10/10,10/100"
    #[arg(long, conflicts_with_all = ["profile", "file"])]
    links: Option<String>,
    /// Only this flow; may be repeated. Default: all
    #[arg(long)]
    flow: Vec<Flow>,
    /// How the flow comes to its class; may be repeated
    #[arg(long, default_value = "auto")]
    class: Vec<Class>,
    /// How long each flow runs. Default: 25, and 60 for an automatic flow over links whose delays differ much
    #[arg(long, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: Option<u32>,
    /// Repetitions, of which the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    reps: u32,
    /// End standard output with one line of JSON for each profile, flow and class
    #[arg(long)]
    json: bool,
}

/// Builds release binaries, measures and reports.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let profiles = profiles(options)?;
    super::prepare(workspace)?;
    let directory = workspace.target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;

    println!("{:.0} % of the processors idle before the first run", idle::check()? * 100.0);
    let step = Step::start("aggregate");
    let mut cases = Vec::new();
    for profile in &profiles {
        for class in &options.class {
            let mut stage = Stage { profile, class: *class, scene: None, ports: PORTS.cycle() };
            for flow in flows(options) {
                let case = stage.measure(flow, options, &step);
                plot::draw(&case, &picture(&directory, &case))?;
                cases.push(case);
                // Whoever interrupts this keeps what is done.
                write(&directory.join("aggregate.json"), &cases)?;
            }
        }
    }
    step.done(&format!("JSON and pictures are in {}", directory.display()));

    println!("\nOne flow: goodput in Mbit/s, round trips in ms, times in s; medians of {}\n{HEADER}", options.reps);
    for case in &cases {
        println!("{}", case.row());
    }
    if options.json {
        for case in &cases {
            println!("{}", Value::from(case.json()));
        }
    }
    match cases.iter().map(Case::failed).sum::<u32>() {
        0 => Ok(()),
        failed => bail!("{failed} repetitions could not be measured: see above"),
    }
}

fn profiles(options: &Options) -> Result<Vec<Profile>> {
    if let Some(links) = &options.links {
        return Ok(vec![Profile::from_links(links)?]);
    }
    match (&options.file, &options.profile[..]) {
        (None, []) => Profile::all(),
        (None, names) => names.iter().map(|name| Profile::named(name)).collect(),
        (Some(file), []) => Profile::all_in(file),
        (Some(file), names) => names.iter().map(|name| Profile::from_file(file, name)).collect(),
    }
}

fn flows(options: &Options) -> Vec<Flow> {
    match &options.flow[..] {
        [] => vec![Flow::TcpCubic, Flow::TcpBbr, Flow::Quic, Flow::Udp],
        flows => flows.to_vec(),
    }
}

/// A profile's lab, as long as it works.
struct Stage<'profile> {
    profile: &'profile Profile,
    class: Class,
    scene: Option<Scene>,
    ports: Cycle<RangeInclusive<u16>>,
}

impl Stage<'_> {
    fn measure(&mut self, flow: Flow, options: &Options, step: &Step) -> Case {
        let seconds = options.seconds.unwrap_or_else(|| self.seconds());
        let single_seconds = options.seconds.unwrap_or(SECONDS);
        let mut case = Case::new(self.profile, flow, self.class, seconds);
        let mut known_port = None;
        for repetition in 1..=options.reps {
            step.note(&format!("{}: {repetition} of {}", case.name(), options.reps));
            if let Err(error) = self.repeat(&mut case, single_seconds, &mut known_port, step) {
                step.note(&format!("FAILED: {}: {error:#}", case.name()));
                case.fail();
                // A lab where something went wrong is not used again.
                (self.scene, known_port) = (None, None);
            }
        }
        case
    }

    /// Each link alone, then all of them.
    fn repeat(&mut self, case: &mut Case, seconds: u32, known_port: &mut Option<u16>, step: &Step) -> Result<()> {
        if self.scene.is_none() {
            self.scene = Some(Scene::new(self.profile, self.class)?);
        }
        let scene = self.scene.as_ref().context("a lab was made")?;
        let mut port = || self.ports.next().context("there are ports");
        for link in 0..self.profile.links.len() {
            let trial = Trial { flow: case.flow, link: Some(link), port: port()?, seconds };
            let outcome = trial.run(scene, self.profile, step)?;
            let mbps = case.add_single(link, seconds, &outcome);
            step.note(&format!("{}: {mbps:.2} Mbit/s", trial.way()));
        }
        let mut bond = Trial { flow: case.flow, link: None, port: port()?, seconds: case.seconds };
        if self.class == Class::Remembered {
            if known_port.is_none() {
                step.note("a flow from which the tunnel can learn its destination");
                Trial { seconds: LONG, ..bond }.run(scene, self.profile, step)?;
            }
            bond.port = *known_port.get_or_insert(bond.port);
        }
        let mbps = case.add_bond(bond.run(scene, self.profile, step)?);
        step.note(&format!("{}: {mbps:.2} Mbit/s", bond.way()));
        Ok(())
    }

    fn seconds(&self) -> u32 {
        let delays = || self.profile.links.iter().map(|link| link.delay);
        let differ_much = delays().fold(0.0, f64::max) > 2.0 * delays().fold(f64::INFINITY, f64::min);
        if self.class == Class::Auto && differ_much { LONG } else { SECONDS }
    }
}

fn picture(directory: &Path, case: &Case) -> PathBuf {
    let plain = |text: &str| text.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    let name = [&case.profile.name, case.flow.name(), case.class.name()].map(plain).join("-");
    directory.join(format!("aggregate-{name}.svg"))
}

fn write(file: &Path, cases: &[Case]) -> Result<()> {
    let all = json!(cases.iter().map(Case::json_with_runs).collect::<Vec<_>>());
    fs::write(file, all.to_string()).with_context(|| format!("cannot write {}", file.display()))
}
