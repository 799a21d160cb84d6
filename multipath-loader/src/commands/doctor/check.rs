//! One line of the doctor's report.

use std::io::{self, Write};

use serde::Serialize;

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    verdict: Verdict,
    /// What was looked at.
    subject: String,
    /// What was found.
    found: String,
    /// What to do; `None` if all is well.
    advice: Option<String>,
}

/// What a check comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but worse than it could.
    Warn,
    /// Does not work.
    Fail,
}

impl Check {
    pub(super) fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject: subject.into(), found: found.into(), advice: None }
    }

    pub(super) fn warn(subject: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject: subject.into(), found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn fail(subject: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, subject: subject.into(), found: found.into(), advice: Some(advice.into()) }
    }

    #[cfg(test)]
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// How many checks came to that.
pub(super) fn count(checks: &[Check], verdict: Verdict) -> usize {
    checks.iter().filter(|check| check.verdict == verdict).count()
}

/// Prints one line for each check, and below it what to do.
pub(super) fn print(checks: &[Check], out: &mut impl Write) -> io::Result<()> {
    let width = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or_default();
    for Check { verdict, subject, found, advice } in checks {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        writeln!(out, "{verdict:<4}  {subject:<width$}  {found}")?;
        if let Some(advice) = advice {
            writeln!(out, "      {:<width$}  -> {advice}", "")?;
        }
    }
    Ok(())
}

/// Prints one JSON object.
pub(super) fn print_json(checks: &[Check], out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        ok: usize,
        warn: usize,
        fail: usize,
        checks: &'a [Check],
    }
    let [ok, warn, fail] = [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| count(checks, verdict));
    serde_json::to_writer_pretty(&mut *out, &Report { ok, warn, fail, checks })?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> [Check; 2] {
        [Check::ok("clock", "2026"), Check::fail("uplink dsl", "down", "ip link set ppp0 up")]
    }

    #[test]
    fn lines() {
        let mut out = Vec::new();
        print(&checks(), &mut out).unwrap();
        let expected = "ok    clock       2026\n\
                        fail  uplink dsl  down\n                  \
                        -> ip link set ppp0 up\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json() {
        let mut out = Vec::new();
        print_json(&checks(), &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["ok"], &value["fail"]), (&1.into(), &1.into()));
        assert_eq!(value["checks"][1]["verdict"], "fail");
        assert_eq!(value["checks"][1]["advice"], "ip link set ppp0 up");
    }
}
