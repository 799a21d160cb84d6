//! Whether the kernel has what the data plane is made of. Changes nothing.

use std::{error::Error, io};

use anyhow::{Context, Result};
use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{is_map_supported, is_program_supported},
};

/// The kinds of programs of the data plane.
const PROGRAMS: [(ProgramType, &str); 2] =
    [(ProgramType::SchedClassifier, "TC programs"), (ProgramType::Xdp, "XDP programs")];
/// The kinds of maps of the data plane that a kernel may lack.
const MAPS: [(MapType, &str); 5] = [
    (MapType::LpmTrie, "longest-prefix maps"),
    (MapType::LruHash, "LRU hash maps"),
    (MapType::PerCpuArray, "per-CPU arrays"),
    (MapType::PerCpuHash, "per-CPU hash maps"),
    (MapType::RingBuf, "ring buffers"),
];

/// The kinds of programs and maps that the kernel does not have, as they are called in a report.
///
/// # Errors
/// The bpf system call is refused.
pub fn missing_kinds() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (kind, name) in PROGRAMS {
        if !is_program_supported(kind).with_context(|| format!("can't try {name}"))? {
            missing.push(name);
        }
    }
    for (kind, name) in MAPS {
        if !is_map_supported(kind).with_context(|| format!("can't try {name}"))? {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Whether TC programs can be attached by links (TCX, Linux 6.6): the loopback device of the calling thread's namespace
/// is asked for its own.
///
/// # Errors
/// The bpf system call is refused.
pub fn has_tcx() -> Result<bool> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map_err(anyhow::Error::from) {
        Ok(_) => Ok(true),
        Err(error) if error.chain().any(is_refusal) => Err(error.context("can't ask for TCX programs")),
        // An older kernel does not know the attach type (EINVAL).
        Err(_) => Ok(false),
    }
}

/// Whether the kernel with this version (as `uname -v` says) lets the packets of one processor interrupt each other. The
/// programs' memory for the packet at hand is one for each processor, and takes that they do not.
pub fn is_real_time(version: &str) -> bool {
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::is_real_time;

    #[test]
    fn real_time_kernels_say_so() {
        assert!(is_real_time("#1 SMP PREEMPT_RT Debian 6.1.99-1 (2024-07-15)"));
        assert!(!is_real_time("#1 SMP PREEMPT_DYNAMIC Mon Nov  2 12:00:00 UTC 2026"));
    }
}
