//! The maps: their names, keys, values and sizes. The maps are the API of the data plane.
//!
//! Every map has one writer:
//!
//! | map | kind | key | value | writer |
//! | --- | --- | --- | --- | --- |
//! | `tunnel` | array | 0 | [`Tunnel`] | daemon |
//! | `generation` | array | [`GENERATION_AUTOMATIC`], [`GENERATION_OPERATOR`] | u64 | the writer of what it counts |
//! | `allowed_ips` | LPM trie | prefix, IPv4 mapped | peer number, or [`NO_PEER`] | daemon |
//! | `local_addresses` | hash | [`Address`] | u32 | daemon |
//! | `peers` | array | peer number | [`Peer`] | daemon |
//! | `sessions` | array | [`session_slot`] | [`Session`] | daemon fills and empties, programs count in between |
//! | `session_keys` | array | [`session_slot`] | [`SessionKeys`] | daemon |
//! | `paths` | array | [`path_slot`] | [`Path`] | daemon |
//! | `path_automatic` | array | [`path_slot`] | [`PathSettings`] | daemon |
//! | `path_operator` | array | [`path_slot`] | [`PathSettings`] | command line |
//! | `arrival_paths` | array | peer, sender's path id ([`path_slot`]) | [`path_slot`] + 1, 0 unknown | daemon |
//! | `path_stats` | per-CPU array | [`path_slot`] | [`PathStats`] | programs |
//! | `drops` | per-CPU LRU hash | [`DropKey`] | [`DropStats`] | programs |
//! | `flows` | LRU hash | [`FlowKey`] | [`Flow`] | programs |
//! | `sources` | LRU hash | [`Address`] | [`Source`] | programs |
//! | `origins` | hash | [`OriginKey`] | [`Origin`] | programs; the daemon removes those of peers that are gone |
//! | `origin_events` | ring buffer | | [`OriginKey`] | programs |
//! | `control_events` | ring buffer | | [`ControlEvent`] | programs |
//! | `part_store` | LRU hash | [`PartKey`] | [`StoredPart`] | programs |
//! | `part_scratch` | per-CPU array | 0 | [`StoredPart`] | programs |
//! | `spreading` | array | 0 | processors that share the work, u32; below 2 it is not shared | daemon |
//! | `lanes` | array | lane ([`crate::steering`]) | [`Lane`] | programs |
//!
//! More maps stand in [`crate::quality`] (how good the paths are), [`crate::classes`] (which flows go how), [`crate::bond`]
//! (striping) and [`crate::playout`] (delivery by time).
//!
//! All addresses are 16 bytes in network order; an IPv4 address is IPv4-mapped (RFC 4291 section 2.5.5.2).
//!
//! # The life of a session slot
//!
//! A receiver index is a random upper half, which is never 0, over the number of a slot. A program takes the slot of
//! the index and goes on only when the slot holds that very index. So most packets of a session that is gone, and what
//! a stranger makes up, end there.
//!
//! 1. Filled: the keys are written, then the session with index 0, then the session with its index. Whoever finds the
//!    index finds everything else. The last write repeats bytes that nobody changes yet: no counter is drawn before
//!    `peers` names the session, and no counter is marked before the peer, which learns of the session later, has sealed
//!    with it.
//! 2. In use: the programs alone change it (`next_counter` atomically, `window` under the lock).
//! 3. Retired ([`Session::RETIRED`], written under the lock): index 0, a counter beyond [`MAX_COUNTER`], a window that
//!    holds every counter. The write of `next_counter` only ever raises its bytes, so that even a torn one gives no counter
//!    a second time.
//! 4. Wiped at least [`WIPE_DELAY_MS`] later: the keys become zero. Only then may the slot be filled again.
//!
//! A program that found the index before the session was retired looks for it once more when it is done with the keys:
//! on the way out after the packet is sealed, on the way in under the lock. When it is gone, so is the packet. The
//! index goes before the keys and is never given again while it may be remembered, so whoever still finds it has had
//! the session's own keys, however long it was held up in between. The delay only spares the packets that were under
//! way.

#[cfg(feature = "user")]
use crate::drops::DropReason;

