//! What tests must not leave behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where each running lab has a directory `<pid>-<n>`.
const LABS: &str = "/run/mpvpn-lab";

/// What labs and tunnels have left on this machine: namespaces, directories and mounts of labs whose
/// process has ended, pins in the machine's own bpffs, and daemons that run `mpvpn` without a parent.
pub(crate) fn present(mpvpn: &Path) -> BTreeSet<String> {
    let namespaces = names("/run/netns")
        .filter(|name| name.strip_prefix("mpl-").is_some_and(is_of_ended_process))
        .map(|name| format!("network namespace {name}"));
    let directories =
        names(LABS).filter(|name| is_of_ended_process(name)).map(|name| format!("directory {LABS}/{name}"));
    let pins = names("/sys/fs/bpf/mpvpn").map(|name| format!("pins /sys/fs/bpf/mpvpn/{name}"));
    let daemons = names("/proc")
        .filter(|process| is_orphan_of(process, mpvpn))
        .map(|process| format!("process {process}, which runs {}", mpvpn.display()));
    namespaces.chain(directories).chain(mounts()).chain(pins).chain(daemons).collect()
}

/// Names in a directory; none where there is no such directory.
fn names(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let of_labs = points.filter(|point| {
        let below = Path::new(point).strip_prefix(LABS);
        below.is_ok_and(|below| is_of_ended_process(&below.to_string_lossy()))
    });
    of_labs.map(|point| format!("mount {point}")).collect()
}

/// Whether a name `<pid>-...` is of a process that runs no more: another lab may run at the same time.
fn is_of_ended_process(name: &str) -> bool {
    let process = name.split('-').next().unwrap_or_default();
    !Path::new("/proc").join(process).exists() || process.is_empty()
}

/// Whether a process runs the binary and has lost its parent to init.
fn is_orphan_of(process: &str, binary: &Path) -> bool {
    let runs = fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe == binary);
    let status = || fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    runs && status().lines().any(|line| line == "PPid:\t1")
}
