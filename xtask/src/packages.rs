//! Programs that building, testing and the demo call, and the Debian packages that bring them.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{as_root, find_program, run_in_step};
use crate::progress::Step;

/// Programs needed, each with its package in Debian and Ubuntu.
const PROGRAMS: [(&str, &str); 12] = [
    ("bpftool", "bpftool"),
    ("c++", "g++"),
    ("cc", "gcc"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// Programs that measurements beside others call: what the tunnel is compared with.
const MEASURED_BESIDE: [(&str, &str); 2] = [("openssl", "openssl"), ("openvpn", "openvpn")];

/// Programs that bonds of other kinds call, which are measured beside the tunnel.
const BONDED_BESIDE: [(&str, &str); 3] = [("mptcpize", "mptcpize"), ("openssl", "openssl"), ("openvpn", "openvpn")];

/// Programs that make and run virtual machines. The guest runs busybox before it sees a library.
const VIRTUAL_MACHINE: [(&str, &str); 4] =
    [("busybox", "busybox-static"), ("dpkg-deb", "dpkg"), ("qemu-system-x86_64", "qemu-system-x86"), ("tar", "tar")];

/// Installs the packages of missing programs.
pub(crate) fn programs() -> Result<()> {
    provide("programs", &PROGRAMS)
}

/// Installs the packages of missing programs that are measured beside the tunnel.
pub(crate) fn measured_beside() -> Result<()> {
    provide("programs to compare with", &MEASURED_BESIDE)
}

/// Installs the packages of missing programs that other bonds need.
pub(crate) fn bonded_beside() -> Result<()> {
    provide("bonds to compare with", &BONDED_BESIDE)
}

/// Installs the packages of missing programs that virtual machines need.
pub(crate) fn virtual_machine() -> Result<()> {
    provide("programs for virtual machines", &VIRTUAL_MACHINE)
}

fn provide(name: &'static str, programs: &[(&str, &'static str)]) -> Result<()> {
    let step = Step::start(name);
    let packages = missing(programs);
    if packages.is_empty() {
        step.done(&format!("all {} there", programs.len()));
        return Ok(());
    }
    install(&packages, &step)?;
    let still_missing = missing(programs);
    if !still_missing.is_empty() {
        bail!("installed, but their programs are not in PATH: {}", still_missing.join(" "));
    }
    step.done(&format!("installed {}", packages.join(" ")));
    Ok(())
}

fn missing(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    programs.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect()
}

/// Installs Debian packages. The error of a machine without apt names them.
pub(crate) fn install(packages: &[&str], step: &Step) -> Result<()> {
    let by_hand = || format!("install by hand what Debian calls: {}", packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!("there is no apt-get on this machine: {}", by_hand());
    }
    update(step).with_context(by_hand)?;
    let mut apt = as_root("apt-get").with_context(by_hand)?;
    // Debian's rustc-web conflicts with rustc: nothing of the user's is removed for us.
    apt.args(["install", "-oDPkg::Lock::Timeout=120", "--yes", "--no-remove", "--no-install-recommends"])
        .args(packages);
    run_in_step(apt.env("DEBIAN_FRONTEND", "noninteractive"), step).with_context(by_hand)
}

/// Whether apt knows a package that can be installed.
pub(crate) fn available(package: &str) -> bool {
    let apt_cache =
        Command::new("apt-cache").args(["show", package]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    apt_cache.is_ok_and(|status| status.success())
}

/// Fetches the lists of packages.
pub(crate) fn update(step: &Step) -> Result<()> {
    run_in_step(as_root("apt-get")?.arg("update"), step)
}
