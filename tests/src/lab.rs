//! The owner of everything that one experiment makes.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::device::{Interface, Kind};
use crate::interrupt;
use crate::link::Link;
use crate::namespace::Namespace;
use crate::remains::{self, Host, Leftovers};
use crate::shape::Shape;

/// Below this directory every lab has one of its own: configuration, keys, logs and the gateways' bpffs.
pub const ROOT: &str = "/run/mpvpn-lab";

static LABS: AtomicU32 = AtomicU32::new(0);

/// A lab's number, unique on the machine: the process and the how-manieth lab of that process. Printed as `pid-n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId {
    /// Process that made the lab.
    pub pid: u32,
    /// Counts the labs of that process, from 0.
    pub number: u32,
}

impl LabId {
    /// Reads `pid-n`, as in the names of namespaces and directories.
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, number) = text.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, number: number.parse().ok()? })
    }

    /// The lab's directory below [`ROOT`].
    pub fn directory(self) -> PathBuf {
        Path::new(ROOT).join(self.to_string())
    }

    /// What the names of the lab's namespaces start with.
    pub fn namespace_prefix(self) -> String {
        format!("mpl-{self}-")
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.number)
    }
}

/// One experiment's namespaces, links, processes, mounts and files; all of them are removed when it is dropped.
///
/// Handles ([`Namespace`], [`Link`], ...) may outlive the lab; using them then is an error, not undefined.
#[derive(Debug)]
pub struct Lab {
    id: LabId,
    roles: Mutex<BTreeSet<String>>,
    links: Mutex<Vec<Link>>,
    host: Host,
    // Locked as long as the lab lives: how a sweep knows a lab that is alive from one that was killed.
    _alive: File,
}

impl Lab {
    /// Removes what killed labs have left, and makes a new, empty one.
    ///
    /// # Errors
    /// Not root, or a mount, a directory or a namespace that resists.
    pub fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a lab makes network namespaces: run this as root");
        let id = LabId { pid: std::process::id(), number: LABS.fetch_add(1, Ordering::Relaxed) };
        let root = lock_root()?;
        remains::sweep().context("cannot remove what an earlier, killed run has left")?;
        let host = Host::look()?;
        let directory = id.directory();
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let alive = File::open(&directory)?;
        alive.lock().with_context(|| format!("cannot lock {}", directory.display()))?;
        drop(root);
        interrupt::register(id)?;
        Ok(Self { id, roles: Mutex::default(), links: Mutex::default(), host, _alive: alive })
    }

    /// The lab's number.
    pub fn id(&self) -> LabId {
        self.id
    }

    /// The lab's directory, for configuration, keys and logs.
    pub fn directory(&self) -> PathBuf {
        self.id.directory()
    }

    /// Makes a network namespace named `mpl-<pid>-<n>-<role>`: loopback up, no `rp_filter`, no duplicate address detection.
    ///
    /// # Errors
    /// The role is taken, or the kernel refuses.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        let is_new = self.roles.lock().unwrap_or_else(PoisonError::into_inner).insert(role.to_owned());
        ensure!(is_new, "lab {}: there is a namespace {role} already", self.id);
        Namespace::create(&format!("{}{role}", self.id.namespace_prefix()), role)
    }

    /// Makes a veth pair between two namespaces, without an emulator: for uplinks at the kernel's own speed and for LANs.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn veth(&self, ends: [(&Namespace, &Interface); 2]) -> Result<()> {
        let [(namespace, interface), (peer_namespace, peer)] = ends;
        namespace.ip(&format!(
            "link add {} mtu {} address {} type veth peer name {} mtu {} address {} netns {}",
            interface.name,
            interface.mtu,
            interface.mac,
            peer.name,
            peer.mtu,
            peer.mac,
            peer_namespace.name(),
        ))?;
        interface.configure(namespace)?;
        peer.configure(peer_namespace)
    }

    /// Makes an emulated link between two namespaces; `shapes` are those of the directions a to b and b to a.
    ///
    /// # Errors
    /// What the kernel's TUN driver or `ip` says.
    pub fn link(&self, kind: Kind, ends: [(&Namespace, Interface); 2], shapes: [Shape; 2]) -> Result<Link> {
        let link = Link::start(kind, ends, shapes)?;
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(link.clone());
        Ok(link)
    }

    /// Mounts a bpffs of its own in the lab's directory and returns its path. Pins are not per network namespace, hence one per gateway.
    ///
    /// # Errors
    /// What the kernel says to the mount.
    pub fn bpffs(&self, role: &str) -> Result<PathBuf> {
        let target = self.directory().join(role).join("bpf");
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        let _making = interrupt::making();
        mount(Some("bpf"), &target, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount bpffs at {}", target.display()))?;
        Ok(target)
    }

    /// What there is of this lab, and what the machine has that it had not before the lab: while the lab lives, everything it made.
    pub fn leftovers(&self) -> Result<Leftovers> {
        Leftovers::of(self.id, &self.host)
    }

    /// Removes the lab and says what is left of it: nothing, or there is a fault.
    pub fn close(self) -> Result<Leftovers> {
        let (id, host) = (self.id, self.host.clone());
        drop(self);
        Leftovers::of(id, &host)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for link in self.links.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            link.stop();
        }
        if let Err(error) = remains::remove(self.id) {
            eprintln!("lab {}: {error:#}", self.id);
        }
        interrupt::unregister(self.id);
    }
}

/// Locks [`ROOT`], making it where it is missing. Held while labs are swept or their directories made or removed.
pub(crate) fn lock_root() -> Result<File> {
    loop {
        fs::create_dir_all(ROOT).with_context(|| format!("cannot make {ROOT}"))?;
        let Ok(root) = File::open(ROOT) else { continue };
        root.lock().with_context(|| format!("cannot lock {ROOT}"))?;
        // The last lab removes the directory: the lock counts only on the one that is still there.
        if fs::metadata(ROOT).is_ok_and(|now| root.metadata().is_ok_and(|locked| locked.ino() == now.ino())) {
            return Ok(root);
        }
    }
}
