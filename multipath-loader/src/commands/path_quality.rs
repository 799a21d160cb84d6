//! How good a peer's paths are: a table with a line for each, and notes below those that there is more to say of.

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::units::{bytes, megabits, milliseconds, percent, seconds};
use crate::{
    config::Rate,
    observe::{PathStatus, QualityStatus},
};

/// What stands above the columns. Two values with a slash are those of both directions, out and in.
const HEADER: [&str; 13] = [
    "path",
    "health",
    "role",
    "share",
    "rtt ms",
    "min",
    "delay",
    "jitter",
    "loss %",
    "Mbit/s",
    "max",
    "mtu",
    "sent/received B",
];

/// How long a line may become, characters.
const WIDTH: usize = 120;
/// How long a line of notes may become, characters.
const NOTE_WIDTH: usize = 110;

/// The table of `mpvpn status`. Names that would make it too wide stand in lines of their own.
pub(super) fn path_lines(paths: &[PathStatus]) -> String {
    let text = lines(paths, true);
    if text.lines().all(|line| line.chars().count() <= WIDTH) { text } else { lines(paths, false) }
}

fn lines(paths: &[PathStatus], has_names: bool) -> String {
    let first = usize::from(!has_names);
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(&HEADER[first..]);
    for path in paths {
        table.add_row(&row(path)[first..]);
    }
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if number + first > 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // No cell has two lines.
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let mut text = format!("  {}", header.trim_end());
    for (line, path) in lines.zip(paths) {
        if !has_names {
            text += "\n  ";
            text += &path.name;
        }
        text += "\n  ";
        text += line.trim_end();
        for note_line in filled(notes(path)) {
            text += "\n    ";
            text += &note_line;
        }
    }
    text
}

/// The notes in as few lines as they fit into.
fn filled(notes: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for note in notes {
        match lines.last_mut() {
            Some(line) if line.len() + note.len() <= NOTE_WIDTH => {
                line.push_str("; ");
                line.push_str(&note);
            }
            _ => lines.push(note),
        }
    }
    lines
}

fn row(path: &PathStatus) -> [String; 13] {
    let quality = &path.quality;
    let (out, inward) = (&quality.out, &quality.inward);
    let none = || "-".to_owned();
    let both = |out: String, inward: String| format!("{out}/{inward}");
    let has_rtt = quality.rtt_us.is_some();
    let ms = |us: u32| milliseconds(us);
    [
        path.name.clone(),
        path.health.to_owned(),
        path.role.to_owned(),
        format!("{:.0} %", path.share * 100.0),
        quality.rtt_us.zip(quality.rtt_deviation_us).map_or_else(none, |(rtt, dev)| format!("{}±{}", ms(rtt), ms(dev))),
        quality.rtt_min_us.map_or_else(none, ms),
        out.delay_us
            .zip(inward.delay_us)
            .map_or_else(none, |(out, inward)| both(milliseconds(out), milliseconds(inward))),
        if has_rtt { both(ms(out.jitter_us), ms(inward.jitter_us)) } else { none() },
        if has_rtt { both(percent(out.loss_5s_ppm), percent(inward.loss_5s_ppm)) } else { none() },
        both(megabits(out.delivered_kbps), megabits(inward.delivered_kbps)),
        quality.capacity_out_kbps.map_or_else(none, megabits),
        quality.mtu_bytes.map_or_else(none, |mtu| mtu.to_string()),
        both(bytes(path.egress.bytes).trim_end().to_owned(), bytes(path.ingress.bytes).trim_end().to_owned()),
    ]
}

/// What there is to say of a path beside the table.
fn notes(path: &PathStatus) -> Vec<String> {
    let quality = &path.quality;
    let mut notes = Vec::new();
    if !["up", "unknown"].contains(&path.health) {
        let since = path.since_seconds.map_or_else(String::new, |since| format!(" for {}", seconds(since)));
        notes.push(format!("{}{since}: {}", path.health, path.reason));
    }
    if path.state == "doubted" {
        notes.push("its packets go by another path as well".to_owned());
    }
    if quality.flaps_10min > 1 {
        notes.push(format!("went down or lossy {} times in 10 min", quality.flaps_10min));
    }
    notes.extend(by_hand(path));
    let is_peers_word = path.peer_role == Some(path.role) && path.operator_role != Some(path.role);
    if is_peers_word && !["active", "down"].contains(&path.role) {
        notes.push(format!("the other gateway says {}", path.role));
    }
    if let Some((used, quota)) = quality.quota_used_bytes.zip(quality.quota_bytes) {
        notes.push(format!("{}B of its quota of {}B used", bytes(used), bytes(quota)));
    }
    if path.role == "metered" && path.health != "down" {
        notes.push(probing(quality));
    }
    notes
}

/// What was set by hand.
fn by_hand(path: &PathStatus) -> Option<String> {
    let role = path.operator_role.map(|role| format!("role {role}"));
    let weight = path.operator_weight.map(|weight| format!("weight {weight}"));
    let rate = path.operator_rate_kbps.and_then(Rate::from_kbit).map(|rate| format!("rate {rate}"));
    let set: Vec<String> = [role, weight, rate].into_iter().flatten().collect();
    (!set.is_empty()).then(|| format!("{} by hand", set.join(", ")))
}

