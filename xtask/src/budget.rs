//! `cargo xtask budget`: the verifier's work on each program against the committed budget.

use anyhow::Result;

use crate::command::run;
use crate::test::lab;
use crate::workspace::{Profile, Workspace};
use crate::{build, setup};

/// Runs the budget test, which loads every program of the object; `update` lets it write the
/// budget instead of comparing.
pub(crate) fn check(workspace: &Workspace, update: bool) -> Result<()> {
    let toolchain = setup::machine(workspace)?;
    build::object(workspace, &toolchain)?;
    let mut cargo = lab(workspace, Profile::Debug);
    cargo.args(["--test", "budget", "--", "--nocapture"]);
    if update {
        cargo.env("MPVPN_BUDGET_UPDATE", "1");
    }
    run(&mut cargo)
}
