//! A network namespace and what can be done in it.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::interrupt;
use crate::process::{self, Output, Process};

/// Where `ip netns` looks for namespaces, so that `ip -n <name> address` works by hand.
pub(crate) const NETNS_DIRECTORY: &str = "/run/netns";
const IP_PATIENCE: Duration = Duration::from_secs(10);

/// A handle of a network namespace that a [`Lab`](crate::Lab) owns; clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    role: String,
    file: File,
}

impl Namespace {
    pub(crate) fn create(name: &str, role: &str) -> Result<Self> {
        let _making = interrupt::making();
        share_netns_directory()?;
        let path = Path::new(NETNS_DIRECTORY).join(name);
        File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // A namespace is born in a thread of its own: unshare(2) moves the calling thread.
        thread::scope(|scope| {
            let born = scope.spawn(|| -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .with_context(|| format!("cannot mount {}", path.display()))
            });
            born.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let namespace = Self(Arc::new(Inner { name: name.to_owned(), role: role.to_owned(), file }));
        namespace.sysctls(&[
            // Strict reverse path filtering drops what arrives on another uplink than the one the route back takes.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Duplicate address detection holds a new address back for a second or more.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            // A flow must not start with what an earlier flow of the same lab has learned.
            ("net/ipv4/tcp_no_metrics_save", "1"),
        ])?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Full name: `mpl-<pid>-<n>-<role>`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the namespace is in its lab: `a`, `ha`, ...
    pub fn role(&self) -> &str {
        &self.0.role
    }

    /// Runs `work` in a new thread that is in the namespace, and waits for it. Sockets made there stay in the namespace, also
    /// when they are returned. `/proc/thread-self/net` and `/proc/sys/net` are the namespace's.
    ///
    /// # Errors
    /// The thread cannot enter the namespace. A panic of `work` is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(self.0.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {}", self.name()))
    }

    /// Writes one sysctl, named by its path below `/proc/sys`: `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sysctls(&[(key, value)])
    }

    /// Writes several sysctls, in order.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("{}: cannot set {key} to {value}", self.name()))
            })
        })?
    }

    /// Runs commands of `ip`, one a line, in one process; the first that fails ends it.
    ///
    /// # Errors
    /// What `ip` says, with the commands.
    pub fn ip(&self, commands: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]).stdin(process::memory_file("ip-batch", commands.as_bytes())?);
        process::output(command, IP_PATIENCE)?
            .success()
            .with_context(|| format!("{}: ip commands:\n{commands}", self.name()))?;
        Ok(())
    }

    /// A command that will run in the namespace. It leads a process group of its own, so that a Ctrl-C meant for the lab does not
    /// reach it. Unlike `ip netns exec` it sees the machine's `/sys` and its bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = self.0.clone();
        let enter = move || setns(inner.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Into::into);
        // SAFETY: between fork and exec the closure does nothing but one system call.
        unsafe { command.pre_exec(enter) };
        command.process_group(0);
        command
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It cannot be started, or takes longer than `timeout` (it is killed then). A failure exit is no error: see [`Output::success`].
    pub fn output(&self, words: &[&str], timeout: Duration) -> Result<Output> {
        process::output(self.words(words), timeout)
    }

    /// Starts a program that runs until it is dropped.
    pub fn spawn(&self, words: &[&str]) -> Result<Process> {
        Process::spawn(self.words(words))
    }

    fn words(&self, words: &[&str]) -> Command {
        let (program, arguments) = words.split_first().map_or(("", words), |(program, rest)| (*program, rest));
        let mut command = self.command(program);
        command.args(arguments);
        command
    }
}

/// Makes `/run/netns` a shared mount as `ip netns add` does: else a later `ip netns add` would bind it over our namespaces.
fn share_netns_directory() -> Result<()> {
    fs::create_dir_all(NETNS_DIRECTORY).with_context(|| format!("cannot make {NETNS_DIRECTORY}"))?;
    let share =
        || mount(None::<&str>, NETNS_DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_err() {
        mount(Some(NETNS_DIRECTORY), NETNS_DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .and_then(|()| share())
            .with_context(|| format!("cannot make {NETNS_DIRECTORY} a shared mount"))?;
    }
    Ok(())
}
