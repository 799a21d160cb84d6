//! What every tunnel needs of the machine: kernel, BPF, rights, clock.

use std::{fs, io, path::Path, time::SystemTime};

use nix::sys::{
    statfs::{BPF_FS_MAGIC, FsType, statfs},
    utsname::uname,
};

use super::check::Check;
use crate::dataplane::{has_tcx, is_real_time, missing_kinds};

/// The oldest kernel that the programs are verified on.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// 2026-01-01 00:00 UTC, seconds since the epoch.
const YEAR_2026: u64 = 1_767_225_600;

/// Numbers of capabilities (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Checks the machine that this runs on.
pub(super) fn check(bpffs: &Path) -> Vec<Check> {
    let (release, version) = uname()
        .map(|name| (name.release().to_string_lossy().into_owned(), name.version().to_string_lossy().into_owned()))
        .unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    vec![
        kernel(&release),
        preemption(&version),
        capabilities(&status),
        programs(missing_kinds()),
        tcx(has_tcx()),
        jit(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok().as_deref()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        file_system(bpffs, statfs(bpffs).map(|status| status.filesystem_type()).map_err(io::Error::from)),
        clock(now),
    ]
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let (least_major, least_minor) = KERNEL_MIN;
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_MIN => Check::ok("kernel", release),
        _ => Check::fail("kernel", release, format!("run Linux {least_major}.{least_minor} or newer")),
    }
}

fn preemption(version: &str) -> Check {
    if is_real_time(version) {
        Check::fail(
            "preemption",
            "PREEMPT_RT: the packets of one processor interrupt each other, and would mix in the programs' memory",
            "run a kernel without PREEMPT_RT",
        )
    } else {
        Check::ok("preemption", "no packet interrupts another one on its processor")
    }
}

fn capabilities(status: &str) -> Check {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if missing.is_empty() {
        Check::ok("rights", "CAP_BPF, CAP_NET_ADMIN")
    } else {
        Check::fail("rights", format!("no {}", missing.join(", no ")), "run mpvpn as root")
    }
}

fn programs(missing: anyhow::Result<Vec<&str>>) -> Check {
    match missing {
        Ok(missing) if missing.is_empty() => Check::ok("BPF", "programs and maps of all kinds needed"),
        Ok(missing) => Check::fail(
            "BPF",
            format!("no {}", missing.join(", no ")),
            "run a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT",
        ),
        Err(error) => refused("BPF", &error),
    }
}

fn tcx(there: anyhow::Result<bool>) -> Check {
    match there {
        Ok(true) => Check::ok("TCX", "programs can be replaced while packets flow"),
        Ok(false) => Check::warn(
            "TCX",
            "not there: programs are attached as filters of a clsact qdisc, which other programs may remove",
            "run Linux 6.6 or newer",
        ),
        Err(error) => refused("TCX", &error),
    }
}

fn refused(subject: &str, error: &anyhow::Error) -> Check {
    Check::fail(subject, format!("the kernel refuses: {error:#}"), "run mpvpn as root, outside a sandbox")
}

