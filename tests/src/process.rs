//! Programs: run to their end with a time limit, or in the background until they are dropped.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// What a program that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, if the program succeeded.
    ///
    /// # Errors
    /// The program failed; the error has the command, its status and what it wrote.
    pub fn success(&self) -> Result<&str> {
        if self.status.success() {
            return Ok(&self.stdout);
        }
        bail!("`{}` failed ({}): {}{}", self.command, self.status, self.stderr, self.stdout)
    }
}

/// A program in the background; it and its process group are killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    pidfd: OwnedFd,
    streams: Option<Streams>,
}

/// Files in memory rather than pipes: a program that writes much never blocks on a reader, and what it wrote can be read at any time.
#[derive(Debug)]
struct Streams {
    stdout: File,
    stderr: File,
}

impl Process {
    /// Starts `command` (see [`Namespace::command`](crate::Namespace::command)) with both its outputs kept in memory.
    ///
    /// # Errors
    /// The program does not exist or cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let streams = Streams { stdout: memory_file("stdout", b"")?, stderr: memory_file("stderr", b"")? };
        command.stdout(streams.stdout.try_clone()?).stderr(streams.stderr.try_clone()?);
        Self::start(command, Some(streams))
    }

    /// Starts `command` with both its outputs appended to `log`.
    ///
    /// # Errors
    /// The program does not exist or cannot be started.
    pub fn spawn_logged(mut command: Command, log: &File) -> Result<Self> {
        command.stdout(log.try_clone()?).stderr(log.try_clone()?).stdin(Stdio::null());
        Self::start(command, None)
    }

    fn start(mut command: Command, streams: Option<Streams>) -> Result<Self> {
        let text = text_of(&command);
        let _making = interrupt::making();
        let child = command.spawn().with_context(|| format!("cannot start `{text}`"))?;
        let pidfd = pidfd(&child)?;
        Ok(Self { command: text, child, pidfd, streams })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process, not to its group.
    ///
    /// # Errors
    /// The process has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to `{}`", self.command))
    }

    /// The process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// It is still running after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let patience = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], patience) {
                Ok(0) if left.is_zero() => bail!("`{}` is still running after {timeout:?}", self.command),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(self.child.wait()?),
                Err(error) => return Err(error).with_context(|| format!("cannot wait for `{}`", self.command)),
            }
        }
    }

    /// Waits for the end and returns what the process left.
    ///
    /// # Errors
    /// It is still running after `timeout`; it is killed then.
    pub fn finish(mut self, timeout: Duration) -> Result<Output> {
        let status =
            self.wait(timeout).with_context(|| format!("so far it wrote: {}{}", self.stderr(), self.stdout()))?;
        Ok(Output { command: self.command.clone(), status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// What the process has written to standard output so far. Empty where it goes to a log.
    pub fn stdout(&self) -> String {
        self.streams.as_ref().map(|streams| content(&streams.stdout)).unwrap_or_default()
    }

    /// What the process has written to standard error so far. Empty where it goes to a log.
    pub fn stderr(&self) -> String {
        self.streams.as_ref().map(|streams| content(&streams.stderr)).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Once the process has been waited for, its id may be another's: what it left behind in the namespace, the lab ends.
        if self.is_running() {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end.
pub(crate) fn output(command: Command, timeout: Duration) -> Result<Output> {
    Process::spawn(command)?.finish(timeout)
}

/// A file in memory with that content, to be read from its start.
pub(crate) fn memory_file(name: &str, content: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).context("cannot make a file in memory")?);
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn content(file: &File) -> String {
    // Read by position: the file's own position is the one at which the program writes.
    let mut bytes = vec![0; file.metadata().map_or(0, |metadata| metadata.len() as usize)];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn text_of(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(text, " {}", argument.to_string_lossy());
    }
    text
}

fn pidfd(child: &Child) -> Result<OwnedFd> {
    // SAFETY: the call takes a process id and flags; no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(fd).with_context(|| format!("cannot watch process {}", child.id()))?;
    // SAFETY: the kernel has just given us this descriptor, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
