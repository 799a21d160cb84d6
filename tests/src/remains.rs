//! What a lab leaves on the machine, found by name, and its removal: the same for a lab that is dropped, interrupted or was killed.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::lab::{LabId, ROOT, lock_root};
use crate::namespace::NETNS_DIRECTORY;

const PINS: &str = "/sys/fs/bpf/mpvpn";
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Everything that is left of a lab. [`Leftovers::is_empty`] is what a test asserts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// Names of network namespaces.
    pub namespaces: Vec<String>,
    /// Processes in those namespaces: id and command.
    pub processes: Vec<String>,
    /// Mount points in the lab's directory.
    pub mounts: Vec<PathBuf>,
    /// Directories of the lab.
    pub directories: Vec<PathBuf>,
    /// Network devices that the machine's own namespace has and had not before the lab.
    pub devices: Vec<String>,
    /// Pins below `/sys/fs/bpf/mpvpn` that were not there before the lab.
    pub pins: Vec<PathBuf>,
}

impl Leftovers {
    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is left of all labs that process `pid` made. Knows nothing of devices and pins.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::matching(|id| id.pid == pid)
    }

    pub(crate) fn of(lab: LabId, before: &Host) -> Result<Self> {
        let now = Host::look()?;
        Ok(Self {
            devices: now.devices.difference(&before.devices).cloned().collect(),
            pins: now.pins.difference(&before.pins).cloned().collect(),
            ..Self::matching(|id| id == lab)?
        })
    }

    fn matching(is_meant: impl Fn(LabId) -> bool) -> Result<Self> {
        let namespaces: Vec<String> =
            namespaces()?.into_iter().filter(|(id, _)| is_meant(*id)).map(|(_, name)| name).collect();
        let processes = processes(&namespaces)?.into_iter().map(|pid| format!("{pid} {}", command_of(pid))).collect();
        let directories: Vec<PathBuf> =
            directories()?.into_iter().filter(|id| is_meant(*id)).map(LabId::directory).collect();
        let mounts = mounts()?
            .into_iter()
            .filter(|mount| directories.iter().any(|directory| mount.starts_with(directory)))
            .collect();
        Ok(Self { namespaces, processes, mounts, directories, ..Self::default() })
    }
}

/// What the machine has outside of labs, to tell what a lab has added.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    devices: BTreeSet<String>,
    pins: BTreeSet<PathBuf>,
}

impl Host {
    pub(crate) fn look() -> Result<Self> {
        let devices = entries(Path::new("/sys/class/net"))?.into_iter().collect();
        let mut pins = BTreeSet::new();
        let mut open = vec![PathBuf::from(PINS)];
        while let Some(directory) = open.pop() {
            for name in entries(&directory)? {
                let path = directory.join(name);
                if path.is_dir() {
                    open.push(path.clone());
                }
                pins.insert(path);
            }
        }
        Ok(Self { devices, pins })
    }
}

/// Removes all labs whose process is dead. The caller holds the lock of [`ROOT`].
pub(crate) fn sweep() -> Result<()> {
    let mut labs: BTreeSet<LabId> = directories()?.into_iter().collect();
    labs.extend(namespaces()?.into_iter().map(|(id, _)| id));
    for id in labs {
        if !is_alive(id)? {
            erase(id)?;
        }
    }
    Ok(())
}

/// Removes the lab, whatever there is of it.
pub(crate) fn remove(id: LabId) -> Result<()> {
    let _root = lock_root()?;
    erase(id)?;
    match fs::remove_dir(ROOT) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
            Err(error).with_context(|| format!("cannot remove {ROOT}"))
        }
        _ => Ok(()),
    }
}

fn erase(id: LabId) -> Result<()> {
    let namespaces: Vec<String> =
        namespaces()?.into_iter().filter(|(lab, _)| *lab == id).map(|(_, name)| name).collect();
    end_processes(&namespaces)?;
    let directory = id.directory();
    for mount in mounts()?.into_iter().rev().filter(|mount| mount.starts_with(&directory)) {
        umount2(&mount, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    for name in namespaces {
        let path = Path::new(NETNS_DIRECTORY).join(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not mounted: killed between making the file and mounting the namespace on it.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
        }
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn end_processes(namespaces: &[String]) -> Result<()> {
    let start = Instant::now();
    loop {
        let alive = processes(namespaces)?;
        if alive.is_empty() {
            return Ok(());
        }
        if start.elapsed() > KILL_PATIENCE {
            bail!("processes {alive:?} in {namespaces:?} do not die of SIGKILL");
        }
        for pid in alive {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot kill process {pid}")),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_alive(id: LabId) -> Result<bool> {
    let directory = id.directory();
    let lock = match File::open(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(|| format!("cannot open {}", directory.display()))?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", directory.display())),
    }
}

fn namespaces() -> Result<Vec<(LabId, String)>> {
    let lab_of = |name: &str| {
        let mut parts = name.strip_prefix("mpl-")?.splitn(3, '-');
        LabId::parse(&format!("{}-{}", parts.next()?, parts.next()?))
    };
    Ok(entries(Path::new(NETNS_DIRECTORY))?.into_iter().filter_map(|name| Some((lab_of(&name)?, name))).collect())
}

fn directories() -> Result<Vec<LabId>> {
    Ok(entries(Path::new(ROOT))?.iter().filter_map(|name| LabId::parse(name)).collect())
}

/// Processes whose main thread is in one of the namespaces, this process apart.
fn processes(namespaces: &[String]) -> Result<Vec<i32>> {
    let inodes: Vec<(u64, u64)> = namespaces
        .iter()
        .filter_map(|name| fs::metadata(Path::new(NETNS_DIRECTORY).join(name)).ok())
        .map(|file| (file.dev(), file.ino()))
        .collect();
    let is_in_one = |pid: &i32| {
        // A process may end while we look: then it is in none.
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|file| inodes.contains(&(file.dev(), file.ino())))
    };
    let own = std::process::id().cast_signed();
    let all = entries(Path::new("/proc"))?.into_iter().filter_map(|name| name.parse::<i32>().ok());
    Ok(all.filter(|pid| *pid != own).filter(is_in_one).collect())
}

fn command_of(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// Mount points in the order in which they were mounted; the fifth field of a line of mountinfo.
fn mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// Names in a directory; none where the directory is missing.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    Ok(read.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}
