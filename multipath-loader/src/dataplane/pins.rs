//! Where everything is pinned: the one place that knows the paths.
//!
//! ```text
//! <bpffs>/mpvpn/<tunnel>/            locked by the daemon
//! <bpffs>/mpvpn/<tunnel>/links/      one link for each attached program
//! <bpffs>/mpvpn/<tunnel>/<layout>/   one map for each name in multipath_common::maps::PINNED
//! ```

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use multipath_common::maps::{Capacity, layout};
use nix::{
    fcntl::{Flock, FlockArg, OFlag, open},
    mount::{MsFlags, mount},
    sys::{
        stat::{Mode, major, minor},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::{Pid, geteuid},
};

use super::clsact;

/// Directory of all tunnels in a bpffs.
const TUNNELS: &str = "mpvpn";
/// How often a daemon tries to lock its tunnel.
const LOCK_ATTEMPTS: u32 = 10;
/// How long it waits before it tries again.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Directory of a tunnel's links.
const LINKS: &str = "links";
/// Who can open a map can read the keys; who can open the tunnel's directory can lock it.
const OWNER_ONLY: u32 = 0o700;

/// The pins of one tunnel.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    directory: PathBuf,
}

/// The right to be a tunnel's daemon; ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct Lock {
    #[expect(dead_code, reason = "held for its drop")]
    lock: Flock<OwnedFd>,
}

impl Pins {
    /// The pins of the tunnel of this name in the bpffs at `bpffs`.
    pub fn new(bpffs: &Path, tunnel: &str) -> Self {
        Self { bpffs: bpffs.to_owned(), directory: bpffs.join(TUNNELS).join(tunnel) }
    }

    /// Whether the tunnel has any pins.
    ///
    /// # Errors
    /// This user may not know.
    pub fn exist(&self) -> Result<bool> {
        self.directory.try_exists().with_context(|| unreadable(&self.directory))
    }

    /// Mounts bpffs if it is not mounted, and makes the directories that the tunnel needs to be locked.
    pub fn prepare(&self) -> Result<()> {
        mount_bpffs(&self.bpffs)?;
        [self.bpffs.join(TUNNELS), self.directory.clone(), self.links()]
            .iter()
            .try_for_each(|path| make_directory(path))
    }

    /// Makes the directory of the maps of a layout. Only the daemon may: two layouts are an interrupted upgrade.
    pub fn prepare_maps(&self, capacity: Capacity) -> Result<PathBuf> {
        let maps = self.maps(capacity);
        make_directory(&maps)?;
        Ok(maps)
    }

    /// The directory of the maps of a layout.
    pub fn maps(&self, capacity: Capacity) -> PathBuf {
        self.directory.join(layout(capacity).to_string())
    }

    /// The directory of the links.
    pub fn links(&self) -> PathBuf {
        self.directory.join(LINKS)
    }

    /// Directories of maps, of this or another layout.
    pub fn layouts(&self) -> Result<Vec<PathBuf>> {
        let mut layouts = subdirectories(&self.directory)?;
        layouts.retain(|directory| *directory != self.links());
        Ok(layouts)
    }

    /// The one directory of maps that the programs use.
    ///
    /// # Errors
    /// The tunnel is not up, or this user may not know; or an upgrade was interrupted, and there are two.
    pub fn current_maps(&self) -> Result<PathBuf> {
        let layouts = if self.exist()? { self.layouts()? } else { Vec::new() };
        match layouts.as_slice() {
            [] => bail!("the tunnel {} is not up: no maps in {}", self.tunnel(), self.directory.display()),
            [maps] => Ok(maps.clone()),
            _ => bail!(
                "the tunnel {} has maps of several layouts in {}: an upgrade was interrupted; run `mpvpn up` to end it",
                self.tunnel(),
                self.directory.display()
            ),
        }
    }

    /// Removes the maps of one of [`Self::layouts`], which no program uses any more.
    pub fn remove_layout(&self, directory: &Path) -> Result<()> {
        ensure!(self.layouts()?.iter().any(|layout| layout == directory), "{} is no layout", directory.display());
        remove_directory(directory)
    }

    /// Removes everything. What is attached by a link in it alone is detached.
    pub fn remove(&self) -> Result<()> {
        clsact::detach_all(&self.links())?;
        for directory in subdirectories(&self.directory).unwrap_or_default() {
            remove_directory(&directory)?;
        }
        remove_directory(&self.directory)?;
        // The directory of all tunnels goes with the last one.
        match fs::remove_dir(self.bpffs.join(TUNNELS)) {
            Err(error)
                if error.kind() != io::ErrorKind::DirectoryNotEmpty && error.kind() != io::ErrorKind::NotFound =>
            {
                Err(error).context("can't remove the directory of all tunnels")
            }
            _ => Ok(()),
        }
    }

