//! Where everything is pinned: the one place that knows the paths.
//!
//! ```text
//! <bpffs>/mpvpn/<tunnel>/            locked by the daemon
//! <bpffs>/mpvpn/<tunnel>/links/      one link for each attached program
//! <bpffs>/mpvpn/<tunnel>/<layout>/   one map for each name in multipath_common::maps::PINNED
//! ```

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use multipath_common::maps::{Capacity, layout};
use nix::{
    fcntl::{Flock, FlockArg, OFlag, open},
    mount::{MsFlags, mount},
    sys::{
        stat::Mode,
        statfs::{BPF_FS_MAGIC, statfs},
    },
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
    pub fn exist(&self) -> bool {
        self.directory.is_dir()
    }

    /// Mounts bpffs if it is not mounted, and makes the directories that the tunnel needs to be locked.
    pub fn prepare(&self) -> Result<()> {
        mount_bpffs(&self.bpffs)?;
        make_directory(&self.links())
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
    /// The tunnel is not up; or an upgrade was interrupted, and there are two.
    pub fn current_maps(&self) -> Result<PathBuf> {
        match self.layouts().unwrap_or_default().as_slice() {
            [] => bail!("the tunnel {} is not up: no maps in {}", self.tunnel(), self.directory.display()),
            [maps] => Ok(maps.clone()),
            _ => bail!(
                "the tunnel {} has maps of several layouts in {}: an upgrade was interrupted; run `mpvpn up` to end it",
                self.tunnel(),
                self.directory.display()
            ),
        }
    }

    /// Removes the maps of all layouts but this one: no program uses them any more.
    pub fn remove_other_layouts(&self, current: &Path) -> Result<()> {
        for directory in self.layouts()?.iter().filter(|directory| *directory != current) {
            remove_directory(directory)?;
        }
        Ok(())
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

    fn tunnel(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Names of the tunnels that have pins, sorted.
pub fn tunnels(bpffs: &Path) -> Vec<String> {
    let mut names: Vec<String> = subdirectories(&bpffs.join(TUNNELS))
        .unwrap_or_default()
        .iter()
        .filter_map(|directory| Some(directory.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("can't read {}", directory.display()))?;
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
