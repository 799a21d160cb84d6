//! The few calls of bpf(2) that a measurement needs, and what the kernel says of an object in its `fdinfo`.
//!
//! Not by aya: that loads programs from object files only, and the empty program that measures the price of measuring is
//! no part of any.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;

// enum bpf_cmd, bpf_prog_type, bpf_attach_type and bpf_stats_type of include/uapi/linux/bpf.h.
const PROG_LOAD: i32 = 5;
const OBJ_GET: i32 = 7;
const PROG_GET_FD_BY_ID: i32 = 13;
const LINK_CREATE: i32 = 28;
const ENABLE_STATS: i32 = 32;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const STATS_RUN_TIME: u32 = 0;

/// `TCX_NEXT`: the next program decides.
const TCX_NEXT: i32 = -1;
const XDP_PASS: i32 = 2;

/// A program, map or link.
#[derive(Debug)]
pub(crate) struct Object(OwnedFd);

/// While it lives, the kernel takes the time of every run of every program.
///
/// The same as `kernel.bpf_stats_enabled`, but it ends with this process, however that ends.
#[derive(Debug)]
pub(crate) struct RunTimes(#[expect(dead_code, reason = "held for its drop")] Object);

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// TC ingress, by TCX.
    TcIngress,
    /// XDP.
    Xdp,
}

/// How often a program ran, and how long in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    /// Number of runs.
    pub(crate) count: u64,
    /// Nanoseconds.
    pub(crate) time_ns: u64,
}

impl RunTimes {
    /// Switches the taking of times on.
    pub(crate) fn enable() -> Result<Self> {
        Ok(Self(call(ENABLE_STATS, &STATS_RUN_TIME).context("the kernel does not take the run times of BPF programs")?))
    }
}

impl Runs {
    /// Mean time of a run since an earlier reading, nanoseconds; `None` when there was none.
    pub(crate) fn mean_since(self, earlier: Self) -> Option<f64> {
        let count = self.count.checked_sub(earlier.count).filter(|&count| count > 0)?;
        Some(self.time_ns.saturating_sub(earlier.time_ns) as f64 / count as f64)
    }
}

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` up to the last field that is not zero.
#[repr(C)]
struct Load {
    program_kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct Attach {
    program: u32,
    interface: u32,
    place: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET`.
#[repr(C)]
struct Get {
    path: u64,
    zero: [u32; 2],
}

impl Object {
    /// What is pinned at a path of a bpffs.
    pub(crate) fn pinned(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        call(OBJ_GET, &Get { path: name.as_ptr() as u64, zero: [0; 2] })
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// The program that a link attaches.
    pub(crate) fn program_of_link(&self) -> Result<Self> {
        let id = self.number("prog_id")? as u32;
        call(PROG_GET_FD_BY_ID, &id).with_context(|| format!("cannot open the BPF program {id}"))
    }

    /// Loads a program that does nothing and lets every packet pass.
    pub(crate) fn empty_program(hook: Hook) -> Result<Self> {
        let (program_kind, verdict) = match hook {
            Hook::TcIngress => (PROG_TYPE_SCHED_CLS, TCX_NEXT),
            Hook::Xdp => (PROG_TYPE_XDP, XDP_PASS),
        };
        // r0 = verdict; exit
        let instructions = [
            Instruction { opcode: 0xb7, registers: 0, offset: 0, immediate: verdict },
            Instruction { opcode: 0x95, registers: 0, offset: 0, immediate: 0 },
        ];
        let load = Load {
            program_kind,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log: [0; 2],
            kernel_version: 0,
            flags: 0,
            name: *b"bench_empty\0\0\0\0\0",
        };
        call(PROG_LOAD, &load).context("cannot load an empty BPF program")
    }

    /// Attaches this program to an interface, named by its index in the calling thread's network namespace. It is
    /// detached when the returned link is dropped.
    pub(crate) fn attach(&self, hook: Hook, interface: u32) -> Result<Self> {
        let place = match hook {
            Hook::TcIngress => ATTACH_TCX_INGRESS,
            Hook::Xdp => ATTACH_XDP,
        };
        let attach = Attach { program: self.0.as_raw_fd().cast_unsigned(), interface, place, flags: 0 };
        call(LINK_CREATE, &attach).with_context(|| format!("cannot attach a BPF program to interface {interface}"))
    }

    /// Number of this program.
    pub(crate) fn program_id(&self) -> Result<u64> {
        self.number("prog_id")
    }

    /// How often this program has run while times were taken.
    pub(crate) fn runs(&self) -> Result<Runs> {
        Ok(Runs { count: self.number("run_cnt")?, time_ns: self.number("run_time_ns")? })
    }

    /// Kernel memory that this object occupies, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.number("memlock")
    }

    /// A field of the object's `fdinfo`.
    fn number(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(name, _)| *name == field).with_context(|| format!("{path} has no {field}"))?.1;
        value.trim().parse().with_context(|| format!("{path}: {field} is no number"))
    }
}

/// Makes the call, whose result is a file descriptor.
fn call<T>(command: i32, attributes: &T) -> Result<Object> {
    // SAFETY: the kernel reads the attributes, which live through the call as does what they point to, and nothing
    // beyond their size; the commands that are used here write nothing.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just given us this descriptor, nobody else has it.
    Ok(Object(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
