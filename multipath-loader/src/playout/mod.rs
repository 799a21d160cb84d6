//! The playout stage, where no queueing discipline does its work: holds the packets of aggregate flows that the programs
//! hand it until they are due, so that they leave the tunnel in the order in which they were sent.
//!
//! It is a thread of the daemon, beside the loop that does everything else, because it must never be late. Packets come
//! to it through the ring `held` and go to the device as frames that are sent by the device's other end. While it says so in
//! `playout_stage` again and again, the programs rely on it; when it stops, or the ring is full, they deliver at once:
//!
//! - The daemon ends: nothing more is handed over, and all that is held is delivered in order, at once.
//! - The daemon is killed: what it held is lost, and so is what comes in the 50 ms in which the programs do not know that.
//!   What of that is still in the ring the next daemon delivers.

mod queue;
mod stage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use tracing::error;

use self::stage::Worker;
use crate::{
    dataplane::PlayoutMaps,
    underlay::{FrameSocket, TunnelLink},
};

/// A stage that is not running yet.
pub struct PlayoutStage {
    worker: Worker,
}

/// A stage at work. It ends when it is dropped, after it has delivered everything.
pub struct RunningStage {
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PlayoutStage {
    /// Opens what the stage needs, while the process may.
    ///
    /// # Errors
    /// The right `CAP_NET_RAW` is missing, or the device is gone.
    pub fn open(maps: PlayoutMaps, device: &TunnelLink) -> Result<Self> {
        let port = FrameSocket::unqueued(&device.port).context("can't open a raw socket for held packets")?;
        let mac = device.device.mac.with_context(|| format!("{} has no hardware address", device.device.name))?;
        Ok(Self { worker: Worker::new(maps, port, mac) })
    }

    /// Starts the thread. It has the priority, the exact timers and the capabilities that the calling thread has now.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(self) -> Result<RunningStage> {
        let has_ended = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&has_ended);
        let run = move || {
            if let Err(error) = self.worker.run(&is_told) {
                error!("packets are delivered as they come, no longer in order: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("playout".to_owned()).spawn(run);
        Ok(RunningStage { has_ended, thread: Some(thread.context("can't start the playout stage")?) })
    }
}

impl Drop for RunningStage {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the playout stage has panicked");
        }
    }
}
