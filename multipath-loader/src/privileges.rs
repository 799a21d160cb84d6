//! What a daemon may do, and who may look at it: as little as its work takes, so that whoever takes it over by a bug in
//! a parser gets no more.
//!
//! Loading takes more than running: `CAP_BPF` and `CAP_PERFMON` for maps and programs, `CAP_SYS_ADMIN` where bpffs must
//! be mounted, `CAP_NET_RAW` for the socket of control frames. All of these end with the start. Maps are then read and
//! written by their descriptors, which takes no capability (kernel/bpf/syscall.c, `__sys_bpf`, since Linux 5.19), and
//! the pins belong to root.

use std::{
    thread,
    time::{Duration, Instant},
};

use caps::{CapSet, Capability, CapsHashSet};
use nix::{libc, sys::prctl};
use tracing::debug;

/// Ports below it take a capability (`PROT_SOCK`, include/net/ip.h).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Before all other processes that are not realtime ones (setpriority(2)): what the daemon does takes little time.
const PRIORITY: libc::c_int = -20;

/// How long a thread may be listed that has been joined: the kernel wakes who waits for it first (kernel/fork.c,
/// `mm_release`) and takes it off the list later (kernel/exit.c, `release_task`).
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// Why a daemon could not give its privileges away.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// The kernel refused to change or to tell a set of capabilities.
    #[error("can't change what the daemon may do")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel refused to change an attribute of the process.
    #[error("can't keep others from looking into the daemon")]
    Process(#[from] nix::Error),
    /// Capabilities are each thread's own: the others would keep theirs.
    #[error("can't change what the daemon may do, because it has {threads} threads already")]
    Threads {
        /// How many.
        threads: usize,
    },
}

/// Forbids what no daemon ever needs: core dumps, which would have the private key in them, being traced by others than
/// an administrator, and privileges gained by an executed file.
///
/// # Errors
/// The kernel refuses.
pub fn close_process() -> Result<(), PrivilegesError> {
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Lets the daemon run when it has to: before other processes, and without the kernel putting its timers together with
/// others' to save power. Where it may not, it runs as others do, and probes are late under load.
pub fn take_precedence() {
    // SAFETY: both change the calling process alone, and take no pointers.
    let refused = unsafe {
        [libc::setpriority(libc::PRIO_PROCESS, 0, PRIORITY), libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong)]
    };
    if refused != [0, 0] {
        debug!("the daemon runs with the priority and the timers that it was started with");
    }
}

/// Keeps the capabilities that a running daemon needs, and gives all others up for good.
///
/// It needs `CAP_NET_ADMIN`, to attach programs to interfaces that appear later and to follow them with addresses,
/// routes and offloads; and `CAP_NET_BIND_SERVICE` for the sockets of such an interface, if `port` takes that.
///
/// # Errors
/// The process has other threads, or the kernel refuses.
pub fn keep_needed(port: u16) -> Result<(), PrivilegesError> {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    let start = Instant::now();
    while threads() != 1 {
        if start.elapsed() > EXIT_PATIENCE {
            return Err(PrivilegesError::Threads { threads: threads() });
        }
        thread::sleep(Duration::from_millis(1));
    }
    let mut needed = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    if port < FIRST_UNPRIVILEGED_PORT {
        needed.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    // Dropping from the bounding set is itself a privilege, which a container may have taken away.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let kept = caps::read(None, CapSet::Permitted)?.intersection(&needed).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(())
}
