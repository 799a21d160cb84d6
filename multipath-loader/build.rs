//! Embeds the eBPF object: copies it to `OUT_DIR/multipath.o`, or an empty file where there is none.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=MPVPN_BPF_OBJECT");
    let object = env::var_os("MPVPN_BPF_OBJECT").map_or_else(built_object, PathBuf::from);
    let content = read(&object);
    let embedded = variable("OUT_DIR").join("multipath.o");
    // The same content must not look new: everything that includes it would be compiled again.
    if fs::read(&embedded).ok().as_ref() != Some(&content) {
        fs::write(&embedded, content).unwrap_or_else(|error| fail("write", &embedded, &error));
    }
}

/// Where `cargo xtask build` puts the object.
fn built_object() -> PathBuf {
    variable("CARGO_MANIFEST_DIR").join("../target/bpf/multipath.o")
}

/// The object's content, and word to cargo when to look again.
fn read(object: &Path) -> Vec<u8> {
    if object.exists() {
        println!("cargo:rerun-if-changed={}", object.display());
        return fs::read(object).unwrap_or_else(|error| fail("read", object, &error));
    }
    println!("cargo:warning=no eBPF object at {}: mpvpn can run no tunnel; `cargo xtask build`", object.display());
    // Cargo runs a build script each time when it watches a missing file, so watch the directory.
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory).unwrap_or_else(|error| fail("make", directory, &error));
        println!("cargo:rerun-if-changed={}", directory.display());
    }
    Vec::new()
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("cargo did not set {name} for this build script")).into()
}

fn fail(what: &str, path: &Path, error: &std::io::Error) -> ! {
    panic!("cannot {what} {}: {error}", path.display())
}
