//! Packets as they pass an interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::packet_socket::{LARGEST_FRAME, PacketSocket};
use crate::namespace::Namespace;

const POLL: Duration = Duration::from_millis(20);

/// A frame that passed an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When the kernel saw it: nanoseconds of `CLOCK_REALTIME`.
    pub at_ns: u64,
    /// It left through the interface; else it came in.
    pub is_outgoing: bool,
    /// The frame: with its Ethernet header, or from the IP header on where the interface has none. A checksum that the sender left
    /// to its device (veth) is not yet there.
    pub bytes: Vec<u8>,
}

/// A capture that runs until it is stopped or dropped.
///
/// What comes in is seen after XDP and before TC: a packet that an XDP program takes is not seen, one that a TC program takes is.
/// What leaves is seen after TC, as it leaves.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Captured>>>>,
}

impl Capture {
    /// Starts; everything that passes after this returns is captured.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = PacketSocket::receiver(namespace, interface, POLL)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let capture = move || {
            let mut frames = Vec::new();
            let mut buffer = vec![0; LARGEST_FRAME];
            loop {
                // Looked at before the socket: what was queued when the capture was stopped is still read.
                let is_last = stopped.load(Ordering::Acquire);
                match socket.receive(&mut buffer)? {
                    Some(frame) => frames.push(frame),
                    None if is_last => {
                        let missed = socket.missed()?;
                        ensure!(missed == 0, "the capture has missed {missed} frames");
                        return Ok(frames);
                    }
                    None => {}
                }
            }
        };
        let thread = thread::Builder::new().name(format!("capture-{interface}")).spawn(capture)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops and returns what was captured, in order.
    ///
    /// # Errors
    /// Frames came faster than they were read: the capture is not whole.
    pub fn stop(mut self) -> Result<Vec<Captured>> {
        self.end().unwrap_or_else(|| Ok(Vec::new()))
    }

    fn end(&mut self) -> Option<Result<Vec<Captured>>> {
        self.stop.store(true, Ordering::Release);
        Some(self.thread.take()?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
