//! The file system that a kernel boots with: an archive of the cpio format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o04_0755;
const PROGRAM: u32 = 0o10_0755;
const LINK: u32 = 0o12_0777;

/// The archive as far as it is written.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds directories; a name's parents come before it.
    pub(super) fn directories(&mut self, names: &[&str]) {
        for name in names {
            self.entry(name, DIRECTORY, &[]);
        }
    }

    /// Adds a program.
    pub(super) fn program(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, PROGRAM, bytes);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK, target.as_bytes());
    }

    /// Adds a directory and all that is in it.
    pub(super) fn tree(&mut self, name: &str, from: &Path) -> Result<()> {
        let unreadable = || format!("cannot read {}", from.display());
        if !from.is_dir() {
            self.program(name, &fs::read(from).with_context(unreadable)?);
            return Ok(());
        }
        self.directories(&[name]);
        for entry in fs::read_dir(from).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            self.tree(&format!("{name}/{}", entry.file_name().to_string_lossy()), &entry.path())?;
        }
        Ok(())
    }

    /// The archive, complete.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.bytes.extend(MAGIC.bytes());
        // Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
        let fields = [0, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents, as a reader finds them.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while let Some((head, _)) = bytes.split_at_checked(110) {
            let field = |place: usize| &head[6 + 8 * place..14 + 8 * place];
            let number = |place| u32::from_str_radix(std::str::from_utf8(field(place)).unwrap(), 16).unwrap();
            assert_eq!(&head[..6], MAGIC.as_bytes());
            let (mode, len, name_len) = (number(1), number(6) as usize, number(11) as usize);
            let name = String::from_utf8(bytes[110..109 + name_len].to_vec()).unwrap();
            let start = (110 + name_len).next_multiple_of(4);
            entries.push((name, mode, bytes[start..start + len].to_vec()));
            bytes = &bytes[(start + len).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn a_reader_finds_what_was_added() {
        let mut archive = Archive::default();
        archive.directories(&["bin"]);
        archive.program("bin/init", b"#!/x\n");
        archive.link("init", "bin/init");
        let expected = [
            ("bin", DIRECTORY, &b""[..]),
            ("bin/init", PROGRAM, b"#!/x\n"),
            ("init", LINK, b"bin/init"),
            ("TRAILER!!!", 0, b""),
        ];
        assert_eq!(read(&archive.finish()), expected.map(|(name, mode, bytes)| (name.into(), mode, bytes.to_vec())));
    }
}
