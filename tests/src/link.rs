//! The link emulator: a thread that is the wire between two interfaces.
//!
//! Why not `tc netem`: not every kernel has it, and a BPF redirect passes a qdisc of its own choice. The thread sleeps until a packet
//! comes in or is due (high-resolution timers without slack, real-time priority where the machine grants it): it costs nothing
//! when idle, and packets are late by some 0.05 ms. A few hundred Mbit/s are exact; beyond, use [`Lab::veth`](crate::Lab::veth).

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::device::{Interface, Kind, set_carrier};
use crate::namespace::Namespace;
use crate::shape::{Counters, Packet, Pipe, Shape};

// Packets read from one end before what is due is looked at again: some 0.1 ms of work.
const READ_BATCH: usize = 32;
const LARGEST_FRAME: usize = 65_536 + 14;
const REAL_TIME_PRIORITY: libc::c_int = 10;

static LINKS: AtomicU64 = AtomicU64::new(0);

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The first interface that the link was made with.
    A,
    /// The second one.
    B,
}

impl End {
    /// 0 or 1: index of what comes in pairs, such as the direction that starts at this end.
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// An emulated link between two interfaces; clones are the same link. What a call changes is in force when it returns.
///
/// A direction is named by the end where it starts.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    ends: [(Namespace, Interface); 2],
    requests: Mutex<Sender<(Request, Sender<Result<Reply>>)>>,
    wake: Arc<EventFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Request {
    Look,
    SetShape(End, Shape),
    SetCarrier(End, bool),
    SetWire(End, Option<File>),
    Inject(End, Vec<u8>),
    Stop,
}

#[derive(Clone, Copy, Debug)]
struct Reply {
    shapes: [Shape; 2],
    counters: [Counters; 2],
}

impl Link {
    pub(crate) fn start(kind: Kind, ends: [(&Namespace, Interface); 2], shapes: [Shape; 2]) -> Result<Self> {
        let number = LINKS.fetch_add(1, Ordering::Relaxed);
        let ends = ends.map(|(namespace, interface)| (namespace.clone(), interface));
        let [a, b] = &ends;
        let wires = [a.1.open(&a.0, kind)?, b.1.open(&b.0, kind)?];
        let wake = Arc::new(EventFd::new().context("cannot make an eventfd")?);
        let (requests, inbox) = channel();
        let emulator = Emulator {
            kind,
            // The same seeds in every run of a program: its links lose the same packets.
            pipes: [Pipe::new(shapes[0], 2 * number), Pipe::new(shapes[1], 2 * number + 1)],
            wires: wires.map(Some),
            carrier: [true; 2],
            wake: wake.clone(),
            inbox,
        };
        let thread = thread::Builder::new().name(format!("link-{}", a.1.name)).spawn(move || emulator.run())?;
        Ok(Self(Arc::new(Inner { kind, ends, requests: Mutex::new(requests), wake, thread: Mutex::new(Some(thread)) })))
    }

    /// What the link carries.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The interface at an end.
    pub fn interface(&self, end: End) -> &Interface {
        &self.0.ends[end.index()].1
    }

    /// The namespace of an end.
    pub fn namespace(&self, end: End) -> &Namespace {
        &self.0.ends[end.index()].0
    }

    /// How packets that start at `from` are treated now.
    pub fn shape(&self, from: End) -> Result<Shape> {
        Ok(self.call(Request::Look)?.shapes[from.index()])
    }

    /// Changes how packets that start at `from` are treated.
    pub fn set_shape(&self, from: End, shape: Shape) -> Result<()> {
        self.call(Request::SetShape(from, shape)).map(drop)
    }

    /// Changes both directions with the same function: `link.change(|shape| shape.delay_us = 50_000)`.
    pub fn change(&self, change: impl Fn(&mut Shape)) -> Result<()> {
        let shapes = self.call(Request::Look)?.shapes;
        for (end, mut shape) in [End::A, End::B].into_iter().zip(shapes) {
            change(&mut shape);
            self.set_shape(end, shape)?;
        }
        Ok(())
    }

    /// Cuts the link silently, both ways, or heals it: interfaces and carrier stay up.
    pub fn set_black_hole(&self, is_on: bool) -> Result<()> {
        self.change(|shape| shape.black_hole = is_on)
    }

    /// Sets the carrier at one end, as when a cable is pulled there. Without it nothing passes this end either way.
    pub fn set_carrier(&self, end: End, is_up: bool) -> Result<()> {
        self.call(Request::SetCarrier(end, is_up)).map(drop)
    }

    /// Takes the addresses of the interface at one end away, as when a lease has run out; the kernel takes the routes through them.
    pub fn remove_addresses(&self, end: End) -> Result<()> {
        let (namespace, interface) = &self.0.ends[end.index()];
        namespace.ip(&format!("addr flush dev {} scope global", interface.name))
    }

    /// Gives the interface its addresses again; further routes are the caller's.
    pub fn restore_addresses(&self, end: End) -> Result<()> {
        let (namespace, interface) = &self.0.ends[end.index()];
        interface.configure(namespace)
    }

    /// Deletes the interface at one end, as when a modem is unplugged.
    pub fn remove_interface(&self, end: End) -> Result<()> {
        self.call(Request::SetWire(end, None)).map(drop)
    }

    /// Makes the interface again, with its old name, MAC and addresses (and a new index); further routes are the caller's.
    pub fn restore_interface(&self, end: End) -> Result<()> {
        let (namespace, interface) = &self.0.ends[end.index()];
        let wire = interface.open(namespace, self.0.kind)?;
        self.call(Request::SetWire(end, Some(wire))).map(drop)
    }