fn jit(enabled: Option<&str>) -> Check {
    match enabled.map(str::trim) {
        Some("0") => Check::warn(
            "BPF JIT",
            "off: each packet costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Check::ok("BPF JIT", "on"),
        // The sysctl is registered in the first network namespace alone (net/core/sysctl_net_core.c).
        None => Check::ok("BPF JIT", "not told in this network namespace"),
    }
}

fn btf(there: bool) -> Check {
    if there {
        Check::ok("BTF", "/sys/kernel/btf/vmlinux")
    } else {
        Check::fail(
            "BTF",
            "no /sys/kernel/btf/vmlinux",
            "run a kernel with CONFIG_DEBUG_INFO_BTF, or mount sysfs on /sys",
        )
    }
}

fn file_system(bpffs: &Path, mounted: io::Result<FsType>) -> Check {
    let bpffs = bpffs.display();
    match mounted {
        Ok(kind) if kind == BPF_FS_MAGIC => Check::ok("bpffs", bpffs.to_string()),
        Ok(_) => Check::ok("bpffs", format!("not mounted on {bpffs} yet, `mpvpn up` does it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::warn(
            "bpffs",
            format!("there is no {bpffs}"),
            format!("mkdir -p {bpffs}, or name another by --bpffs"),
        ),
        Err(error) => Check::fail("bpffs", format!("{bpffs}: {error}"), "name another directory by --bpffs"),
    }
}

fn clock(seconds: u64) -> Check {
    if seconds < YEAR_2026 {
        Check::fail(
            "clock",
            "before 2026: peers take a handshake for a recorded one when its time lies before the last one's",
            "set the clock before mpvpn starts, for instance by NTP; it must not go backwards over a reboot",
        )
    } else {
        Check::ok("clock", "after 2026")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::check::Verdict, *};

    #[test]
    fn kernels() {
        for (release, verdict) in [
            ("6.1.0-18-amd64", Verdict::Ok),
            ("6.18.5", Verdict::Ok),
            ("7.0-rc1", Verdict::Ok),
            ("6.0.19", Verdict::Fail),
            ("5.15.0-101-generic", Verdict::Fail),
            ("", Verdict::Fail),
        ] {
            assert_eq!(kernel(release).verdict(), verdict, "{release}");
        }
    }

    #[test]
    fn preemptions() {
        assert_eq!(preemption("#1 SMP PREEMPT_RT").verdict(), Verdict::Fail);
        assert_eq!(preemption("#1 SMP PREEMPT_DYNAMIC").verdict(), Verdict::Ok);
    }

    #[test]
    fn rights() {
        let with = |bits: u64| capabilities(&format!("Name:\tmpvpn\nCapEff:\t{bits:016x}\n"));
        assert_eq!(with(1 << 12 | 1 << 39).verdict(), Verdict::Ok);
        assert_eq!(with(1 << 12 | 1 << 21).verdict(), Verdict::Ok);
        assert_eq!(with(1 << 12), Check::fail("rights", "no CAP_BPF", "run mpvpn as root"));
        assert_eq!(with(0), Check::fail("rights", "no CAP_BPF, no CAP_NET_ADMIN", "run mpvpn as root"));
        assert_eq!(capabilities("").verdict(), Verdict::Fail);
    }

    #[test]
    fn bpf() {
        assert_eq!(programs(Ok(vec![])).verdict(), Verdict::Ok);
        assert_eq!(programs(Ok(vec!["ring buffers"])).verdict(), Verdict::Fail);
        assert_eq!(programs(Err(anyhow::anyhow!("denied"))).verdict(), Verdict::Fail);
        assert_eq!(tcx(Ok(false)).verdict(), Verdict::Warn);
        assert_eq!(btf(false).verdict(), Verdict::Fail);
    }

    #[test]
    fn jits() {
        assert_eq!(jit(Some("0\n")).verdict(), Verdict::Warn);
        assert_eq!(jit(Some("1\n")).verdict(), Verdict::Ok);
        assert_eq!(jit(None).verdict(), Verdict::Ok);
    }

    #[test]
    fn clocks() {
        assert_eq!(clock(0).verdict(), Verdict::Fail);
        assert_eq!(clock(YEAR_2026 - 1).verdict(), Verdict::Fail);
        assert_eq!(clock(YEAR_2026).verdict(), Verdict::Ok);
    }

    #[test]
    fn file_systems() {
        let judge = |result| file_system(Path::new("/run/bpf"), result).verdict();
        assert_eq!(judge(Ok(BPF_FS_MAGIC)), Verdict::Ok);
        assert_eq!(judge(Ok(nix::sys::statfs::TMPFS_MAGIC)), Verdict::Ok);
        assert_eq!(judge(Err(io::ErrorKind::NotFound.into())), Verdict::Warn);
        assert_eq!(judge(Err(io::ErrorKind::PermissionDenied.into())), Verdict::Fail);
    }
}