/// Paths that one peer can have: the path id of the wire format stays below it.
pub const MAX_PATHS: usize = 16;
/// In place of a peer's number: nobody's addresses, although a shorter prefix holds them.
pub const NO_PEER: u32 = u32::MAX;
/// Bytes of a name (tunnel, uplink, peer) in a map, zero-padded; Linux's `IFNAMSIZ`.
pub const NAME_LEN: usize = 16;
/// Half an inner packet at most, bytes: fits one part of the largest inner packet that two 2,048-byte parts carry.
pub const MAX_PART_LEN: usize = 2048;
/// Flows that the flow table remembers before it forgets the least recently used.
pub const MAX_FLOWS: usize = 65_536;
/// Inner source addresses whose owner is remembered.
pub const MAX_SOURCES: usize = 65_536;
/// Combinations of reason, interface and path that drops are counted by; the least recently used one is forgotten, so
/// that an uplink that comes back under ever new interface indices does not fill the map.
pub const MAX_DROPS: usize = 4096;
/// Halves of inner packets that wait for the other half.
pub const MAX_STORED_PARTS: usize = 256;
/// Local addresses of a gateway.
pub const MAX_LOCAL_ADDRESSES: usize = 1024;
/// Sessions a peer can have at once: the last, the current and the next one, and one that is being wiped.
pub const SESSIONS_PER_PEER: usize = 4;
/// Lower bits of a receiver index: the slot of the session.
pub const SESSION_SLOT_BITS: u32 = 16;
/// Peers that a gateway can have: each has [`SESSIONS_PER_PEER`] slots.
pub const MAX_PEERS: usize = (1 << SESSION_SLOT_BITS) / SESSIONS_PER_PEER;
/// Packets that a session seals at most: its counters stay below. (A rekey comes long before.)
pub const MAX_COUNTER: u64 = 1 << 60;
/// How long the keys of a retired session stay, milliseconds: a program runs for microseconds.
pub const WIPE_DELAY_MS: u64 = 100;
/// Bytes of the ring buffer of `origin_events`.
pub const ORIGIN_EVENTS_LEN: usize = 65_536;
/// Bytes of the ring buffer of `control_events`: some 200 messages.
pub const CONTROL_EVENTS_LEN: usize = 65_536;

/// Key in `generation` of the counter that the daemon advances.
pub const GENERATION_AUTOMATIC: u32 = 0;
/// Key in `generation` of the counter that the command line advances.
pub const GENERATION_OPERATOR: u32 = 1;

/// Where a path stands in the maps that are indexed by path.
#[inline(always)]
pub const fn path_slot(peer: u32, path: u8) -> u32 {
    peer * MAX_PATHS as u32 + (path as u32 & (MAX_PATHS as u32 - 1))
}

/// Slot of the session that a receiver index names.
#[inline(always)]
pub const fn session_slot(index: u32) -> u32 {
    index & ((1 << SESSION_SLOT_BITS) - 1)
}

/// The first of the [`SESSIONS_PER_PEER`] slots of a peer.
#[inline(always)]
pub const fn first_session_slot(peer: u32) -> u32 {
    peer * SESSIONS_PER_PEER as u32
}

/// A type whose layout both sides share; its description goes into the layout hash.
pub trait Shared {
    /// Name, fields and their types, as written in the source.
    const DESCRIPTION: &'static str;
}

