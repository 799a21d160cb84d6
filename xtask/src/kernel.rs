//! What the running kernel must offer to the data plane and the lab.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::command::{as_root, run_in_step};
use crate::progress::Step;

/// The oldest kernel with everything that the programs call.
const OLDEST: (u32, u32) = (6, 1);

const BPFFS: &str = "/sys/fs/bpf";

/// Checks the kernel's features; the error names all that are missing.
pub(crate) fn check() -> Result<()> {
    let step = Step::start("kernel");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's version: is /proc mounted?")?;
    as_root("unshare").context("the data plane and the lab need root")?;
    let checks = [
        (new_enough(&release), "is too old", "use Linux 6.1 or newer"),
        (has_bpf(), "has no BPF", "use a kernel with CONFIG_BPF_SYSCALL=y"),
        (Path::new("/sys/kernel/btf/vmlinux").exists(), "has no BTF", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        (
            makes(&["link", "add", "trial", "type", "veth"]),
            "makes no veth pair in a network namespace",
            "`modprobe veth`; in a container give it CAP_SYS_ADMIN and CAP_NET_ADMIN",
        ),
        (
            makes(&["tuntap", "add", "mode", "tap", "name", "trial"]),
            "makes no TAP device in a network namespace",
            "`modprobe tun`; in a container give it /dev/net/tun",
        ),
    ];
    let release = release.trim();
    let failed: Vec<String> = checks
        .iter()
        .filter(|(ok, ..)| !ok)
        .map(|(_, what, remedy)| format!("kernel {release} {what}: {remedy}"))
        .collect();
    if !failed.is_empty() {
        bail!(failed.join("\n"));
    }
    step.done(&format!("{release} with BPF, BTF, TUN, veth, network namespaces"));
    Ok(())
}

fn new_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= OLDEST
}

fn has_bpf() -> bool {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf"))
}

/// Tries to make a device by iproute2, in a network namespace that ends with the trial.
fn makes(device: &[&str]) -> bool {
    let trial = as_root("unshare").and_then(|mut unshare| {
        unshare.args(["--net", "ip"]).args(device);
        Ok(unshare.stdin(Stdio::null()).stderr(Stdio::null()).status()?)
    });
    trial.is_ok_and(|status| status.success())
}

/// Mounts bpffs where it is not.
pub(crate) fn mount_bpffs() -> Result<()> {
    let step = Step::start("bpffs");
    if is_bpffs_mounted()? {
        step.done(&format!("mounted at {BPFFS}"));
        return Ok(());
    }
    let mut mount = as_root("mount")?;
    run_in_step(mount.args(["-t", "bpf", "bpf", BPFFS]), &step)
        .with_context(|| format!("mount it by hand: `mount -t bpf bpf {BPFFS}`"))?;
    step.done(&format!("now mounted at {BPFFS}"));
    Ok(())
}

fn is_bpffs_mounted() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    }))
}
