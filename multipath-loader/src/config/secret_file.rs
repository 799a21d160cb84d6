//! Files with secrets: read only when nobody but their owner can, and when the owner is to be trusted.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::unistd::geteuid;
use zeroize::Zeroizing;

/// A key has 44 characters; a file that is much longer is something else.
const LONGEST: u64 = 1024;

/// Reads a file with a secret.
///
/// # Errors
/// It can't be read, is no regular file, or others than its owner, who must be root or the user of this process, can read
/// or replace it: with what to do.
pub(super) fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let explain = |error: io::Error| format!("{} can't be read ({error})", file.display());
    let opened = File::open(file).map_err(explain)?;
    let metadata = opened.metadata().map_err(explain)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", file.display()));
    }
    check(file, &metadata)?;
    let mut text = Zeroizing::new(String::new());
    opened.take(LONGEST).read_to_string(&mut text).map_err(explain)?;
    Ok(text)
}

/// Whether a file may hold a secret; else why not, and what to do.
pub(super) fn check(file: &Path, metadata: &Metadata) -> Result<(), String> {
    judge(&file.display().to_string(), metadata.mode(), metadata.uid(), geteuid().as_raw())
}

fn judge(name: &str, mode: u32, owner: u32, own: u32) -> Result<(), String> {
    if owner != 0 && owner != own {
        return Err(format!("{name} belongs to the user {owner}, who can read and replace it: chown {own} {name}"));
    }
    if mode & 0o077 != 0 {
        let mode = mode & 0o777;
        return Err(format!("{name} is open to others than its owner (mode {mode:03o}): chmod 600 {name}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_have_any_access() {
        for mode in [0o600, 0o400, 0o700, 0o100_600] {
            assert_eq!(judge("mp0.key", mode, 0, 0), Ok(()));
        }
        for bit in 0..6 {
            let mode = 0o600 | 1 << bit;
            assert_eq!(
                judge("mp0.key", mode, 0, 0),
                Err(format!("mp0.key is open to others than its owner (mode {mode:03o}): chmod 600 mp0.key"))
            );
        }
    }

    #[test]
    fn the_owner_is_root_or_the_reader() {
        assert_eq!(judge("mp0.key", 0o600, 0, 1000), Ok(()));
        assert_eq!(judge("mp0.key", 0o600, 1000, 1000), Ok(()));
        assert_eq!(
            judge("mp0.key", 0o600, 1000, 0),
            Err("mp0.key belongs to the user 1000, who can read and replace it: chown 0 mp0.key".to_owned())
        );
    }
}
