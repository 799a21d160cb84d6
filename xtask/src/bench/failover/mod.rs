//! `cargo xtask bench failover`: what a stream through the tunnel notices of a link that fails.

mod case;
mod figures;
mod mptcp;
mod scene;
mod trial;

use std::thread;

use anyhow::{Result, bail};

use self::case::{Case, Kind};
use self::figures::Figures;
use self::scene::Scene;
use self::trial::Outcome;
use super::{idle, report};
use crate::packages;
use crate::workspace::Workspace;

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// End standard output with one line of JSON for each case
    #[arg(long)]
    json: bool,
    /// Repetitions, of which the median and the worst count
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    reps: u32,
    /// Only this case; may be repeated
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// The case in which other tunnels were measured too, beside `OpenVPN` over Multipath TCP
    #[arg(long)]
    peers: bool,
}

/// Builds release binaries, measures and reports.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let plan = plan(options)?;
    super::prepare(workspace)?;
    if plan.iter().any(|case| case.kind == Kind::OpenVpnMptcp) {
        packages::bonded_beside()?;
    }

    println!("{:.0} % of the processors idle before the first run", idle::check()? * 100.0);
    figures::print_header();
    let mut stage = Stage::default();
    let mut all = Vec::new();
    for case in plan {
        let mut figures = Figures::new(&case);
        while figures.repetitions() < options.reps {
            let labs = (options.reps - figures.repetitions()).min(case.at_once);
            report::progress(figures.repetitions() + labs, options.reps, &case.name);
            stage.perform(&case, labs as usize)?.into_iter().for_each(|outcome| figures.add(outcome));
        }
        figures.print();
        all.push(figures);
    }
    drop(stage);
    if options.json {
        for figures in &all {
            println!("{}", figures.json());
        }
    }
    match all.iter().map(Figures::failed).sum::<u32>() {
        0 => Ok(()),
        failed => bail!("{failed} repetitions could not be measured: see above"),
    }
}

/// The cases that are wanted.
fn plan(options: &Options) -> Result<Vec<Case>> {
    let mut plan = Case::all();
    if !options.peers {
        plan.retain(|case| case.kind == Kind::Ours);
    }
    let names: Vec<&str> = plan.iter().map(|case| case.name.as_str()).collect();
    if let Some(unknown) = options.case.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        bail!("there is no case {unknown}, only {}", names.join(", "));
    }
    plan.retain(|case| options.case.is_empty() || options.case.contains(&case.name) || case.kind != Kind::Ours);
    Ok(plan)
}

/// The labs that are up. While something is measured in one of them, none comes up or goes.
#[derive(Default)]
struct Stage(Vec<Scene>);

impl Stage {
    /// Runs a case in so many labs at the same time. A lab where something goes wrong is not used again.
    fn perform(&mut self, case: &Case, labs: usize) -> Result<Vec<Result<Outcome>>> {
        self.0.retain(|scene| scene.suits(case));
        let idle = self.0.split_off(labs.min(self.0.len()));
        let mut slots: Vec<_> = self.0.drain(..).map(Some).collect();
        slots.resize_with(labs, || None);
        let scenes = in_parallel(slots, |scene| match scene {
            Some(scene) => scene.renew().map(|()| scene),
            None => Scene::new(case),
        });
        let loaded = scenes.iter().flatten().next().filter(|_| case.is_loaded);
        let others = loaded.map(Scene::occupy_processors).transpose()?;
        let performed = in_parallel(scenes, |scene| {
            let scene = scene?;
            trial::run(&scene, case).map(|outcome| (scene, outcome))
        });
        drop(others);
        let outcomes = performed.into_iter().map(|performed| {
            let (scene, outcome) = performed?;
            self.0.push(scene);
            Ok(outcome)
        });
        let outcomes = outcomes.collect();
        self.0.extend(idle);
        Ok(outcomes)
    }
}

fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(|| work(item))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, R>| thread.join();
        threads
            .into_iter()
            .map(|thread| join(thread).unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