    /// Becomes the tunnel's daemon; `None` when another process is.
    pub async fn lock(&self) -> Result<Option<Lock>> {
        for _ in 1..LOCK_ATTEMPTS {
            if let Some(lock) = self.try_lock(FlockArg::LockExclusiveNonblock)? {
                return Ok(Some(lock));
            }
            // Whoever asks for the daemon holds the lock for a moment.
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        self.try_lock(FlockArg::LockExclusiveNonblock)
    }

    fn try_lock(&self, kind: FlockArg) -> Result<Option<Lock>> {
        let directory = open(&self.directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("can't open {}", self.directory.display()))?;
        match Flock::lock(directory, kind) {
            Ok(lock) => Ok(Some(Lock { lock })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("can't lock {}", self.directory.display())),
        }
    }

    /// Whether a daemon holds the lock.
    pub fn has_daemon(&self) -> bool {
        matches!(self.try_lock(FlockArg::LockSharedNonblock), Ok(None))
    }

    /// The process that holds the lock; `None` when no daemon does.
    ///
    /// # Errors
    /// The kernel does not say, or the daemon is out of sight: in a container, say.
    pub fn daemon(&self) -> Result<Option<Pid>> {
        if !self.has_daemon() {
            return Ok(None);
        }
        let metadata = fs::metadata(&self.directory).with_context(|| unreadable(&self.directory))?;
        let locks = fs::read_to_string("/proc/locks").context("can't read /proc/locks")?;
        let device = (major(metadata.dev()), minor(metadata.dev()));
        let holder = locks.lines().find_map(|line| exclusive_holder(line, device, metadata.ino()));
        let holder = holder.with_context(|| format!("can't see which process holds {}", self.directory.display()))?;
        Ok(Some(holder))
    }

    fn tunnel(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The process that a line of `/proc/locks` (fs/locks.c, `lock_get_status`) says to hold a file exclusively:
/// `1: FLOCK  ADVISORY  WRITE 1234 00:1d:5678 0 EOF`.
fn exclusive_holder(line: &str, device: (u64, u64), inode: u64) -> Option<Pid> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let is_exclusive = words.next()? == "FLOCK" && words.nth(1)? == "WRITE";
    let holder = words.next()?.parse().ok()?;
    let is_file = words.next()? == format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    // 0: it is in another PID namespace.
    (is_exclusive && is_file && holder > 0).then(|| Pid::from_raw(holder))
}

/// Names of the tunnels that have pins, sorted.
///
/// # Errors
/// This user may not know.
pub fn tunnels(bpffs: &Path) -> Result<Vec<String>> {
    let directory = bpffs.join(TUNNELS);
    if !directory.try_exists().with_context(|| unreadable(&directory))? {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = subdirectories(&directory)?
        .iter()
        .filter_map(|directory| Some(directory.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// What is said of a directory that only its owner can enter.
fn unreadable(directory: &Path) -> String {
    format!("can't read {}: run as root", directory.display())
}

/// Makes a directory that nobody else can enter. In a bpffs where everybody may make directories somebody may have made
/// it before, and could exchange what is in it.
fn make_directory(directory: &Path) -> Result<()> {
    let failed = || format!("can't make {}", directory.display());
    match fs::DirBuilder::new().mode(OWNER_ONLY).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(failed),
        _ => {}
    }
    let metadata = fs::symlink_metadata(directory).with_context(failed)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        bail!("{} is not this user's directory: find out who made it, and remove it", directory.display());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(OWNER_ONLY)).with_context(failed)
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| unreadable(directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("can't read {}", directory.display()))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes a directory and the pins in it.
fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Mounts bpffs at a directory where it is not mounted.
fn mount_bpffs(bpffs: &Path) -> Result<()> {
    if statfs(bpffs).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    fs::create_dir_all(bpffs).with_context(|| format!("can't make {} to mount bpffs at", bpffs.display()))?;
    // By default it is writable for all (kernel/bpf/inode.c, `bpf_fill_super`), who could then lock or own our directories.
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("can't mount bpffs at {}: run as root, or mount it yourself", bpffs.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_locks() {
        let holder = |line| exclusive_holder(line, (0, 0x1d), 5678).map(Pid::as_raw);
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 1234 00:1d:5678 0 EOF"), Some(1234));
        for line in [
            "1: FLOCK  ADVISORY  READ  1234 00:1d:5678 0 EOF",
            "1: POSIX  ADVISORY  WRITE 1234 00:1d:5678 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 1234 00:1e:5678 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 1234 00:1d:56789 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 0 00:1d:5678 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 1234 00:1d:5678 0 EOF",
            "1: FLOCK",
            "",
        ] {
            assert_eq!(holder(line), None, "{line}");
        }
    }
}
