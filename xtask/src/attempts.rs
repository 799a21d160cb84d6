//! Lab tests that have failed, and their second attempt: they run real links in real time, and a machine that stops for a
//! moment fails one of them. Each is run again by itself; what fails twice has failed.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::run_and_keep;

/// What cargo says of a target with failed tests, before the arguments that name it.
const RERUN: &str = "to rerun pass `";
/// What a target says of its only test.
const ONE_PASSED: &str = "test result: ok. 1 passed";

/// A failed test.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    /// The arguments of cargo that name its target.
    target: Vec<String>,
    /// Its name there.
    name: String,
}

/// Runs `cargo test`, once more for each test that has failed. `tests` gives the command up to the package; `of_all` are the
/// arguments of the tests for the first attempt. The names of tests that a second attempt has passed are added to `second`.
///
/// # Errors
/// A test has failed twice, or something else is wrong.
pub(crate) fn run(tests: impl Fn() -> Command, of_all: &[&str], second: &mut Vec<String>) -> Result<()> {
    let (status, output) = run_and_keep(tests().arg("--").args(of_all))?;
    if status.success() {
        return Ok(());
    }
    let failed = failed(&output);
    ensure!(!failed.is_empty(), "the tests: {status}");
    let mut twice = Vec::new();
    for Failed { target, name } in failed {
        println!("\n=== once more, alone: {name}");
        let (status, output) = run_and_keep(tests().args(&target).args(["--", "--exact", &name]))?;
        // A name that no test has is no failure to cargo.
        let has_passed = status.success() && output.contains(ONE_PASSED);
        if has_passed { second.push(name) } else { twice.push(name) }
    }
    if twice.is_empty() { Ok(()) } else { bail!("failed twice: {}", twice.join(", ")) }
}

/// The failed tests in the output of `cargo test --no-fail-fast`; none when a target failed without saying which of its tests
/// did.
fn failed(output: &str) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for line in output.lines() {
        if line == "failures:" {
            // Twice in each target: before what the tests wrote, and before their names.
            names.clear();
        } else if let Some(name) = line.strip_prefix("    ").filter(|name| !name.contains(char::is_whitespace)) {
            names.push(name);
        } else if let Some((_, arguments)) = line.split_once(RERUN) {
            if names.is_empty() {
                return Vec::new();
            }
            let arguments = arguments.trim_end_matches('`').split_whitespace();
            let target: Vec<String> = arguments.skip_while(|word| !word.starts_with("--")).map(str::to_owned).collect();
            failed.extend(names.drain(..).map(|name| Failed { target: target.clone(), name: name.to_owned() }));
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running tests/paths/main.rs (target/debug/deps/paths-1)
running 3 tests
test a::one ... ok
test a::two ... FAILED
test b::three ... FAILED

failures:

---- a::two stdout ----
    indented

---- b::three stdout ----

failures:
    a::two
    b::three

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p multipath-tests --test paths`
     Running tests/lab.rs (target/debug/deps/lab-2)
test four ... FAILED
failures:
    four

error: test failed, to rerun pass `--test lab`
error: 2 targets failed:
    `-p multipath-tests --test paths`
    `--test lab`
";

    #[test]
    fn failed_tests_are_found_with_their_targets() {
        let test = |target: &str, name: &str| Failed {
            target: vec!["--test".to_owned(), target.to_owned()],
            name: name.to_owned(),
        };
        assert_eq!(failed(OUTPUT), [test("paths", "a::two"), test("paths", "b::three"), test("lab", "four")]);
    }

    #[test]
    fn a_target_that_breaks_off_is_not_attempted_again() {
        let broken = format!("{OUTPUT}error: test failed, to rerun pass `--test other`\n");
        assert_eq!(failed(&broken), []);
    }
}
