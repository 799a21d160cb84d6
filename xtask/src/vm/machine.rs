//! The virtual machine: one run of qemu.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs::Archive;
use super::kernel::Kernel;
use super::text;
use crate::command::{find_program, shell_words};
use crate::workspace::Workspace;

/// What the guest does when the kernel has booted.
const INIT: &str = include_str!("init.sh");
/// Modules of the kernel that the guest cannot get from the machine's files, because they let it see these.
const EARLY_MODULES: [&str; 6] = ["drivers/virtio", "fs/9p", "fs/fscache", "fs/netfs", "fs/overlayfs", "net/9p"];
/// Port to which the guest writes the exit code, in [`INIT`] too.
const EXIT_PORT: u16 = 0xf4;
const MEMORY: &str = "3G";
/// Lines of the kernel's log that an error quotes.
const QUOTED_LINES: usize = 30;

/// A machine that is not switched on yet.
pub(super) struct Machine<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) kernel: &'a Kernel,
    /// The longest that it may run.
    pub(super) longest: Duration,
}

impl Machine<'_> {
    /// Runs a command line in the work tree's directory; its output is this process's. Returns its exit code.
    pub(super) fn run(&self, command: &str) -> Result<u8> {
        let directory = self.workspace.target().join("vm");
        let lock = directory.join("lock");
        let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
        // An emulated machine keeps a processor busy: one at a time.
        lock.lock().context("cannot wait for the other machine")?;
        let initramfs = directory.join("initramfs");
        fs::write(&initramfs, self.initramfs(command)?)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        let log = directory.join("kernel.log");
        let _ = fs::remove_file(&log);
        let status = self.wait(self.qemu(&initramfs, &log)?)?;
        match status.code() {
            // See the end of `INIT`.
            Some(code @ 3..) => Ok(u8::try_from((code - 3) / 2).unwrap_or(u8::MAX)),
            _ => bail!("the machine ended before the command did: {status}\n{}", end(&log)),
        }
    }

    /// What the guest boots with.
    fn initramfs(&self, command: &str) -> Result<Vec<u8>> {
        let modules = self.kernel.modules();
        let root = text(self.workspace.root())?;
        let command = format!("cd {} && {command}", shell_words(&[root]));
        let variables =
            [("MODULES", text(modules.parent().unwrap_or(Path::new("/")))?), ("COMMAND", &command), ("HOME", "/root")];
        let mut init = String::from("#!/bin/sh\n");
        for (name, value) in variables {
            let _ = writeln!(init, "{name}='{}'", value.replace('\'', r"'\''"));
        }
        init += INIT;
        let mut archive = Archive::default();
        archive.directories(&["bin", "sbin", "dev", "proc", "sys", "host", "changes", "machine", "lib", "lib/modules"]);
        archive.program("init", init.as_bytes());
        let busybox = find_program("busybox").context("there is no busybox")?;
        archive.tree("bin/busybox", &busybox)?;
        archive.link("bin/sh", "busybox");
        archive.link("sbin/modprobe", "/bin/busybox");
        let place = format!("lib/modules/{}", self.kernel.release);
        archive.directories(&[&place, &format!("{place}/kernel")]);
        for directory in ["drivers", "fs", "net"] {
            archive.directories(&[&format!("{place}/kernel/{directory}")]);
        }
        archive.tree(&format!("{place}/modules.dep"), &modules.join("modules.dep"))?;
        for directory in EARLY_MODULES {
            let from = modules.join("kernel").join(directory);
            // Which there are differs between kernels.
            if from.exists() {
                archive.tree(&format!("{place}/kernel/{directory}"), &from)?;
            }
        }
        Ok(archive.finish())
    }

    fn qemu(&self, initramfs: &Path, log: &Path) -> Result<Command> {
        let mut qemu = Command::new("nice");
        qemu.args(["-n", "19", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-nic", "none", "-no-reboot", "-accel", "tcg", "-cpu", "max", "-m", MEMORY])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            // A panic ends it at once.
            .args(["-append", "console=ttyS0 panic=-1"])
            .args(["-serial", &format!("file:{}", text(log)?)])
            .args(["-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"])
            .args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT},iosize=1")])
            .args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"])
            .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
            .stdin(Stdio::null());
        Ok(qemu)
    }

    fn wait(&self, mut qemu: Command) -> Result<ExitStatus> {
        let started = Instant::now();
        let mut child = qemu.spawn().context("cannot run qemu")?;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for qemu")? {
                return Ok(status);
            }
            if started.elapsed() > self.longest {
                child.kill().and_then(|()| child.wait()).context("cannot end qemu")?;
                bail!("the command takes longer than {} s: see --seconds", self.longest.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The end of the kernel's log.
fn end(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}
