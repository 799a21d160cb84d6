//! Receive packet steering of the tunnel's own port, by sysfs: there is no netlink for it.

use std::{fs, io, path::Path, thread};

use multipath_common::steering::MAX_CPUS;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tracing::debug;

use super::{Link, UnderlayError};

/// Processors that are there.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Over how many processors work can be spread: all that are there, 0 to n-1; 1 where their numbers have gaps.
pub fn processors() -> u32 {
    fs::read_to_string(ONLINE).map_or(1, |online| count(&online))
}

/// The number of processors in a list without gaps that begins at 0, such as `0-3`.
fn count(online: &str) -> u32 {
    let last = match online.trim() {
        "0" => Some(0),
        range => range.strip_prefix("0-").and_then(|last| last.parse::<u32>().ok()),
    };
    last.map_or(1, |last| (last + 1).min(MAX_CPUS))
}

/// Lets the kernel steer what a device receives over the first `cpus` processors by its hash; with one, not at all. A mask
/// that somebody else has set stays: `false` then.
///
/// # Errors
/// The masks cannot be read or written.
pub fn steer_receive(device: &Link, cpus: u32) -> Result<bool, UnderlayError> {
    let failed =
        |source| UnderlayError::Kernel { what: format!("set the receive steering of {}", device.name), source };
    let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", device.name));
    if index.is_ok_and(|index| index.trim() == device.index.to_string()) {
        return write_masks(&device.name, cpus).map_err(failed);
    }
    // This sysfs is another network namespace's. A mount shows the one that it is made in; only a thread of its own may
    // have other mounts than the process.
    debug!("{} is not in /sys: looking at its own namespace's", device.name);
    let name = &device.name;
    let in_own_mounts = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
        write_masks(name, cpus)
    };
    let written = thread::scope(|scope| scope.spawn(in_own_mounts).join());
    written.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(failed)
}

fn write_masks(device: &str, cpus: u32) -> io::Result<bool> {
    let wanted = mask(cpus);
    let queues = Path::new("/sys/class/net").join(device).join("queues");
    let mut files = Vec::new();
    for queue in fs::read_dir(queues)? {
        let file = queue?.path().join("rps_cpus");
        if file.exists() {
            let present = number(&fs::read_to_string(&file)?);
            // What an earlier start of ours has set is the mask of some number of processors, from the first one on.
            if present & present.wrapping_add(1) != 0 || present == 1 {
                return Ok(false);
            }
            files.push(file);
        }
    }
    for file in files {
        fs::write(file, &wanted)?;
    }
    Ok(true)
}

/// The first `cpus` processors as the kernel reads them: 32-bit groups in hexadecimal, the highest first, and none for
/// processors that the machine cannot have (lib/bitmap-str.c, `bitmap_parse`).
fn mask(cpus: u32) -> String {
    let bits = if cpus < 2 { 0 } else { u64::MAX >> (64 - cpus.min(64)) };
    match (bits >> 32, bits & u64::from(u32::MAX)) {
        (0, low) => format!("{low:x}"),
        (high, low) => format!("{high:x},{low:08x}"),
    }
}

/// The processors of a mask that the kernel wrote; of those beyond the 128th, only that there are some.
fn number(mask: &str) -> u128 {
    let digits: String = mask.trim().chars().filter(|letter| *letter != ',').collect();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { 0 } else { u128::from_str_radix(digits, 16).unwrap_or(u128::MAX - 1) }
}

#[cfg(test)]
mod tests {
    use super::{count, mask, number};

    #[test]
    fn processors_are_counted_where_they_have_no_gaps() {
        assert_eq!(["0", "0-1\n", "0-63", "0-127", "0-3,6", "2-3", ""].map(count), [1, 2, 64, 64, 1, 1, 1]);
    }

    #[test]
    fn masks_are_written_and_read() {
        assert_eq!((mask(1), mask(2), mask(40)), ("0".into(), "3".into(), "ff,ffffffff".into()));
        for cpus in [2, 32, 33, 64] {
            assert_eq!(number(&mask(cpus)), u128::from(u64::MAX >> (64 - cpus)));
        }
        assert_eq!((number("00000000,00000000\n"), number("3\n")), (0, 3));
    }
}
