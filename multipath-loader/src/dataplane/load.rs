//! Loads the programs into the kernel, with the tunnel's pinned maps.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use aya_log::EbpfLogger;
use multipath_common::maps::{Capacity, PINNED};
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

/// The eBPF object that `cargo xtask build` made, or nothing.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/multipath.o"));

/// Program for the ingress of `mp0-port`.
pub(super) const EGRESS: &str = "egress";
/// Program for the egress of `mp0`.
pub(super) const STEER: &str = "steer";
/// Program for the ingress of `mp0`.
pub(super) const DELIVERED: &str = "delivered";
/// Program for the ingress of uplinks with Ethernet headers.
pub(super) const INGRESS_TC: &str = "ingress_tc";
/// Program for the ingress of uplinks without link-layer header.
pub(super) const INGRESS_TC_RAW: &str = "ingress_tc_raw";
/// Program for the XDP hook of uplinks whose driver has it.
pub(super) const INGRESS_XDP: &str = "ingress_xdp";
/// Program for the XDP hook in the kernel's stack.
pub(super) const INGRESS_XDP_GENERIC: &str = "ingress_xdp_generic";

/// The programs, loaded, with their maps pinned.
pub struct LoadedPrograms {
    ebpf: Ebpf,
}

impl LoadedPrograms {
    /// Loads all programs. Maps that are pinned in `maps` are used as they are, others are made and pinned there.
    pub fn load(maps: &Path, capacity: Capacity) -> Result<Self> {
        if OBJECT.is_empty() {
            bail!("this mpvpn was built without its eBPF programs: build it with `cargo xtask build`");
        }
        let mut loader = EbpfLoader::new();
        for (name, _) in PINNED {
            loader.map_pin_path(name, maps.join(name));
        }
        for (name, entries) in capacity.max_entries() {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(OBJECT).context("the kernel refused the maps: see `mpvpn doctor`")?;
        for (name, program) in ebpf.programs_mut() {
            load_program(program).with_context(|| format!("the kernel refused the program {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Passes the programs' log lines on to `tracing`, as long as the runtime lives.
    pub fn follow_log(&mut self) -> Result<()> {
        let logger = EbpfLogger::init(&mut self.ebpf).context("can't read the programs' log")?;
        // SAFETY: the logger owns its ring buffer's descriptor, and does not change or close it before it is dropped.
        let mut logger = unsafe { AsyncFd::register(logger) }.context("can't wait for the programs' log")?;
        tokio::spawn(async move {
            loop {
                match logger.readable_mut().await {
                    Ok(mut ready) => {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                    Err(error) => {
                        warn!("the programs' log ends here: {error}");
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    /// Instructions that the verifier walked through for each program.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        self.ebpf
            .programs()
            .map(|(name, program)| {
                let info = program.info().with_context(|| format!("can't ask about the program {name}"))?;
                Ok((name.to_owned(), info.verified_instruction_count().unwrap_or(0)))
            })
            .collect()
    }

    /// A TC program, for attaching or for a test run.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        program.try_into().with_context(|| format!("the program {name} is not for TC"))
    }

    /// The XDP program for drivers, for attaching or for a test run.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        self.xdp_named(INGRESS_XDP)
    }

    /// The XDP program for the kernel's stack, for attaching or for a test run.
    pub fn xdp_generic(&mut self) -> Result<&mut Xdp> {
        self.xdp_named(INGRESS_XDP_GENERIC)
    }

    fn xdp_named(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        program.try_into().with_context(|| format!("the program {name} is not for XDP"))
    }
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        other => {
            debug!("not loaded: {:?}", other.prog_type());
            Ok(())
        }
    }
}