/// Declares structs that cross the eBPF boundary: C layout, no implicit padding, part of the layout hash.
macro_rules! shared {
    ($($(#[$attr:meta])* pub struct $name:ident { $($(#[$field_attr:meta])* pub $field:ident: $ty:ty,)+ })+) => {
        $(
            $(#[$attr])*
            #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
            #[repr(C)]
            pub struct $name { $($(#[$field_attr])* pub $field: $ty,)+ }

            impl Shared for $name {
                const DESCRIPTION: &'static str =
                    concat!(stringify!($name), "{", $(stringify!($field), ":", stringify!($ty), ",",)+ "}");
            }

            // SAFETY: the type is `bytemuck::Pod`, which asks for more than `aya::Pod` does.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $name {}
        )+

        /// The descriptions of all shared types, in source order.
        #[cfg(feature = "user")]
        pub(crate) const DESCRIPTIONS: &[&str] = &[$($name::DESCRIPTION,)+];
    };
}
pub(crate) use shared;

shared! {
    /// The tunnel as the programs need it.
    pub struct Tunnel {
        /// Interface index of `mp0`: where the TC program delivers.
        pub device_ifindex: u32,
        /// Interface index of `mp0-port`: where the XDP program delivers, and where the egress program sits.
        pub port_ifindex: u32,
        /// MTU of `mp0`, bytes.
        pub mtu: u32,
        /// How many UDP ports it listens on, from `listen_port` on: one, or as many as an uplink has flows.
        pub port_count: u32,
        /// UDP port that the tunnel listens on, host order.
        pub listen_port: u16,
        /// Hardware address of `mp0`: the destination of every frame that is delivered.
        pub device_mac: [u8; 6],
        /// Name of the tunnel.
        pub name: [u8; NAME_LEN],
        /// When the daemon last applied its configuration, nanoseconds of `CLOCK_BOOTTIME`.
        pub configured_ns: u64,
        /// When it last refused a new one and kept what it had; 0 for never.
        pub refused_ns: u64,
    }

    /// A peer.
    pub struct Peer {
        /// Receiver index (ours) of the session that packets to this peer are sealed with; 0 when there is none.
        pub session: u32,
        /// Bit n is set when path n is configured or learned.
        pub path_set: u32,
        /// The cipher of the configuration: [`CIPHER_CHACHA20_POLY1305`], [`CIPHER_AUTH`] or [`CIPHER_NONE`].
        pub cipher: u32,
        /// Handshakes begun since the last one was through.
        pub attempts: u32,
        /// Why no handshake gets through: [`TROUBLE_NONE`] or another of the `TROUBLE_*`.
        pub trouble: u32,
        /// Fingerprint of what its sessions were made with besides its own key: our public key and the preshared key.
        pub credentials: u32,
        /// When the session was made, nanoseconds of `CLOCK_BOOTTIME`; 0 when there is none.
        pub handshake_ns: u64,
        /// Name of the peer.
        pub name: [u8; NAME_LEN],
        /// Public key of the peer (X25519).
        pub public_key: [u8; 32],
    }

    /// The kernel's lock type: the verifier finds it by this name (kernel/bpf/btf.c, `btf_find_field`).
    pub struct bpf_spin_lock {
        /// Touched by the kernel's helpers alone.
        pub val: u32,
    }

    /// A session: what two peers share until the next rekey; its life is told at the top of this module.
    pub struct Session {
        /// Receiver index (ours); 0: the slot is empty, and nothing else in it counts.
        pub index: u32,
        /// Receiver index at the peer, which stands in every packet that is sealed with this session.
        pub remote_index: u32,
        /// Number of the peer.
        pub peer: u32,
        /// [`CIPHER_CHACHA20_POLY1305`], [`CIPHER_AUTH`] or [`CIPHER_NONE`].
        pub cipher: u32,
        /// When it ends, nanoseconds of `CLOCK_BOOTTIME`.
        pub expires_ns: u64,
        /// Counter of the next packet that is sealed; drawn atomically by the egress program.
        pub next_counter: u64,
        /// Guards `window`.
        pub lock: bpf_spin_lock,
        /// 1 when this gateway began the handshake.
        pub is_initiator: u32,
        /// What has been received.
        pub window: crate::window::Window,
    }

    /// A path: uplink times endpoint, resolved so far that a packet can be sent.
    ///
    /// Its way is written while it is [`PATH_DOWN`] or unused; after that only state and sizes change. So a program never
    /// reads a half-written one but for the packets that were already past the check: these may leave with a mix of the
    /// old and the new address.
    pub struct Path {
        /// [`PATH_UNUSED`], [`PATH_DOWN`], [`PATH_UP`], [`PATH_STANDBY`] or [`PATH_DOUBTED`].
        pub state: u32,
        /// Interface index of the uplink.
        pub ifindex: u32,
        /// Largest inner packet that the path carries whole, bytes, as far as probes have shown.
        pub inner_mtu: u32,
        /// The same as far as its interface and route tell, bytes: a probe may be so long.
        pub largest: u32,
        /// Address family of the outer packet: [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
        pub family: u32,
        /// Address family of `next_hop`.
        pub next_hop_family: u32,
        /// Source port, host order.
        pub local_port: u16,
        /// Destination port, host order.
        pub remote_port: u16,
        /// Source address.
        pub local: [u8; 16],
        /// Destination address.
        pub remote: [u8; 16],
        /// Neighbour that the packet is handed to.
        pub next_hop: [u8; 16],
        /// Name of the uplink.
        pub uplink: [u8; NAME_LEN],
        /// Which endpoint of the peer, counted per uplink from 0.
        pub endpoint: u32,
        /// 1 when the endpoint was learned from the peer's packets, 0 when it stands in the configuration.
        pub learned: u32,
        /// Which of the uplink's source ports it sends from, counted from 0.
        pub flow: u32,
    }

    /// What somebody wants of a path; in `path_operator` 0 means automatic.
    pub struct PathSettings {
        /// Unitless share for hashing.
        pub weight: u32,
        /// Egress capacity, kbit/s.
        pub rate_kbps: u32,
        /// What the path is for: a [`Role`](crate::health::Role).
        pub role: u32,
    }

    /// Packets of one direction of a path.
    pub struct Traffic {
        /// Packets.
        pub packets: u64,
        /// Bytes of outer IP packets.
        pub bytes: u64,
        /// When the last one passed, nanoseconds of `CLOCK_BOOTTIME`; 0 for never.
        pub last_seen_ns: u64,
    }

    /// What passed over a path.
    pub struct PathStats {
        /// From the inner network to the uplink.
        pub egress: Traffic,
        /// From the uplink to the inner network.
        pub ingress: Traffic,
        /// Packets of `egress` that tell nothing of the path ([`tells`](crate::transit::tells)): they went by another
        /// path as well, or are longer than is known to pass.
        pub doubled: u64,
        /// Bytes of these.
        pub doubled_bytes: u64,
    }

    /// What `drops` counts by.
    pub struct DropKey {
        /// Number of a reason in [`crate::drops`].
        pub reason: u32,
        /// Interface index that the packet came in by.
        pub ifindex: u32,
        /// [`path_slot`] + 1 of the path concerned, 0 when the packet was dropped before its path was known.
        pub path: u32,
    }

    /// Packets dropped for one reason.
    pub struct DropStats {
        /// Packets.
        pub packets: u64,
        /// Bytes of frames.
        pub bytes: u64,
        /// When the last one was dropped, nanoseconds of `CLOCK_BOOTTIME`.
        pub last_seen_ns: u64,
    }

    /// An address as a key.
    pub struct Address {
        /// The address.
        pub address: [u8; 16],
    }

    /// The inner flow that a packet belongs to.
    #[derive(PartialEq, Eq, Hash)]
    pub struct FlowKey {
        /// Source address, four words in network order.
        pub source: [u32; 4],
        /// Destination address, four words in network order.
        pub destination: [u32; 4],
        /// Source port (low half in memory order) and destination port, as they stand in the packet; 0 without ports.
        pub ports: u32,
        /// IP protocol number.
        pub protocol: u32,
    }

    /// What is remembered about a flow.
    pub struct Flow {
        /// Sum of `generation` at the time of the choice; another sum asks for a new choice.
        pub generation: u64,
        /// Bytes of inner packets that it has sent.
        pub bytes: u64,
        /// When its last packet came, nanoseconds of `CLOCK_BOOTTIME`.
        pub last_ns: u64,
        /// When the present look at whether it is bulk began, nanoseconds of `CLOCK_BOOTTIME`.
        pub look_ns: u64,
        /// `bytes` at that time.
        pub look_bytes: u64,
        /// Number of the peer.
        pub peer: u32,
        /// Path id, of all but the packets that are striped.
        pub path: u32,
        /// Its [`FlowClass`](crate::classes::FlowClass).
        pub class: u32,
        /// Number of the rule that says so, 0 for none.
        pub rule: u32,
        /// The choice of a class holds for packets with this DSCP
        pub dscp: u32,
        /// and from so many bytes
        pub shortest: u32,
        /// to so many.
        pub longest: u32,
        /// When the last packet that is delivered by time is due but for the transit time of the nearest path: its sender
        /// timestamp and what it is held for, microseconds, wrapping. The next one is due later, also when its hold is less.
        pub due_us: u32,
        /// 1 when the daemon was told that it is bulk: `leads` may know it.
        pub is_bulk: u32,
        /// Packets since `look_ns` that found their path full.
        pub pressed: u32,
    }

    /// Who owns an inner source address.
    pub struct Source {
        /// Sum of `generation` at the time of the look-up.
        pub generation: u64,
        /// Number of the peer.
        pub peer: u32,
        /// Zero.
        pub reserved: u32,
    }

    /// A control message that was authentic and new.
    pub struct ControlEvent {
        /// Number of the peer.
        pub peer: u32,
        /// Receiver index (ours) of the session that it was sealed with.
        pub session: u32,
        /// [`path_slot`] of our path that it came by.
        pub slot: u32,
        /// Path id in the peer's numbering.
        pub path: u32,
        /// When it came, nanoseconds of `CLOCK_BOOTTIME`.
        pub received_ns: u64,
        /// When it was sent, microseconds of the peer's clock, wrapping.
        pub timestamp: u32,
        /// Bytes of the message; [`MAX_CONTROL_LEN`](crate::control::MAX_CONTROL_LEN) of them at most are here.
        pub len: u32,
        /// The message; what stands beyond `len` has no meaning.
        pub bytes: [u8; crate::control::MAX_CONTROL_LEN],
    }

    /// Whose packets an [`Origin`] is about.
    pub struct OriginKey {
        /// Number of the peer.
        pub peer: u32,
        /// Path id in the peer's numbering.
        pub path: u32,
    }

    /// Where packets of a peer's path come from.
    pub struct Origin {
        /// Interface index of the uplink.
        pub ifindex: u32,
        /// Address family of the outer packet.
        pub family: u32,
        /// Our address, to which it was sent.
        pub local: [u8; 16],
        /// The address that it came from.
        pub remote: [u8; 16],
        /// The port that it came from, host order.
        pub remote_port: u16,
        /// Our port, to which it was sent, host order.
        pub local_port: u16,
        /// Zero.
        pub reserved: [u8; 4],
    }

    /// Names a pair of parts.
    pub struct PartKey {
        /// Counter of the first part.
        pub counter: u64,
        /// Receiver index of the session.
        pub session: u32,
        /// Zero.
        pub reserved: u32,
    }

    /// A part that waits for the other one.
    pub struct StoredPart {
        /// [`crate::wire::Part`] number of this part.
        pub part: u32,
        /// Bytes of it.
        pub len: u32,
        /// Type-of-service byte or traffic class of the outer packet that it came in.
        pub tos: u32,
        /// Its bytes; what stands beyond `len` has no meaning.
        pub bytes: [u8; MAX_PART_LEN],
    }

    /// Packets that stay in order and are worked on by one processor at a time: see [`crate::steering`].
    pub struct Lane {
        /// Packets that were handed to a processor, less those that got lost on the way.
        pub handed: u64,
        /// When the last one was, nanoseconds of `CLOCK_BOOTTIME`.
        pub last_ns: u64,
        /// Fewest packets that were under way since losses were last looked for.
        pub least: u64,
        /// The processor.
        pub cpu: u32,
        /// The window of time in which bytes are counted now.
        pub window: u32,
        /// Bytes in it.
        pub current: u32,
        /// Bytes in the one before.
        pub previous: u32,
        /// The rest of a cache line: what follows is another processor's to write.
        pub reserved: [u64; 3],
        /// Packets that their processor has begun to seal, or that have come to the inner network.
        pub done: u64,
        /// The rest of a cache line.
        pub reserved_done: [u64; 7],
    }
}

/// No such path.
pub const PATH_UNUSED: u32 = 0;
/// The path exists and must not be used now.
pub const PATH_DOWN: u32 = 1;
/// The path may be used.
pub const PATH_UP: u32 = 2;
/// The path leads somewhere, and carries nothing but control messages.
pub const PATH_STANDBY: u32 = 3;
/// The path may be used, and what it carries goes by another path as well.
pub const PATH_DOUBTED: u32 = 4;

/// `AF_INET`.
pub const FAMILY_IPV4: u32 = 2;
/// `AF_INET6`.
pub const FAMILY_IPV6: u32 = 10;

/// Encrypted and authenticated (RFC 8439). No cipher is 0, so that an empty slot has none.
pub const CIPHER_CHACHA20_POLY1305: u32 = 1;
/// Authenticated by the same algorithm, and readable.
pub const CIPHER_AUTH: u32 = 2;
/// Neither encrypted nor authenticated.
pub const CIPHER_NONE: u32 = 3;

/// Nothing is known to be wrong.
pub const TROUBLE_NONE: u32 = 0;
/// The two configurations name different ciphers.
pub const TROUBLE_CIPHER: u32 = 1;
/// The peer's answer is not authentic: the preshared keys differ, or it is forged.
pub const TROUBLE_NOT_AUTHENTIC: u32 = 2;
/// The peer's public key is nobody's: no secret can be agreed on with it.
pub const TROUBLE_WEAK_KEY: u32 = 3;

impl Flow {
    /// One that has sent nothing, and whose class was not looked for.
    pub const NEW: Self = Self {
        generation: 0,
        bytes: 0,
        last_ns: 0,
        look_ns: 0,
        look_bytes: 0,
        peer: 0,
        path: 0,
        class: 0,
        rule: 0,
        dscp: 0,
        shortest: 0,
        longest: 0,
        due_us: 0,
        is_bulk: 0,
        pressed: 0,
    };
}

impl Session {
    /// A slot whose session has ended: no program seals or accepts anything with it. See the top of this module.
    pub const RETIRED: Self = Self {
        index: 0,
        remote_index: 0,
        peer: 0,
        cipher: 0,
        expires_ns: 0,
        next_counter: i64::MAX.cast_unsigned(),
        lock: bpf_spin_lock { val: 0 },
        is_initiator: 0,
        window: crate::window::Window::CLOSED,
    };
}

/// The keys of a session (RFC 8439), as little-endian words. They have a map of their own, so that looking at
/// `sessions` shows none.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SessionKeys {
    /// For what this gateway sends.
    pub send: [u32; 8],
    /// For what it receives.
    pub receive: [u32; 8],
}

impl core::fmt::Debug for SessionKeys {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SessionKeys(secret)")
    }
}

// SAFETY: the type is `bytemuck::Pod`, which asks for more than `aya::Pod` does.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SessionKeys {}

/// The maps that are pinned: the name under which the programs declare them, and the kind as `bpftool` calls it. Both
/// are part of the layout: aya reuses a pinned map without asking for its kind.
#[cfg(feature = "user")]
pub const PINNED: [(&str, &str); 39] = [
    ("tunnel", "array"),
    ("generation", "array"),
    ("allowed_ips", "lpm_trie"),
    ("local_addresses", "hash"),
    ("peers", "array"),
    ("sessions", "array"),
    ("session_keys", "array"),
    ("paths", "array"),
    ("path_automatic", "array"),
    ("path_operator", "array"),
    ("arrival_paths", "array"),
    ("path_stats", "percpu_array"),
    ("drops", "lru_percpu_hash"),
    ("flows", "lru_hash"),
    ("sources", "lru_hash"),
    ("origins", "hash"),
    ("origin_events", "ringbuf"),
    ("control_events", "ringbuf"),
    ("part_store", "lru_hash"),
    ("part_scratch", "percpu_array"),
    ("spreading", "array"),
    ("lanes", "array"),
    ("arrivals", "array"),
    ("path_clocks", "array"),
    ("probe_events", "ringbuf"),
    ("path_quality", "array"),
    ("path_log", "array"),
    ("class_rules", "array"),
    ("class_stats", "percpu_array"),
    ("leads", "lru_hash"),
    ("flow_events", "ringbuf"),
    ("destinations", "lru_hash"),
    ("bonds", "array"),
    ("bond_members", "array"),
    ("bond_clocks", "array"),
    ("playouts", "array"),
    ("playout_stage", "array"),
    ("held", "ringbuf"),
    ("held_scratch", "percpu_array"),
];

/// How many entries the maps have whose size the configuration decides.
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Peers.
    pub peers: u32,
    /// Prefixes over all peers.
    pub prefixes: u32,
}

#[cfg(feature = "user")]
impl Capacity {
    /// Room for at least so many peers and prefixes: the next power of two, and never less than a small gateway's.
    /// The room decides over the layout, so it grows in steps and a few more peers do not change it.
    pub fn for_counts(peers: usize, prefixes: usize) -> Self {
        Self {
            peers: (peers.max(16) as u32).next_power_of_two(),
            prefixes: (prefixes.max(256) as u32).next_power_of_two(),
        }
    }

    /// Name and entries of each map that depends on the capacity.
    pub fn max_entries(&self) -> [(&'static str, u32); 17] {
        let paths = self.peers * MAX_PATHS as u32;
        let sessions = self.peers * SESSIONS_PER_PEER as u32;
        [
            ("peers", self.peers),
            ("allowed_ips", self.prefixes),
            ("sessions", sessions),
            ("session_keys", sessions),
            ("paths", paths),
            ("path_automatic", paths),
            ("path_operator", paths),
            ("arrival_paths", paths),
            ("path_stats", paths),
            ("origins", paths),
            ("arrivals", paths),
            ("path_clocks", paths),
            ("path_quality", paths),
            ("bonds", self.peers),
            ("bond_clocks", self.peers),
            ("playouts", self.peers),
            ("bond_members", paths),
        ]
    }
}

/// Names the layout of the maps: equal names mean that pinned maps can be reused.
///
/// The first eight hexadecimal digits of BLAKE3 over the shared types, the constants and the capacity.
#[cfg(feature = "user")]
pub fn layout(capacity: Capacity) -> impl core::fmt::Display {
    let mut hasher = blake3::Hasher::new();
    let described = [
        DESCRIPTIONS,
        crate::quality::DESCRIPTIONS,
        crate::classes::DESCRIPTIONS,
        crate::bond::DESCRIPTIONS,
        crate::playout::DESCRIPTIONS,
    ];
    for description in described.concat() {
        hasher.update(description.as_bytes());
    }
    for (name, kind) in PINNED {
        hasher.update(name.as_bytes());
        hasher.update(kind.as_bytes());
    }
    let sizes = [
        MAX_PATHS,
        NAME_LEN,
        MAX_PART_LEN,
        MAX_FLOWS,
        MAX_SOURCES,
        MAX_DROPS,
        MAX_STORED_PARTS,
        MAX_LOCAL_ADDRESSES,
        ORIGIN_EVENTS_LEN,
        CONTROL_EVENTS_LEN,
        SESSIONS_PER_PEER,
        SESSION_SLOT_BITS as usize,
        crate::steering::LANES,
        crate::control::MAX_CONTROL_LEN,
        crate::control::REPLY_LEN,
        crate::quality::PATH_LOG_LEN,
        crate::quality::PROBE_EVENTS_LEN,
        crate::classes::MAX_CLASS_RULES,
        crate::classes::CLASS_STATS_LEN,
        crate::classes::MAX_LEADS,
        crate::classes::MAX_DESTINATIONS,
        crate::classes::FLOW_EVENTS_LEN,
        crate::playout::HELD_LEN,
        crate::playout::MAX_HELD_LEN,
        size_of::<SessionKeys>(),
        size_of::<crate::window::Window>(),
        DropReason::COUNT,
        capacity.peers as usize,
        capacity.prefixes as usize,
    ];
    for size in sizes {
        hasher.update(&(size as u64).to_le_bytes());
    }
    let hash = hasher.finalize();
    let bytes = hash.as_bytes();
    Layout(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(feature = "user")]
struct Layout(u32);

#[cfg(feature = "user")]
impl core::fmt::Display for Layout {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// An IPv4 address (four bytes, network order, in memory order) as an IPv4-mapped one.
#[inline(always)]
pub const fn map_ipv4(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}

/// An address as the maps store it: 16 bytes, IPv4 mapped.
#[cfg(feature = "user")]
pub const fn address_bytes(address: core::net::IpAddr) -> [u8; 16] {
    match address {
        core::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        core::net::IpAddr::V6(address) => address.octets(),
    }
}

/// An address of the maps.
#[cfg(feature = "user")]
pub const fn address_from(bytes: [u8; 16]) -> core::net::IpAddr {
    core::net::Ipv6Addr::from_octets(bytes).to_canonical()
}
