//! TOML with places: tables and values that report what is wrong with them under their key.

use std::ops::{Range, RangeInclusive};

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Report;

/// A table of the file, whose keys are taken one by one; what is left over is unknown.
pub(super) struct Section<'a> {
    /// Its name as a TOML path; empty for the whole file.
    name: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    /// The keys that were asked for.
    known: Vec<&'static str>,
}

/// A value of the file.
pub(super) struct Value<'a> {
    /// Its key as a TOML path.
    pub(super) key: String,
    pub(super) span: Range<usize>,
    content: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a Spanned<DeTable<'a>>) -> Self {
        Self { name: String::new(), span: table.span(), table: table.get_ref(), known: Vec::new() }
    }

    /// The value of `key`, if the file has it.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Value { key: self.path(key), span: value.span(), content: value.get_ref() })
    }

    /// The value of `key`; its absence is an error.
    pub(super) fn required(&mut self, key: &'static str, expected: &str, report: &mut Report) -> Option<Value<'a>> {
        let value = self.optional(key);
        if value.is_none() {
            self.missing(key, expected, report);
        }
        value
    }

    /// Reports that there is no `key`.
    pub(super) fn missing(&self, key: &str, expected: &str, report: &mut Report) {
        report.add(&self.span, Some(&self.path(key)), "nothing", expected);
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        for key in self.table.keys() {
            let found: &str = key.get_ref();
            if self.known.contains(&found) {
                continue;
            }
            // A swapped or wrong letter or two; a short key has no room for two.
            let nearest = self.known.iter().min_by_key(|known| strsim::osa_distance(known, found));
            let expected = match nearest {
                Some(known) if strsim::osa_distance(known, found) <= (found.chars().count() / 3).clamp(1, 3) => {
                    format!("a known key (did you mean `{known}`?)")
                }
                _ => format!("one of {}", self.known.join(", ")),
            };
            report.add(&key.span(), Some(&self.path(found)), "an unknown key", expected);
        }
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl<'a> Value<'a> {
    /// The text; anything else is an error.
    pub(super) fn text(&self, expected: &str, report: &mut Report) -> Option<&'a str> {
        match self.content {
            DeValue::String(text) => Some(text),
            _ => self.wrong(expected, report),
        }
    }

    /// The text as `read` understands it; what it does not is an error, with what it says it expected.
    pub(super) fn parse<T, E: ToString>(
        &self,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
        report: &mut Report,
    ) -> Option<T> {
        self.understood(read(self.text(expected, report)?), report)
    }

    /// As [`parse`](Self::parse), for a text that may be a whole number without quotes as well.
    pub(super) fn parse_bare<T, E: ToString>(
        &self,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
        report: &mut Report,
    ) -> Option<T> {
        let text = match self.content {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => self.text(expected, report)?,
        };
        self.understood(read(text), report)
    }

    fn understood<T, E: ToString>(&self, read: Result<T, E>, report: &mut Report) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(expected) => self.wrong(&expected.to_string(), report),
        }
    }

    /// The one of `choices` whose name it is; anything else is an error.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], report: &mut Report) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let expected = names.join(" or ");
        let text = self.text(&expected, report)?;
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => self.wrong(&expected, report),
        }
    }

    /// The whole number within `range`; anything else is an error.
    pub(super) fn number(&self, range: &RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
        let number = match self.content {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.wrong(&format!("a whole number from {} to {}", range.start(), range.end()), report),
        }
    }

    /// The elements of the list; anything else is an error.
    pub(super) fn list(&self, expected: &str, report: &mut Report) -> Vec<Value<'a>> {
        let DeValue::Array(elements) = self.content else {
            self.wrong::<()>(expected, report);
            return Vec::new();
        };
        let element = |element: &'a Spanned<DeValue<'a>>| Value {
            key: self.key.clone(),
            span: element.span(),
            content: element.get_ref(),
        };
        elements.iter().map(element).collect()
    }

    /// The table; anything else is an error.
    pub(super) fn table(&self, expected: &str, report: &mut Report) -> Option<Section<'a>> {
        match self.content {
            DeValue::Table(table) => {
                Some(Section { name: self.key.clone(), span: self.span.clone(), table, known: Vec::new() })
            }
            _ => self.wrong(expected, report),
        }
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.content.as_str()
    }

    /// Whether it is a list of nothing.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(self.content, DeValue::Array(list) if list.is_empty())
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.content, DeValue::Table(_))
    }

    /// Reports that this is not what was expected.
    pub(super) fn wrong<T>(&self, expected: &str, report: &mut Report) -> Option<T> {
        let found = match self.content {
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Array(list) if list.is_empty() => "an empty list".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => report.written(&self.span).to_owned(),
        };
        report.add(&self.span, Some(&self.key), found, expected);
        None
    }
}