/// What probes cost, and what they are good for.
fn probing(quality: &QualityStatus) -> String {
    format!(
        "probed every {}, {}B a day: a failure is left within {}",
        seconds(f64::from(quality.interval_us) / 1e6),
        bytes(quality.probe_bytes_per_day),
        seconds(f64::from(quality.failover_us) / 1e6)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{ArrivalsStatus, DirectionStatus, PacingStatus, PathBondStatus, TrafficStatus};

    fn direction(delay_us: i32, loss_5s_ppm: u32, delivered_kbps: u32) -> DirectionStatus {
        DirectionStatus {
            delay_us: Some(delay_us),
            jitter_us: 310,
            loss_5s_ppm,
            loss_30s_ppm: 0,
            loss_60s_ppm: 0,
            late_5s_ppm: 0,
            late_30s_ppm: 0,
            late_60s_ppm: 0,
            reordered_60s_ppm: 0,
            delivered_kbps,
        }
    }

    fn path(name: &str) -> PathStatus {
        PathStatus {
            name: name.to_owned(),
            uplink: "dsl".to_owned(),
            interface: Some("ppp0".to_owned()),
            id: 0,
            key: 0,
            state: "up",
            health: "up",
            reason: "probes are answered",
            since_seconds: Some(77.0),
            used: true,
            role: "active",
            operator_role: None,
            peer_role: Some("active"),
            weight: 1,
            operator_weight: None,
            share: 0.75,
            rate_kbps: None,
            operator_rate_kbps: None,
            local: None,
            remote: "198.51.100.7:5182".parse().unwrap(),
            flow: 0,
            learned: false,
            inner_mtu: Some(1436),
            quality: QualityStatus {
                rtt_us: Some(22_340),
                rtt_min_us: Some(21_900),
                rtt_deviation_us: Some(420),
                rtt_last_us: Some(22_000),
                answered_seconds: Some(0.05),
                probes: 1000,
                unanswered: 3,
                interval_us: 80_000,
                failover_us: 280_000,
                probe_bytes_per_day: 300_000_000,
                quota_used_bytes: None,
                quota_bytes: None,
                capacity_out_kbps: Some(9500),
                queue_out_us: 0,
                mtu_bytes: Some(1492),
                flaps_10min: 0,
                out: direction(10_100, 0, 9400),
                inward: direction(12_240, 12_000, 87_000),
            },
            egress: TrafficStatus { packets: 1, bytes: 3 << 29, last_seen_seconds: Some(0.0) },
            ingress: TrafficStatus { packets: 1, bytes: 14 << 30, last_seen_seconds: Some(0.0) },
            doubled_packets: 0,
            pacing: PacingStatus { pressed_packets: 0, dropped_packets: 0, marked_packets: 0 },
            arrivals: ArrivalsStatus { packets: 0, bytes: 0, reordered: 0, late: 0, striped: 0, overdue: 0, unheld: 0 },
            bond: PathBondStatus {
                out: false,
                inward: false,
                delay_out_us: None,
                need_in_us: 0,
                hold: 0,
                penalty_us: 0,
                loss_ppm: 0,
                rate_kbps: None,
                share_in: 0.0,
            },
        }
    }

    #[test]
    fn one_screen() {
        let mut lte = path("hub/lte#2");
        lte.health = "down";
        lte.state = "standby";
        lte.reason = "probes have no answer";
        lte.role = "metered";
        lte.operator_role = Some("metered");
        lte.share = 0.0;
        lte.quality.interval_us = 5_000_000;
        lte.quality.failover_us = 15_100_000;
        lte.quality.probe_bytes_per_day = 4_400_000;
        lte.quality.quota_bytes = Some(10 << 30);
        lte.quality.quota_used_bytes = Some(3 << 30);
        let mut spare = lte.clone();
        spare.health = "backup";
        spare.reason = "a path of a better tier works";
        spare.operator_role = None;
        spare.peer_role = Some("metered");
        spare.quality.quota_bytes = None;
        spare.quality.quota_used_bytes = None;
        let mut new = path("hub/fiber");
        new.health = "probing";
        new.reason = "new path";
        new.quality.rtt_us = None;
        new.quality.rtt_min_us = None;
        new.quality.out.delay_us = None;
        new.quality.mtu_bytes = None;
        new.quality.capacity_out_kbps = None;
        let text = path_lines(&[path("hub/dsl"), lte, spare, new]);
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        assert!(lines[1].starts_with("  hub/dsl    up       active"), "{text}");
        assert_eq!(
            lines[3],
            "    down for 77 s: probes have no answer; role metered by hand; 3.0 GiB of its quota of 10 GiB used"
        );
        assert_eq!(lines[5], "    backup for 77 s: a path of a better tier works; the other gateway says metered");
        assert_eq!(lines[6], "    probed every 5.0 s, 4.1 MiB a day: a failure is left within 15 s");
        assert_eq!(lines[8], "    probing for 77 s: new path");
    }

    #[test]
    fn long_names_have_lines_of_their_own() {
        let mut wide = path("a-hub-in-vienna/starlink-roof-1/2#8");
        wide.health = "disabled";
        wide.reason = "the other gateway's operator";
        wide.role = "metered";
        wide.share = 1.0;
        wide.quality.rtt_us = Some(1_999_000);
        wide.quality.rtt_deviation_us = Some(1_999_000);
        wide.quality.rtt_min_us = Some(1_999_000);
        wide.quality.capacity_out_kbps = Some(25_000_000);
        wide.quality.mtu_bytes = Some(65_535);
        wide.quality.out = DirectionStatus { jitter_us: 999_000, ..direction(-999_000, 1_000_000, 9_999_000) };
        wide.quality.inward = wide.quality.out.clone();
        (wide.egress.bytes, wide.ingress.bytes) = (1023 << 30, 1023 << 30);
        let text = path_lines(&[path("hub/dsl"), wide]);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "  hub/dsl");
        assert!(lines[2].starts_with("  up        active "), "{text}");
    }
}
