//! The Rust types of the maps against the object's BTF: what `bpftool` prints is what the loader reads.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use multipath_common::bond::{Bond, BondMember};
use multipath_common::classes::{ClassRule, ClassStats, Destination, DestinationKey, Lead};
use multipath_common::maps::{
    Address, Capacity, DropKey, DropStats, Flow, FlowKey, Lane, Origin, OriginKey, PINNED, PartKey, Path, PathSettings,
    PathStats, Peer, Session, SessionKeys, Source, StoredPart, Traffic, Tunnel, bpf_spin_lock,
};
use multipath_common::playout::{HeldHeader, HeldPacket, Playout, Stage};
use multipath_common::quality::{Arrivals, PathClock, PathLogEntry, PathQuality};
use multipath_common::window::Window;
use multipath_loader::dataplane::LoadedPrograms;
use multipath_tests::Lab;
use serde::Deserialize;

/// A struct: its bytes, and name, offset and bytes of each field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    size: usize,
    fields: Vec<(String, usize, usize)>,
}

fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The layouts of structs by name, as the compiler sees them. A field that is not listed does not compile.
macro_rules! layouts {
    ($($name:ident { $($field:ident),+ })+) => {
        BTreeMap::from([$({
            let _exhaustive = |value: $name| { let $name { $($field: _),+ } = value; };
            let fields = vec![$((
                stringify!($field).to_owned(),
                offset_of!($name, $field),
                field_size(|value: &$name| &value.$field),
            )),+];
            (stringify!($name), Layout { size: size_of::<$name>(), fields })
        }),+])
    };
}

fn layouts() -> BTreeMap<&'static str, Layout> {
    layouts! {
        Tunnel {
            device_ifindex, port_ifindex, mtu, port_count, listen_port, device_mac, name, configured_ns, refused_ns
        }
        Peer { session, path_set, cipher, attempts, trouble, credentials, handshake_ns, name, public_key }
        bpf_spin_lock { val }
        Window { next, seen }
        Session {
            index, remote_index, peer, cipher, expires_ns, next_counter, lock, is_initiator, window
        }
        SessionKeys { send, receive }
        Path {
            state, ifindex, inner_mtu, largest, family, next_hop_family, local_port, remote_port, local, remote, next_hop,
            uplink, endpoint, learned, flow
        }
        PathSettings { weight, rate_kbps, role }
        Lane {
            handed, last_ns, least, cpu, window, current, previous, reserved, done, reserved_done
        }
        Traffic { packets, bytes, last_seen_ns }
        PathStats { egress, ingress, doubled, doubled_bytes }
        DropKey { reason, ifindex, path }
        DropStats { packets, bytes, last_seen_ns }
        Address { address }
        FlowKey { source, destination, ports, protocol }
        Flow {
            generation, bytes, last_ns, look_ns, look_bytes, peer, path, class, rule, dscp, shortest, longest,
            due_us, is_bulk, pressed
        }
        ClassRule { class, rule, protocol, dscp, first_port, last_port, shortest, longest, prefix, mask, name }
        ClassStats { matches, packets, bytes, copies, copied_bytes }
        Lead { hold, reserved }
        DestinationKey { source, destination, port, protocol }
        Destination { until_ns }
        Bond { members, measured, is_lossy, spread_us }
        BondMember { rate_kbps, hold, penalty_us, delay_us, loss_ppm, reserved }
        Playout { near_us, spread_us, need_us }
        Stage { alive_until_ns, kind, is_asleep }
        HeldHeader { peer, timestamp, hold, len }
        HeldPacket { header, bytes }
        Source { generation, peer, reserved }
        OriginKey { peer, path }
        Origin { ifindex, family, local, remote, remote_port, local_port, reserved }
        PartKey { counter, session, reserved }
        StoredPart { part, len, tos, bytes }
        Arrivals {
            packets, bytes, reordered, late, counter, peer_sent, received_then, probes, awaited, striped, overdue,
            unheld, timestamp, transit_us, smoothed_us, jitter_scaled_us, peer_role, peer_is_member, high_us, striped_us,
            striped_jitter_scaled_us, is_begun
        }
        PathClock {
            next_free_ns, busy_since_ns, above_since_ns, drop_next_ns, pressed, dropped, marked, count, last_count, is_dropping,
            lock
        }
        PathQuality {
            since_ns, answered_ns, probes, unanswered, probe_bytes_per_day, quota_used_bytes, quota_bytes, health, reason,
            role, is_used, interval_us, failover_us, rtt_min_us, rtt_us, rtt_deviation_us, rtt_last_us, delay_out_us,
            delay_in_us, jitter_out_us, jitter_in_us, loss_out_ppm, loss_in_ppm, late_out_ppm, late_in_ppm,
            reordered_out_ppm, reordered_in_ppm, delivered_out_kbps, delivered_in_kbps, capacity_out_kbps, queue_out_us,
            mtu, flaps
        }
        PathLogEntry { sequence, at_ns, slot, from, to, reason, detail, endpoint, flow, reserved, uplink, peer }
    }
}

