//! The compiler of the eBPF crate and the LLVM that bpf-linker is built against.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{find_program, output};
use crate::packages;
use crate::progress::Step;

/// Debian's compiler with the source of `core`, which is compiled for the BPF target.
const DEBIAN_COMPILER: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

const BY_HAND: &str = "have one of: rustup's nightly with its source (`rustup toolchain install nightly --component rust-src --component clippy`) \
    and the development files of its LLVM version, see `rustc +nightly -vV`; or the distribution's rustc >= 1.95, cargo, clippy, rust-src and LLVM \
    development files";

/// A version of LLVM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LlvmVersion {
    /// bpf-linker reads only bitcode of its own major version.
    pub(crate) major: u32,
    minor: u32,
    patch: u32,
}

impl LlvmVersion {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

impl fmt::Display for LlvmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A Rust compiler that can build `core` for BPF, with its cargo and clippy.
pub(crate) struct Compiler {
    bin: PathBuf,
    release: String,
    llvm: LlvmVersion,
}

impl Compiler {
    /// Those on this machine: rustup's nightly, then the distribution's.
    fn candidates() -> impl Iterator<Item = Self> {
        nightly().into_iter().chain([PathBuf::from("/usr/bin")]).filter_map(Self::inspect)
    }

    fn inspect(bin: PathBuf) -> Option<Self> {
        let rustc = |argument: &str| output(clean(&mut Command::new(bin.join("rustc"))).arg(argument)).ok();
        let core = Path::new(&rustc("--print=sysroot")?).join("lib/rustlib/src/rust/library/core");
        if !core.exists() || ["cargo", "cargo-clippy"].iter().any(|program| !bin.join(program).exists()) {
            return None;
        }
        let verbose = rustc("-vV")?;
        let field = |name| verbose.lines().find_map(|line| line.strip_prefix(name));
        Some(Self { release: field("release: ")?.to_owned(), llvm: LlvmVersion::parse(field("LLVM version: ")?)?, bin })
    }

    /// A call of this compiler's cargo. The variables of the cargo and rustup around xtask, which
    /// would name another compiler, are taken away.
    pub(crate) fn cargo(&self) -> Command {
        self.program("cargo")
    }

    /// A call of this compiler's clippy. `cargo clippy` would take the first clippy in PATH, which
    /// may belong to another compiler.
    pub(crate) fn clippy(&self) -> Command {
        let mut command = self.program("cargo-clippy");
        command.arg("clippy");
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        clean(&mut command)
            .env("CARGO", self.bin.join("cargo"))
            .env("RUSTC", self.bin.join("rustc"))
            // A stable compiler takes -Z build-std only so.
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// The directory of rustup's nightly compiler.
fn nightly() -> Option<PathBuf> {
    let mut rustup = Command::new(find_program("rustup")?);
    let rustc = output(rustup.args(["which", "--toolchain", "nightly", "rustc"])).ok()?;
    Path::new(&rustc).parent().map(Path::to_path_buf)
}

/// Takes away what cargo and rustup set for the processes that they start.
fn clean(command: &mut Command) -> &mut Command {
    let leaked = [
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    leaked.iter().fold(command, |command, name| command.env_remove(name))
}

/// An installed LLVM with its development files.
pub(crate) struct Llvm {
    /// Directory with `bin`, `include` and `lib`.
    pub(crate) prefix: PathBuf,
    /// Its version.
    pub(crate) version: LlvmVersion,
}

impl Llvm {
    /// The LLVM that can read what the compiler writes: its major version, and not older.
    fn matching(compiler: LlvmVersion) -> Option<Self> {
        let major = compiler.major;
        let named = [format!("llvm-config-{major}"), "llvm-config".into()];
        env::var_os("LLVM_PREFIX")
            .map(PathBuf::from)
            .into_iter()
            .chain([format!("/usr/lib/llvm-{major}").into(), format!("/usr/lib64/llvm{major}").into()])
            .map(|prefix| prefix.join("bin/llvm-config"))
            .chain(named.iter().filter_map(|name| find_program(name)))
            .filter_map(|llvm_config| Self::inspect(&llvm_config))
            .find(|llvm| llvm.version.major == major && llvm.version >= compiler)
    }

    fn inspect(llvm_config: &Path) -> Option<Self> {
        let ask = |argument| output(Command::new(llvm_config).arg(argument)).ok();
        let include = PathBuf::from(ask("--includedir")?);
        if !include.join("llvm-c").exists() {
            return None;
        }
        Some(Self { prefix: ask("--prefix")?.into(), version: LlvmVersion::parse(&ask("--version")?)? })
    }
}

/// A compiler and an LLVM that belong together, found or installed.
pub(crate) fn provide() -> Result<(Compiler, Llvm)> {
    let step = Step::start("eBPF compiler");
    let (compiler, llvm) = match installed() {
        Some(found) => found,
        None => install(&step).context(BY_HAND)?,
    };
    let Compiler { bin, release, llvm: built_in } = &compiler;
    step.done(&format!(
        "rustc {release} (LLVM {built_in}) in {}, LLVM {} in {}",
        bin.display(),
        llvm.version,
        llvm.prefix.display()
    ));
    Ok((compiler, llvm))
}

fn installed() -> Option<(Compiler, Llvm)> {
    Compiler::candidates().find_map(|compiler| Llvm::matching(compiler.llvm).map(|llvm| (compiler, llvm)))
}

fn install(step: &Step) -> Result<(Compiler, Llvm)> {
    let llvm_package = |compiler: &Compiler| format!("llvm-{}-dev", compiler.llvm.major);
    let obtainable = |package: &String| packages::available(package);
    let package = if let Some(package) = Compiler::candidates().map(|found| llvm_package(&found)).find(obtainable) {
        package
    } else {
        packages::install(&DEBIAN_COMPILER, step)?;
        let compiler = Compiler::inspect("/usr/bin".into()).context("the installed /usr/bin/rustc does not work")?;
        llvm_package(&compiler)
    };
    packages::install(&[&package], step)?;
    installed().with_context(|| format!("{package} is installed, but it is older than its compiler's LLVM"))
}