    /// Puts a frame on the wire so that the interface at `to` receives it at once: with its Ethernet header for
    /// [`Kind::Ethernet`], from the IP header on for [`Kind::RawIp`]. Not counted.
    ///
    /// # Errors
    /// The kernel refuses it: a frame shorter than its header, or an interface that is down.
    pub fn inject(&self, to: End, frame: &[u8]) -> Result<()> {
        self.call(Request::Inject(to, frame.to_vec())).map(drop)
    }

    /// Counters of the direction that starts at `from`, since the link was made.
    pub fn counters(&self, from: End) -> Result<Counters> {
        Ok(self.call(Request::Look)?.counters[from.index()])
    }

    /// Ends the emulator; the interfaces are deleted.
    pub(crate) fn stop(&self) {
        let _ = self.call(Request::Stop);
        if let Some(thread) = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }

    fn call(&self, request: Request) -> Result<Reply> {
        let gone = || anyhow!("the emulator of link {} has ended: its lab is closed", self.0.ends[0].1.name);
        let (answer, reply) = channel();
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner).send((request, answer)).map_err(|_| gone())?;
        self.0.wake.write(1).context("cannot wake a link's emulator")?;
        reply.recv().map_err(|_| gone())?
    }
}

struct Emulator {
    kind: Kind,
    /// Index: the end where the direction starts.
    pipes: [Pipe; 2],
    wires: [Option<File>; 2],
    carrier: [bool; 2],
    wake: Arc<EventFd>,
    inbox: Receiver<(Request, Sender<Result<Reply>>)>,
}

impl Emulator {
    fn run(mut self) {
        take_real_time_priority();
        let mut buffer = vec![0; LARGEST_FRAME];
        loop {
            self.deliver();
            let Ok(readable) = self.sleep() else { return };
            if readable[2] {
                let _ = self.wake.read();
                while let Ok((request, answer)) = self.inbox.try_recv() {
                    let is_end = matches!(request, Request::Stop);
                    let result = self.serve(request);
                    let _ = answer.send(result.map(|()| self.reply()));
                    if is_end {
                        return;
                    }
                }
            }
            for end in [End::A, End::B] {
                if readable[end.index()] {
                    self.read(end, &mut buffer);
                }
            }
        }
    }

    /// Waits until a packet is due or something can be read: at end A, at end B, from the handles.
    fn sleep(&self) -> nix::Result<[bool; 3]> {
        let due = self.pipes.iter().filter_map(Pipe::wake).min();
        let timeout = due.map(|due| TimeSpec::nanoseconds(due.saturating_sub(now()).cast_signed()));
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.wires.iter().flatten().map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN)));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let wake = ready.next().unwrap_or(false);
        let mut of = |end: End| self.wires[end.index()].is_some() && ready.next().unwrap_or(false);
        Ok([of(End::A), of(End::B), wake])
    }

    fn read(&mut self, end: End, buffer: &mut [u8]) {
        let passes = self.carrier == [true; 2];
        let Some(wire) = &mut self.wires[end.index()] else { return };
        let pipe = &mut self.pipes[end.index()];
        for _ in 0..READ_BATCH {
            match wire.read(buffer) {
                Ok(length) => {
                    let size = length.saturating_sub(self.kind.header_bytes()) as u64;
                    if passes {
                        pipe.push(now(), Packet { frame: buffer[..length].to_vec(), size });
                    } else {
                        pipe.counters.packets_in += 1;
                        pipe.counters.bytes_in += size;
                        pipe.counters.dropped_black_hole += 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more to read; or the interface was deleted by hand, and then there never will be.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.wires[end.index()] = None;
                    return;
                }
            }
        }
    }

    fn deliver(&mut self) {
        for end in [End::A, End::B] {
            let pipe = &mut self.pipes[end.index()];
            while let Some(packet) = pipe.pop(now()) {
                let other = end.other().index();
                if self.carrier != [true; 2] {
                    pipe.counters.dropped_black_hole += 1;
                } else if self.wires[other].as_mut().is_some_and(|wire| wire.write(&packet.frame).is_ok()) {
                    pipe.counters.packets_forwarded += 1;
                    pipe.counters.bytes_forwarded += packet.size;
                } else {
                    pipe.counters.dropped_refused += 1;
                }
            }
        }
    }

    fn serve(&mut self, request: Request) -> Result<()> {
        match request {
            Request::Look | Request::Stop => {}
            Request::SetShape(from, shape) => self.pipes[from.index()].set_shape(now(), shape),
            Request::SetCarrier(end, is_up) => {
                self.carrier[end.index()] = is_up;
                if let Some(wire) = &self.wires[end.index()] {
                    set_carrier(wire, is_up)?;
                }
            }
            Request::SetWire(end, wire) => {
                self.carrier[end.index()] = true;
                self.wires[end.index()] = wire;
            }
            Request::Inject(to, frame) => {
                let wire = self.wires[to.index()].as_mut().context("the interface at this end is deleted")?;
                wire.write_all(&frame)
                    .with_context(|| format!("the kernel refuses a frame of {} bytes", frame.len()))?;
            }
        }
        Ok(())
    }

    fn reply(&self) -> Reply {
        let [a, b] = &self.pipes;
        Reply { shapes: [a.shape(), b.shape()], counters: [a.counters, b.counters] }
    }
}

/// Monotonic time in nanoseconds.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_nanoseconds().cast_unsigned())
}

/// The wire must not wait for a CPU that iperf3 or a compiler has. Where the machine refuses (a control group without real-time
/// budget), the timers without slack remain.
fn take_real_time_priority() {
    let parameters = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    // SAFETY: both calls change the calling thread only; the parameters outlive the call.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64);
    }
}