/// Key and value of each map, as the tables in `multipath_common::maps` and `quality` say.
const MAPS: [(&str, &str, &str); 34] = [
    ("tunnel", "u32", "Tunnel"),
    ("generation", "u32", "u64"),
    ("allowed_ips", "Key", "u32"),
    ("local_addresses", "Address", "u32"),
    ("peers", "u32", "Peer"),
    ("sessions", "u32", "Session"),
    ("session_keys", "u32", "SessionKeys"),
    ("paths", "u32", "Path"),
    ("path_automatic", "u32", "PathSettings"),
    ("path_operator", "u32", "PathSettings"),
    ("arrival_paths", "u32", "u32"),
    ("path_stats", "u32", "PathStats"),
    ("drops", "DropKey", "DropStats"),
    ("flows", "FlowKey", "Flow"),
    ("sources", "Address", "Source"),
    ("origins", "OriginKey", "Origin"),
    ("part_store", "PartKey", "StoredPart"),
    ("part_scratch", "u32", "StoredPart"),
    ("spreading", "u32", "u32"),
    ("lanes", "u32", "Lane"),
    ("arrivals", "u32", "Arrivals"),
    ("path_clocks", "u32", "PathClock"),
    ("path_quality", "u32", "PathQuality"),
    ("path_log", "u32", "PathLogEntry"),
    ("class_rules", "u32", "ClassRule"),
    ("class_stats", "u32", "ClassStats"),
    ("leads", "FlowKey", "Lead"),
    ("destinations", "DestinationKey", "Destination"),
    ("bonds", "u32", "Bond"),
    ("bond_members", "u32", "BondMember"),
    ("bond_clocks", "u32", "PathClock"),
    ("playouts", "u32", "Playout"),
    ("playout_stage", "u32", "Stage"),
    ("held_scratch", "u32", "HeldPacket"),
];

/// The ring buffers, which have neither key nor value.
const RINGS: [&str; 5] = ["origin_events", "control_events", "probe_events", "flow_events", "held"];

/// A type as `bpftool btf dump --json` prints it.
#[derive(Deserialize)]
struct Type {
    id: u32,
    kind: String,
    #[serde(default)]
    name: String,
    size: Option<usize>,
    #[serde(rename = "type_id")]
    target: Option<u32>,
    nr_elems: Option<usize>,
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    type_id: u32,
    bits_offset: usize,
}

struct Btf {
    types: BTreeMap<u32, Type>,
}

impl Btf {
    fn of_object(object: &FilePath) -> Result<Self> {
        #[derive(Deserialize)]
        struct Dump {
            types: Vec<Type>,
        }
        let json = bpftool(&["--json", "btf", "dump", "file", &object.to_string_lossy()])?;
        let dump: Dump = serde_json::from_str(&json).context("bpftool's BTF dump is not what it was")?;
        Ok(Self { types: dump.types.into_iter().map(|described| (described.id, described)).collect() })
    }

    fn get(&self, id: u32) -> Result<&Type> {
        self.types.get(&id).with_context(|| format!("no type {id}"))
    }

    fn size(&self, id: u32) -> Result<usize> {
        let described = self.get(id)?;
        match (described.size, described.nr_elems, described.target) {
            (Some(size), _, _) => Ok(size),
            (None, Some(count), Some(element)) => Ok(count * self.size(element)?),
            (None, None, Some(target)) => self.size(target),
            _ => anyhow::bail!("type {id} ({}) has no size", described.kind),
        }
    }

    /// The type that a map's definition points to by `key` or `value`.
    fn of_map(&self, map: &str, member: &str) -> Result<&Type> {
        let variable = self.types.values().find(|described| described.kind == "VAR" && described.name == map);
        let variable = variable.with_context(|| format!("the object has no map {map}"))?;
        let definition = self.get(variable.target.context("a variable has a type")?)?;
        let pointer = definition.members.iter().find(|candidate| candidate.name == member);
        let pointer = pointer.with_context(|| format!("the map {map} says nothing of its {member}"))?;
        self.get(self.get(pointer.type_id)?.target.context("no pointer")?)
    }

