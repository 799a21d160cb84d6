//! Child processes: how they are found, run and reported.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Step;

/// Lines of a failed command's output that its error quotes.
const QUOTED_LINES: usize = 40;

/// The path of a program, searched in `PATH` and in the directories of system administration
/// programs, which are not in the `PATH` of every user.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A command that runs as root: directly, or by sudo where sudo works without an answer or there is
/// somebody to answer.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let sudo = find_program("sudo").filter(|sudo| {
        let silent = Command::new(sudo).args(["-n", "true"]).stderr(Stdio::null()).status();
        std::io::stdin().is_terminal() || silent.is_ok_and(|status| status.success())
    });
    let Some(sudo) = sudo else {
        bail!("`{program}` needs root: run `cargo xtask` as root, or let this user use sudo");
    };
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}

/// Runs a command and gives back what it wrote to standard output, without surrounding whitespace.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}`: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command whose output goes where this process's output goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}

/// Runs a command whose outputs go to standard output, and gives back how it ended and what both had.
pub(crate) fn run_and_keep(command: &mut Command) -> Result<(ExitStatus, String)> {
    let line = command_line(command);
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let stderr = writer.try_clone().context("cannot copy a pipe's end")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(stderr);
    let mut child = command.spawn().with_context(|| format!("cannot run `{line}`"))?;
    // Our copies of the writing end would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        // In pieces, not in lines: a test's name stands there while it runs.
        let length = reader.read(&mut piece).with_context(|| format!("cannot read what `{line}` writes"))?;
        if length == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..length]);
        let mut out = std::io::stdout().lock();
        out.write_all(&piece[..length]).and_then(|()| out.flush()).context("cannot write to standard output")?;
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    Ok((status, String::from_utf8_lossy(&kept).into_owned()))
}

/// Runs a command whose output is only the step's progress; a failure quotes the end of it.
pub(crate) fn run_in_step(command: &mut Command, step: &Step) -> Result<()> {
    let line = command_line(command);
    step.note(&format!("running {line}"));
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let stderr = writer.try_clone().context("cannot copy a pipe's end")?;
    // sudo asks for its password on the terminal itself, not on standard input.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    // The command keeps the writing ends open, and the reader would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut lines = Vec::new();
    for bytes in BufReader::new(reader).split(b'\n') {
        let text = String::from_utf8_lossy(&bytes.context("cannot read a command's output")?).into_owned();
        step.tick(&text);
        lines.push(text);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() {
        let tail = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
        bail!("`{line}`: {status}\n{}", tail.join("\n"));
    }
    Ok(())
}

/// The command as one would type it, with the variables that were set for it.
fn command_line(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let value = value.to_string_lossy().replace('\u{1f}', " ");
            let _ = write!(line, "{}={} ", name.display(), quoted(&value));
        }
    }
    line.push_str(&quoted(&command.get_program().to_string_lossy()));
    for argument in command.get_args() {
        let _ = write!(line, " {}", quoted(&argument.to_string_lossy()));
    }
    line
}

/// Words as one command line of a shell.
pub(crate) fn shell_words(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$\\;&|<>()*?[]{}#~!`".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}
