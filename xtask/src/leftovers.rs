//! What tests must not leave behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The lab's namespaces and mounts and the tunnels' pins that exist now.
pub(crate) fn present() -> BTreeSet<String> {
    let namespaces =
        names("/run/netns").filter(|name| name.starts_with("mpl-")).map(|name| format!("network namespace {name}"));
    let pins = names("/sys/fs/bpf/mpvpn").map(|name| format!("pins /sys/fs/bpf/mpvpn/{name}"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with("/run/mpvpn-lab"))
        .map(|point| format!("mount {point}"));
    namespaces.chain(pins).chain(mounts).collect()
}

/// Names in a directory; none where there is no such directory.
fn names(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
