//! One error in a configuration file, with its place, and the list that they are collected in.

use std::{
    fmt, iter,
    ops::Range,
    path::{Path, PathBuf},
};

/// One error in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Line and column in characters, both from 1; `None` if the error is in the file's name.
    pub place: Option<(usize, usize)>,
    /// The key as a TOML path, for instance `uplink.weight`; `None` if the file is not TOML there.
    pub key: Option<String>,
    /// What stands there.
    pub found: String,
    /// What should stand there, and what to do if that is not obvious.
    pub expected: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " found {}, expected {}", self.found, self.expected)
    }
}

/// The errors of one file, found in any order.
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    /// The bytes at which the lines start.
    lines: Vec<usize>,
    /// Each with the byte where it was found, which gives the order of the list.
    errors: Vec<(usize, Diagnostic)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        let lines = iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, lines, errors: Vec::new() }
    }

    /// Adds an error at the bytes `span` of the file.
    pub(super) fn add(
        &mut self,
        span: &Range<usize>,
        key: Option<&str>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(span.start, Some(self.place(span.start)), key, found.into(), expected.into());
    }

    /// Adds an error in the file's name.
    pub(super) fn add_file_name(&mut self, found: impl Into<String>, expected: impl Into<String>) {
        self.push(0, None, Some("file name"), found.into(), expected.into());
    }

    fn push(&mut self, at: usize, place: Option<(usize, usize)>, key: Option<&str>, found: String, expected: String) {
        let key = key.map(str::to_owned);
        self.errors.push((at, Diagnostic { file: self.file.to_owned(), place, key, found, expected }));
    }

    /// The line of the file in which the bytes `span` start, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.place(span.start).0
    }

    /// The bytes `span` of the file as they are written; nothing if they are not whole characters.
    pub(super) fn written(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.lines.partition_point(|&start| start <= at);
        let before = String::from_utf8_lossy(&self.text.as_bytes()[self.lines[line - 1]..at]);
        (line, before.chars().count() + 1)
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors in the file's order.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.errors.sort_by_key(|(at, _)| *at);
        self.errors.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}
