//! The two clocks of the daemon.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// The clock of the programs, which goes on while the machine sleeps: time since it booted (`CLOCK_BOOTTIME`).
///
/// # Errors
/// The kernel does not have it.
pub fn since_boot() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME).context("can't read the clock")?.into())
}

/// The wall clock, nanoseconds since 1970: what tells a new handshake from one that somebody recorded.
///
/// # Errors
/// It stands before 1970.
pub fn unix_ns() -> Result<u64> {
    let since_1970 =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(since_1970.as_nanos() as u64)
}
