//! `mpvpn class`: the rules for classes of flows, and what each has caught.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::{path::only_tunnel, units};
use crate::{
    cli::{ClassList, Global},
    dataplane::{Maps, Pins},
    observe::{CarriedStatus, ClassStatus, classes},
};

/// Runs `mpvpn class list`.
#[expect(clippy::unused_async, reason = "commands share one signature")]
pub async fn list(args: &ClassList, global: &Global) -> Result<()> {
    let name = only_tunnel(&global.bpffs, args.name.as_deref())?;
    let classes = classes(&Maps::open(&Pins::new(&global.bpffs, &name).current_maps()?)?)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "tunnel": name, "classes": classes }))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&classes).trim_fmt())?;
    }
    Ok(())
}

/// The table of `mpvpn class list`: a line for each way that packets of a rule were carried.
fn table(classes: &[ClassStatus]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "rule",
        "class",
        "lookups",
        "carried as",
        "packets",
        "bytes",
        "by two paths",
        "catches",
    ]);
    for class in classes {
        let unnamed = || if class.rule == 0 { "-".to_owned() } else { format!("#{}", class.rule) };
        let name = class.name.clone().unwrap_or_else(unnamed);
        let mut ways: Vec<_> = class.carried.iter().map(carried).collect();
        if ways.is_empty() {
            ways.push(["-"; 4].map(str::to_owned));
        }
        for (line, way) in ways.into_iter().enumerate() {
            let once = |text: &str| if line == 0 { text.to_owned() } else { String::new() };
            let head = [once(&name), once(class.class), once(&class.lookups.to_string())];
            table.add_row(head.into_iter().chain(way).chain([once(&class.catches)]));
        }
    }
    for column in [2, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn carried(way: &CarriedStatus) -> [String; 4] {
    let copies = match way.copies {
        0 => "-".to_owned(),
        copies => format!("{copies}, {}B", units::bytes(way.copied_bytes)),
    };
    [way.class.to_owned(), way.packets.to_string(), format!("{}B", units::bytes(way.bytes)), copies]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_way() {
        let carried = |class, packets, copies| CarriedStatus {
            class,
            packets,
            bytes: packets * 1024,
            copies,
            copied_bytes: copies * 1024,
        };
        let rule = |rule, name: Option<&str>, class, catches: &str, carried| ClassStatus {
            rule,
            name: name.map(str::to_owned),
            class,
            catches: catches.to_owned(),
            lookups: 7,
            carried,
        };
        let text = table(&[
            rule(1, Some("voice"), "duplicate", "udp; dscp ef", vec![carried("duplicate", 100, 80)]),
            rule(2, None, "pin", "tcp; ports 22", vec![]),
            rule(0, None, "automatic", "everything else", vec![carried("pin", 9, 0), carried("aggregate", 4096, 1)]),
        ])
        .trim_fmt();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "rule class lookups carried as packets bytes by two paths catches");
        assert_eq!(lines[1].join(" "), "voice duplicate 7 duplicate 100 100 KiB 80, 80 KiB udp; dscp ef");
        assert_eq!(lines[2].join(" "), "#2 pin 7 - - - - tcp; ports 22");
        assert_eq!(lines[3].join(" "), "- automatic 7 pin 9 9.0 KiB - everything else");
        assert_eq!(lines[4].join(" "), "aggregate 4096 4.0 MiB 1, 1.0 KiB");
        assert_eq!(lines.len(), 5);
    }
}
