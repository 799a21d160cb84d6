//! Debian's kernels, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{output, run_in_step};
use crate::progress::Step;
use crate::workspace::Workspace;

/// The package that names the newest kernel of a release.
const NEWEST: &str = "linux-image-amd64";
/// What the names of kernels' packages begin with; the version follows.
const PREFIX: &str = "linux-image-";
/// Where Debian keeps the keys of its archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What a guest needs of a kernel's package: the rest, drivers of hardware, is ten times as much.
const WANTED: [&str; 9] = [
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch",
    "./lib/modules/*/kernel/crypto",
    "./lib/modules/*/kernel/drivers/net/*.ko*",
    "./lib/modules/*/kernel/drivers/virtio",
    "./lib/modules/*/kernel/fs",
    "./lib/modules/*/kernel/lib",
    "./lib/modules/*/kernel/net",
];

/// An unpacked kernel.
pub(super) struct Kernel {
    /// What `uname -r` says.
    pub(super) release: String,
    /// Where `boot` and `lib/modules` are.
    directory: PathBuf,
}

impl Kernel {
    /// The newest kernel whose version begins so; it is fetched if it is not there.
    pub(super) fn provide(workspace: &Workspace, version: &str) -> Result<Self> {
        let kernels = workspace.target().join("vm/kernels");
        fs::create_dir_all(&kernels).with_context(|| format!("cannot make {}", kernels.display()))?;
        let step = Step::start("kernel");
        let kernel = match Self::unpacked(&kernels, version)? {
            Some(kernel) => kernel,
            None => Self::fetch(&kernels, version, &step)?,
        };
        step.done(&format!("{} in {}", kernel.release, kernel.directory.display()));
        Ok(kernel)
    }

    /// The compressed image that boots.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The directory whose name is the release, with the modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }

    fn unpacked(kernels: &Path, version: &str) -> Result<Option<Self>> {
        let mut releases = Vec::new();
        for entry in fs::read_dir(kernels).with_context(|| format!("cannot read {}", kernels.display()))? {
            let name = entry.with_context(|| format!("cannot read {}", kernels.display()))?.file_name();
            releases.extend(name.into_string().ok().filter(|release| begins(release, version)));
        }
        Ok(releases.into_iter().max().map(|release| Self { directory: kernels.join(&release), release }))
    }

    fn fetch(kernels: &Path, version: &str, step: &Step) -> Result<Self> {
        step.note("asking apt for kernels");
        let (own, backports) = (Source::own(), Source::backports(&kernels.with_file_name("apt"), step)?);
        let mut found = Vec::new();
        for source in [own, backports] {
            let package = source.newest_kernel()?;
            let release = package.strip_prefix(PREFIX).unwrap_or(&package).to_owned();
            if begins(&release, version) {
                return Self::unpack(kernels, &source, &package, release, step);
            }
            found.push(release);
        }
        bail!("there is no kernel {version}: this Debian release and its backports have {}", found.join(" and "))
    }

    fn unpack(kernels: &Path, source: &Source, package: &str, release: String, step: &Step) -> Result<Self> {
        let unfinished = kernels.with_file_name("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        let mut download = source.apt("apt-get");
        run_in_step(download.args(["download", package]).current_dir(&unfinished), step)?;
        step.note(&format!("unpacking {package}"));
        let mut archive = Command::new("sh");
        archive.args(["-ec", "dpkg-deb --fsys-tarfile *.deb | tar --extract --wildcards \"$@\"; rm *.deb", "sh"]);
        run_in_step(archive.args(WANTED).current_dir(&unfinished), step)?;
        // Debian does this when it installs the package.
        let mut depmod = Command::new("busybox");
        run_in_step(depmod.arg("depmod").arg("-b").arg(&unfinished).arg(&release), step)?;
        let directory = kernels.join(&release);
        fs::rename(&unfinished, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { release, directory })
    }
}

/// Whether a release is of a version, or of one that begins so: 6.1.0-9 is of 6.1 and 6.12.0 is not.
fn begins(release: &str, version: &str) -> bool {
    release.strip_prefix(version).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// Where apt looks for packages.
struct Source {
    options: Vec<String>,
}

impl Source {
    /// What the machine installs from.
    fn own() -> Self {
        Self { options: Vec::new() }
    }

    /// The backports of the machine's release, which it need not install from. Their lists are kept in a directory of
    /// their own.
    fn backports(directory: &Path, step: &Step) -> Result<Self> {
        let lists = directory.join("lists");
        fs::create_dir_all(lists.join("partial")).with_context(|| format!("cannot make {}", lists.display()))?;
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(CODENAME) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let release = targets.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (uri, codename, component) = (words.next()?, words.next()?, words.next()?);
            (component == "main" && !codename.contains('-')).then_some((uri, codename))
        });
        let (uri, codename) = release.context("apt installs from no release of Debian")?;
        let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let sources = directory.join("sources.list");
        fs::write(&sources, format!("deb {signed}{uri} {codename}-backports main\n"))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let source = Self {
            options: [
                format!("Dir::Etc::SourceList={}", sources.display()),
                "Dir::Etc::SourceParts=/dev/null".into(),
                format!("Dir::State::Lists={}", lists.display()),
                format!("Dir::Cache={}", directory.display()),
            ]
            .map(|option| format!("-o{option}"))
            .to_vec(),
        };
        run_in_step(source.apt("apt-get").arg("update"), step)?;
        Ok(source)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.args(&self.options).stdin(Stdio::null());
        apt
    }

    /// The package of its newest kernel.
    fn newest_kernel(&self) -> Result<String> {
        let depends = output(self.apt("apt-cache").args(["depends", NEWEST]))?;
        let package = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.into_iter().find(|package| package.starts_with(PREFIX));
        package.map(str::to_owned).with_context(|| format!("{NEWEST} names no kernel: `apt-get update`?"))
    }
}
