//! The kernel's verifier walks a bounded number of instructions, and a careless line can double its walk. Each program
//! of the object therefore has a committed budget. `cargo xtask budget --update` writes it anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::Program;
use serde::{Deserialize, Serialize};

/// Percent that a new budget leaves above the count, because kernel versions count a little differently.
const HEADROOM_PERCENT: u32 = 10;

const HEADER: &str = "# Verified instructions that each eBPF program may cost the kernel's verifier to check.\n\
    # Written by `cargo xtask budget --update`; `cargo xtask budget` compares.\n\n";

#[derive(Deserialize, Serialize)]
struct Budget {
    verified_instructions: BTreeMap<String, u32>,
}

#[test]
fn programs_stay_within_their_budget() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
    let counted = count(&object())?;
    for (program, count) in &counted {
        println!("{program}: {count} verified instructions");
    }
    if env::var_os("MPVPN_BUDGET_UPDATE").is_some() {
        return write(&file, &counted);
    }

    let text = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}: `cargo xtask budget --update` writes it", file.display()))?;
    let budget: Budget = toml::from_str(&text).with_context(|| format!("{} is not a budget", file.display()))?;
    let complaints = compare(&counted, &budget.verified_instructions);
    ensure!(
        complaints.is_empty(),
        "{}: make the programs smaller, or `cargo xtask budget --update`\n{}",
        file.display(),
        complaints.join("\n")
    );
    Ok(())
}

/// The object that `mpvpn` embeds.
fn object() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/multipath.o");
    env::var_os("MPVPN_BPF_OBJECT").map_or(built, PathBuf::from)
}

/// Loads every program of an object, attached to nothing, and asks the kernel what its verifier walked.
fn count(object: &Path) -> Result<BTreeMap<String, u32>> {
    let mut ebpf = EbpfLoader::new()
        .load_file(object)
        .with_context(|| format!("cannot load the maps of {}: as root, after `cargo xtask build`", object.display()))?;
    let mut counted = BTreeMap::new();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            other => bail!("program {name} is of type {:?}, which this test cannot load", other.prog_type()),
        }
        .with_context(|| format!("the kernel refuses program {name}"))?;
        let info = program.info().with_context(|| format!("no information about program {name}"))?;
        let count = info.verified_instruction_count().context("this kernel does not tell verified instructions")?;
        counted.insert(name.to_owned(), count);
    }
    ensure!(!counted.is_empty(), "{} has no programs", object.display());
    Ok(counted)
}

fn compare(counted: &BTreeMap<String, u32>, budget: &BTreeMap<String, u32>) -> Vec<String> {
    let over = counted.iter().filter_map(|(program, count)| match budget.get(program) {
        None => Some(format!("{program} has no budget")),
        Some(budget) if count > budget => Some(format!("{program}: {count} verified instructions, budget {budget}")),
        Some(_) => None,
    });
    let gone = budget.keys().filter(|program| !counted.contains_key(*program));
    over.chain(gone.map(|program| format!("{program} has a budget but is not in the object"))).collect()
}

fn write(file: &Path, counted: &BTreeMap<String, u32>) -> Result<()> {
    let with_headroom = |count: u32| (count + count * HEADROOM_PERCENT / 100).next_multiple_of(100);
    let verified_instructions =
        counted.iter().map(|(program, count)| (program.clone(), with_headroom(*count))).collect();
    let text = toml::to_string(&Budget { verified_instructions }).context("cannot write the budget as TOML")?;
    fs::write(file, format!("{HEADER}{text}")).with_context(|| format!("cannot write {}", file.display()))
}