    fn layout(&self, described: &Type) -> Result<Layout> {
        let fields = described.members.iter().map(|member| {
            ensure!(member.bits_offset % 8 == 0, "{}.{} is a bit field", described.name, member.name);
            Ok((member.name.clone(), member.bits_offset / 8, self.size(member.type_id)?))
        });
        Ok(Layout { size: self.size(described.id)?, fields: fields.collect::<Result<_>>()? })
    }

    /// Holds a type, and the structs in it, against the Rust types of the same names.
    fn compare(&self, described: &Type, rust: &BTreeMap<&str, Layout>) -> Result<()> {
        let expected = rust.get(described.name.as_str()).with_context(|| format!("no Rust type {}", described.name))?;
        let layout = self.layout(described)?;
        ensure!(layout == *expected, "{}: the object has {layout:?}, the loader {expected:?}", described.name);
        for member in &described.members {
            let inner = self.get(member.type_id)?;
            if inner.kind == "STRUCT" {
                self.compare(inner, rust)?;
            }
        }
        Ok(())
    }

    fn compare_maps(&self, rust: &BTreeMap<&str, Layout>) -> Result<()> {
        for (map, key, value) in MAPS {
            for (member, expected) in [("key", key), ("value", value)] {
                let described = self.of_map(map, member)?;
                let size = self.size(described.id)?;
                match expected {
                    "u32" | "u64" => {
                        let bytes = if expected == "u32" { 4 } else { 8 };
                        ensure!(
                            described.kind == "INT" && size == bytes,
                            "{member} of {map}: {} of {size}",
                            described.kind
                        );
                    }
                    // The kernel's `bpf_lpm_trie_key`: prefix length, then the address.
                    "Key" => ensure!(size == 4 + 16, "{member} of {map}: {size} bytes"),
                    _ => {
                        ensure!(described.name == expected, "{member} of {map} is {}, not {expected}", described.name);
                        self.compare(described, rust).with_context(|| format!("{member} of the map {map}"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn bpftool(arguments: &[&str]) -> Result<String> {
    let output = Command::new("bpftool").args(arguments).output().context("cannot run bpftool: `cargo xtask setup`")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bpftool {}: {error}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// The object that `mpvpn` embeds.
fn object() -> PathBuf {
    let built = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/multipath.o");
    env::var_os("MPVPN_BPF_OBJECT").map_or(built, PathBuf::from)
}

#[test]
fn every_map_has_the_types_of_the_loader() -> Result<()> {
    let mut named: Vec<&str> = MAPS.iter().map(|(map, ..)| *map).chain(RINGS).collect();
    let mut pinned = PINNED.map(|(name, _)| name).to_vec();
    named.sort_unstable();
    pinned.sort_unstable();
    ensure!(named == pinned, "the table of this test has {named:?}, pinned are {pinned:?}");
    Btf::of_object(&object())?.compare_maps(&layouts())
}

#[test]
fn a_moved_field_is_noticed() -> Result<()> {
    let btf = Btf::of_object(&object())?;
    for (name, layout) in layouts() {
        for field in 0..layout.fields.len() {
            let mut moved = layouts();
            let fields = &mut moved.get_mut(name).context("a name of the table")?.fields;
            fields[field].1 += 1;
            ensure!(btf.compare_maps(&moved).is_err(), "{name}.{}: nobody noticed", layout.fields[field].0);
        }
    }
    Ok(())
}

#[test]
fn bpftool_prints_the_names_of_the_fields_and_the_kinds() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.bpffs("btf")?.join("maps");
    fs::create_dir(&directory)?;
    let programs = LoadedPrograms::load(&directory, Capacity::for_counts(1, 1))?;
    let printed = bpftool(&["map", "dump", "pinned", &directory.join("path_stats").to_string_lossy()])?;
    for name in ["egress", "ingress", "packets", "bytes", "last_seen_ns"] {
        ensure!(printed.contains(&format!("\"{name}\": ")), "bpftool does not print {name}:\n{printed:.1000}");
    }
    for (name, kind) in PINNED {
        let shown = bpftool(&["map", "show", "pinned", &directory.join(name).to_string_lossy()])?;
        ensure!(shown.contains(&format!(": {kind}  ")), "{name} is no {kind}: {shown}");
    }
    drop(programs);
    ensure!(lab.close()?.is_empty(), "something is left behind");
    Ok(())
}
