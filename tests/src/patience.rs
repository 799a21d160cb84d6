//! Waiting for what daemons do on their own.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long something that daemons do on their own may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait until the next look.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until something holds. Returns the state in which it did.
///
/// # Errors
/// It does not within [`PATIENCE`]; the last state is part of the error.
pub fn eventually<T: Debug>(what: &str, mut look: impl FnMut() -> Result<T>, holds: impl Fn(&T) -> bool) -> Result<T> {
    let start = Instant::now();
    loop {
        let state = look().with_context(|| what.to_owned())?;
        if holds(&state) {
            return Ok(state);
        }
        ensure!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; but {state:?}");
        thread::sleep(PAUSE);
    }
}
