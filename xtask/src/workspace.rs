//! Where the repository and its build products are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cargo's build profile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Unoptimised, the default.
    Debug,
    /// Optimised, for measurements.
    Release,
}

impl Profile {
    /// The profile that a `--release` flag asks for.
    pub(crate) fn from_release(release: bool) -> Self {
        if release { Self::Release } else { Self::Debug }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// The repository's work tree.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The work tree of the running xtask: cargo's word at run time, so that a moved clone is found too.
    pub(crate) fn find() -> Self {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().unwrap_or(Path::new("/"));
        Self { root: root.to_path_buf() }
    }

    /// Top directory of the work tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory, where everything that xtask makes goes as well.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The eBPF object that the loader embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target().join("bpf/multipath.o")
    }

    /// The `mpvpn` binary of a profile.
    pub(crate) fn mpvpn(&self, profile: Profile) -> PathBuf {
        self.target().join(profile.directory()).join("mpvpn")
    }

    /// A call of the cargo that runs this xtask, in the work tree.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        // The paths above hold only for the default target directory.
        cargo.current_dir(&self.root).env_remove("CARGO_TARGET_DIR");
        cargo
    }
}
