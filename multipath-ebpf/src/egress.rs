//! From the inner network, or from the daemon, to an uplink.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_ktime_get_boot_ns, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use multipath_common::{
    classes::FlowClass,
    control::{CONTROL_MARK_WORDS, ControlMark, PROBE, Probe, REPLY_WORDS, kind},
    drops::DropReason,
    ecn::{self, ECN_MASK},
    inner::{Inner, TCP, UDP},
    maps::{FAMILY_IPV4, Flow, MAX_COUNTER, MAX_PART_LEN, MAX_PATHS, PATH_DOUBTED, Path, Session, Tunnel, path_slot},
    mss::{self, MAX_OPTIONS_LEN, OPTIONS_BUFFER_LEN, Search},
    outer::{IPV4_UDP_WORDS, IPV6_UDP_WORDS},
    parts, transit,
    wire::{Class, DataHeader, Flags, HEADER_LEN, OVERHEAD_IPV4, OVERHEAD_IPV6, PacketType, Part, TAG_LEN},
};

use crate::{
    classes, control,
    drops::{Account, Exit},
    intrinsics::{fetch_add, length, opaque},
    maps::{self, PART_SCRATCH, PATH_STATS, PEERS_MAP, TUNNEL},
    pacing::{self, Admission},
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    path_choice::{self, Choice},
    steering,
    striping::{self, Striped},
    underlay::{self, Payload},
};

/// Bytes of a TCP header without options.
const TCP_HEADER_LEN: u32 = 20;
/// The SYN flag in the fourth word of a TCP header (RFC 9293 section 3.1), host order.
const SYN: u32 = 0x0002_0000;
/// The ACK flag.
const ACK: u32 = 0x0010_0000;
/// All flags but those of congestion (CWR and ECE).
const TCP_FLAGS: u32 = 0x003f_0000;
/// Port of domain names (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM_OFFSET: u32 = 16;

/// First bytes of the MAC addresses of a frame that `send_in_parts` gave back to `mp0-port` for its second part: this,
/// the path id, zero, and the counter. Locally administered and not multicast, so no station has it and the kernel lets
/// it pass. The session stands in the mark of the socket buffer, which stays with it within a network namespace
/// (net/core/skbuff.c, `skb_scrub_packet`): the peer's session may be another one when the frame comes back.
pub const SECOND_PART_MARK: [u8; 2] = [0x06, 0x32];

/// First bytes of the MAC addresses of the copy of a sealed packet that goes by a second path: this, the id of that path,
/// zero, and the peer. The copy comes back to `mp0-port` as it left by the first path, and gets other outer headers.
pub const COPY_MARK: [u8; 2] = [0x06, 0x35];

const AUTOMATIC: u32 = FlowClass::Automatic as u32;
const DUPLICATE: u32 = FlowClass::Duplicate as u32;

/// By which paths, and how, a packet goes. One number: the verifier would follow every combination of several apart.
#[derive(Clone, Copy)]
struct Way(u64);

impl Way {
    /// By one path or two, of a flow that is carried as `carried_as` and held for `hold`.
    #[inline(always)]
    const fn new(path: u8, second: Option<u8>, carried_as: Class, hold: u32, timestamp: u32) -> Self {
        let (class, second) = match (carried_as, second) {
            (Class::Aggregate, None) => (Class::Aggregate, 0),
            (Class::Aggregate, Some(second)) => (Class::AggregateDuplicate, second as u64 + 1),
            (_, None) => (Class::Pin, 0),
            (_, Some(second)) => (Class::Duplicate, second as u64 + 1),
        };
        let how = (class as u64) << 16 | (carried_as as u64) << 20 | (hold as u64 & 0xff) << 24;
        Self(path as u64 | second << 8 | how | (timestamp as u64) << 32)
    }

    /// By one path, and now.
    #[inline(always)]
    fn alone(path: u8) -> Self {
        // SAFETY: no arguments.
        Self::new(path, None, Class::Pin, 0, (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32)
    }

    /// The same, of which the verifier knows nothing.
    #[inline(always)]
    fn forget(self) -> Self {
        Self(opaque(self.0))
    }

    #[inline(always)]
    const fn path(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    const fn second(self) -> Option<u8> {
        let second = (self.0 >> 8) as u8;
        if second == 0 { None } else { Some(second - 1) }
    }

    /// What its flow is carried as: the number of a [`Class`].
    #[inline(always)]
    const fn carried_as(self) -> u32 {
        (self.0 >> 20) as u32 & 0xf
    }

    #[inline(always)]
    const fn flags(self, part: Part) -> Flags {
        let class = match self.0 >> 16 & 0xf {
            0 => Class::Pin,
            1 => Class::Aggregate,
            2 => Class::Duplicate,
            _ => Class::AggregateDuplicate,
        };
        Flags { class, hold: (self.0 >> 24) as u8, part }
    }

    #[inline(always)]
    const fn timestamp(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a packet is sealed with.
#[derive(Clone, Copy)]
struct Seal {
    /// Receiver index (ours) of the session.
    session: u32,
    /// The packet's counter, if it is drawn already.
    counter: Option<u64>,
}

impl Seal {
    /// With the next counter of a session.
    #[inline(always)]
    const fn next(session: u32) -> Self {
        Self { session, counter: None }
    }
}

/// Sends a frame of `mp0` to a peer; returns the verdict.
#[inline(always)]
pub fn forward(ctx: &TcContext, account: &mut Account) -> Result<i32, Exit> {
    let packet = Packet::linear(ctx).ok_or(DropReason::EncapsulationFailed)?;
    if steering::uplink_of(packet) != 0 {
        // For the next program.
        return Err(Exit::Pass);
    }
    let version = match packet.ethertype() {
        Some(ETHERTYPE_IPV4) => 4,
        Some(ETHERTYPE_IPV6) => 6,
        _ => return Err(DropReason::NotIp.into()),
    };
    let addresses = packet.words::<CONTROL_MARK_WORDS>(0).ok_or(DropReason::MalformedInner)?;
    if let Some(mark) = ControlMark::from_words(&addresses) {
        steering::begin(ctx);
        return send_control(ctx, account, mark, version, packet);
    }
    let [first, second, path, zero] = addresses[0].to_ne_bytes();
    if [first, second] == COPY_MARK && zero == 0 {
        return send_copy(ctx, account, packet, version, Choice { peer: addresses[1], path });
    }
    let inner = packet.inner(ETHERNET_LEN).ok_or(DropReason::MalformedInner)?;
    // A frame may be padded, never short.
    if inner.version != version || inner.len + ETHERNET_LEN as u32 > packet.len() {
        return Err(DropReason::MalformedInner.into());
    }
    if [first, second] == SECOND_PART_MARK && zero == 0 {
        let counter = u64::from(addresses[1]) | u64::from(addresses[2]) << 32;
        return send_second_part(ctx, account, &inner, path, counter);
    }
    steering::begin(ctx);
    let (choice, flow) = path_choice::of_flow(&inner.key)?;
    let tcp = tcp_word(packet, &inner);
    if tcp & SYN != 0 {
        clamp_segment_size(ctx, &inner, tcp);
    }
    send_flow(ctx, account, &inner, choice, flow, tcp)
}

/// Sends an inner packet of a flow; `tcp` is its [`tcp_word`].
#[inline(always)]
fn send_flow(
    ctx: &TcContext,
    account: &mut Account,
    inner: &Inner,
    choice: Choice,
    flow: Option<*mut Flow>,
    tcp: u32,
) -> Result<i32, Exit> {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (class, is_bulk, rule, due) = match flow {
        // SAFETY: just looked up.
        Some(flow) => unsafe {
            let class = classes::of_flow(flow, &inner.key, u32::from(inner.tos >> 2), inner.len, now);
            (class, (*flow).is_bulk, (*flow).rule, (*flow).due_us)
        },
        // The table has no room at this moment.
        None => (FlowClass::Pin as u32, 0, 0, 0),
    };
    let hold = classes::hold(class, is_bulk, &inner.key);
    let held_us = hold.map_or(0, |hold| striping::held_us(choice.peer, hold));
    let last = due.wrapping_sub(held_us);
    let striped = hold.map_or(Striped::NOWHERE, |hold| striping::stripe(choice.peer, inner.len, hold, inner.tos, last));
    let (way, tos) = if let Some(path) = striped.path() {
        if striped.is_refused() {
            account.path = path_slot(choice.peer, path) + 1;
            return Err(DropReason::PathFull.into());
        }
        if let Some(flow) = flow {
            // SAFETY: just looked up. Two processors that send packets of one flow at once may give two of them the same
            // timestamp, or exchange them: then these two may be delivered in another order.
            unsafe { (*flow).due_us = striped.timestamp().wrapping_add(held_us) };
        }
        let tos = ecn::outer_tos(inner.tos) | if striped.is_marked() { ECN_MASK } else { 0 };
        let second = striping::repair(choice.peer, path, striped, inner.len);
        (Way::new(path, second, Class::Aggregate, hold.unwrap_or(0), striped.timestamp()), tos)
    } else {
        let mut choice = choice;
        let mut path = path_choice::usable(choice).ok_or(DropReason::NoPath)?;
        if inner.len > path.inner_mtu {
            choice.path = path_choice::for_long_packet(&inner.key, choice.peer, inner.len).ok_or(DropReason::NoPath)?;
            path = path_choice::usable(choice).ok_or(DropReason::NoPath)?;
        }
        if inner.len > path.inner_mtu {
            let action = send_in_parts(ctx, account, inner, choice, path)?;
            classes::count(rule, Class::Pin as u32, inner.len, false);
            return Ok(action);
        }
        let admission = admit(account, choice, inner.len + overhead(path), inner.tos)?;
        if class == AUTOMATIC
            && let Some(flow) = flow
        {
            // SAFETY: just looked up.
            unsafe { classes::watch(flow, &inner.key, choice, now, admission.is_pressed) };
        }
        let second = if path.state == PATH_DOUBTED {
            path_choice::second(&inner.key, choice, inner.len)
        } else if class == DUPLICATE {
            striping::second(choice.peer, choice.path, inner.len, false)
        } else if class == AUTOMATIC && is_worth_two(inner, tcp, choice.peer) {
            striping::second(choice.peer, choice.path, inner.len, true)
        } else {
            None
        };
        let carried_as = if class == DUPLICATE { Class::Duplicate } else { Class::Pin };
        (Way::new(choice.path, second, carried_as, 0, (now / 1000) as u32), admission.tos)
    };
    // The verifier would follow each of the ways apart.
    let way = way.forget();
    let choice = Choice { peer: choice.peer, path: way.path() };
    let path = path_choice::usable(choice).ok_or(DropReason::NoPath)?;
    let payload = Payload { len: inner.len, version: inner.version, tos: opaque(u64::from(tos)) as u8 };
    let seal = Seal::next(current_session(choice.peer));
    let action = send(ctx, account, choice.peer, path, payload, seal, PacketType::Data, Part::Whole, way)?;
    classes::count(rule, way.carried_as(), inner.len, way.second().is_some());
    Ok(action)
}

/// Bytes that the tunnel puts around a payload on a path.
#[inline(always)]
pub const fn overhead(path: &Path) -> u32 {
    if path.family == FAMILY_IPV4 { OVERHEAD_IPV4 as u32 } else { OVERHEAD_IPV6 as u32 }
}

/// Asks the path's clock about `len` bytes of data.
#[inline(always)]
fn admit(account: &mut Account, choice: Choice, len: u32, tos: u8) -> Result<Admission, Exit> {
    let slot = path_slot(choice.peer, choice.path);
    account.path = slot + 1;
    Ok(pacing::admit(slot, len, ecn::outer_tos(tos))?)
}

/// Receiver index (ours) of the session that packets to a peer are sealed with; 0 when there is none.
#[inline(always)]
fn current_session(peer: u32) -> u32 {
    PEERS_MAP.get(peer).map_or(0, |peer| peer.session)
}

/// Seals and sends the payload to a peer, by a second path as well if there is one, and counts it.
#[expect(clippy::too_many_arguments, reason = "inlined, and a struct for them would be memory to the verifier")]
#[inline(always)]
fn send(
    ctx: &TcContext,
    account: &mut Account,
    to_peer: u32,
    path: &Path,
    payload: Payload,
    seal: Seal,
    packet_type: PacketType,
    part: Part,
    way: Way,
) -> Result<i32, Exit> {
    let slot = path_slot(to_peer, way.path());
    account.path = slot + 1;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let session = maps::session(seal.session).ok_or(DropReason::NoSession)?;
    // SAFETY: just looked up; these never change while the session lives.
    let (peer, receiver, cipher, expires_ns) =
        unsafe { ((*session).peer, (*session).remote_index, (*session).cipher, (*session).expires_ns) };
    if peer != to_peer {
        return Err(DropReason::NoSession.into());
    }
    let counter = match seal.counter {
        Some(counter) => counter,
        None => draw(session, 1, now)?,
    };
    // A second part's counter was drawn some time ago, and came here in a frame.
    if now > expires_ns || counter >= MAX_COUNTER {
        return Err(DropReason::SessionExpired.into());
    }
    let header = DataHeader {
        packet_type,
        path: way.path(),
        flags: way.flags(part),
        receiver,
        counter,
        timestamp: way.timestamp(),
    };
    let keys = maps::session_keys(seal.session).ok_or(DropReason::NoSession)?;
    underlay::enclose(ctx, path, header, payload, keys, cipher)?;
    // SAFETY: looked up in this run of the program. Volatile: it may have changed since.
    if unsafe { (&raw const (*session).index).read_volatile() } != seal.session {
        // Retired since: the keys that it was sealed with may be another session's.
        return Err(DropReason::SessionExpired.into());
    }
    if let Some(second) = way.second() {
        give_back_copy(ctx, Choice { peer, path: second });
    }
    let action = underlay::redirect(path)?;
    count(slot, payload.len + overhead(path), now, transit::tells(&header, payload.len));
    Ok(action)
}

/// Counts a packet of `len` bytes as sent on a path, and whether it tells how the path is ([`transit::tells`]).
#[inline(always)]
fn count(slot: u32, len: u32, now: u64, tells: bool) {
    if let Some(stats) = PATH_STATS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value, just looked up.
        unsafe {
            (*stats).egress.packets += 1;
            (*stats).egress.bytes += u64::from(len);
            (*stats).egress.last_seen_ns = now;
            if !tells {
                (*stats).doubled += 1;
                (*stats).doubled_bytes += u64::from(len);
            }
        }
    }
}

/// Gives a copy of a packet with all its headers back to `mp0-port`, for a second path. Where the kernel has no memory,
/// the packet goes once.
#[inline(always)]
fn give_back_copy(ctx: &TcContext, second: Choice) {
    let Some(tunnel) = TUNNEL.get(0) else {
        return;
    };
    let [mark, also_mark] = COPY_MARK;
    let words = [u32::from_ne_bytes([mark, also_mark, second.path, 0]), second.peer];
    if Packet::new(ctx.data(), ctx.data_end()).set_words(0, words).is_some() {
        let _ = ctx.clone_redirect(tunnel.port_ifindex, u64::from(BPF_F_INGRESS));
    }
}

/// Sends the copy of a sealed packet, of outer IP `version`, by its second path.
#[inline(always)]
fn send_copy(ctx: &TcContext, account: &mut Account, packet: Packet, version: u8, choice: Choice) -> Result<i32, Exit> {
    let (headers, tos) = match packet.words::<1>(ETHERNET_LEN) {
        Some([first]) if version == 4 => (IPV4_UDP_WORDS * 4, (u32::from_be(first) >> 16) as u8),
        Some([first]) => (IPV6_UDP_WORDS * 4, (u32::from_be(first) >> 20) as u8),
        None => return Err(DropReason::MalformedInner.into()),
    };
    let sealed = packet.len().saturating_sub((ETHERNET_LEN + headers) as u32);
    if sealed < (HEADER_LEN + TAG_LEN) as u32 || choice.path as usize >= MAX_PATHS {
        return Err(DropReason::MalformedInner.into());
    }
    let path = path_choice::usable(choice).ok_or(DropReason::NoPath)?;
    let len = sealed + overhead(path) - (HEADER_LEN + TAG_LEN) as u32;
    let tos = admit(account, choice, len, tos)?.tos;
    underlay::readdress(ctx, path, version, tos, sealed)?;
    let action = underlay::redirect(path)?;
    // SAFETY: no arguments.
    count(path_slot(choice.peer, choice.path), len, unsafe { bpf_ktime_get_boot_ns() }, false);
    Ok(action)
}

/// Draws `count` counters of a session and returns the first. This is the only place where a counter is drawn; a packet
/// whose counter was drawn and that is not sent leaves a gap, which the peer's window does not mind.
#[inline(always)]
fn draw(session: *mut Session, count: u64, now: u64) -> Result<u64, Exit> {
    // SAFETY: the caller has just looked the session up; `next_counter` is only touched atomically.
    let first = unsafe {
        if now > (*session).expires_ns {
            return Err(DropReason::SessionExpired.into());
        }
        fetch_add(&raw mut (*session).next_counter, count)
    };
    // Also the counter of a session that was retired after it was looked up.
    if first + count > MAX_COUNTER { Err(DropReason::SessionExpired.into()) } else { Ok(first) }
}

/// Seals the message, which follows the mark and the `EtherType`, and sends it by the path that the mark names. A probe
/// gets the length that stands in it, because its length is what it asks about: [`underlay::enclose`] pads it with zeros.
#[inline(always)]
fn send_control(
    ctx: &TcContext,
    account: &mut Account,
    mark: ControlMark,
    version: u8,
    packet: Packet,
) -> Result<i32, Exit> {
    let probe = packet
        .words::<REPLY_WORDS>(ETHERNET_LEN)
        .filter(|words| kind(words[0]) == PROBE)
        .map(|words| Probe::from_words(&words));
    let len = probe.map_or(packet.len() - ETHERNET_LEN as u32, |probe| u32::from(probe.len));
    if len == 0 || mark.path as usize >= MAX_PATHS {
        return Err(DropReason::MalformedInner.into());
    }
    let choice = Choice { peer: mark.peer, path: mark.path };
    let path = path_choice::usable_for_control(path_slot(mark.peer, mark.path)).ok_or(DropReason::NoPath)?;
    if len > if probe.is_some() { path.largest } else { path.inner_mtu } {
        return Err(DropReason::TooBig.into());
    }
    if probe.is_some() {
        control::await_reply(path_slot(choice.peer, choice.path));
    }
    pacing::carry(path_slot(choice.peer, choice.path), len + overhead(path));
    let session = if mark.session == 0 { current_session(mark.peer) } else { mark.session };
    let payload = Payload { len, version, tos: 0 };
    send(
        ctx,
        account,
        mark.peer,
        path,
        payload,
        Seal::next(session),
        PacketType::Control,
        Part::Whole,
        Way::alone(mark.path),
    )
}

/// Sends a packet in two parts: gives a copy of it back to `mp0-port` for the second one, and sends the first.
#[inline(always)]
fn send_in_parts(
    ctx: &TcContext,
    account: &mut Account,
    inner: &Inner,
    choice: Choice,
    path: &Path,
) -> Result<i32, Exit> {
    let first_len = parts::split(inner.len, path.inner_mtu).ok_or(DropReason::TooBig)?;
    // Both parts at once: one without the other is of no use. A mark on one is a mark on the packet.
    let tos = admit(account, choice, inner.len + 2 * overhead(path), inner.tos)?.tos;
    let tunnel: &Tunnel = TUNNEL.get(0).ok_or(DropReason::NoSession)?;
    let index = current_session(choice.peer);
    let session = maps::session(index).ok_or(DropReason::NoSession)?;
    // SAFETY: no arguments.
    let counter = draw(session, 2, unsafe { bpf_ktime_get_boot_ns() })?;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let second = counter + 1;
    let [mark, also_mark] = SECOND_PART_MARK;
    let words = [u32::from_ne_bytes([mark, also_mark, choice.path, 0]), second as u32, (second >> 32) as u32];
    packet.set_words(0, words).ok_or(DropReason::MalformedInner)?;
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid while the program runs.
    let marked = unsafe { core::mem::replace(&mut (*skb).mark, index) };
    let copied = ctx.clone_redirect(tunnel.port_ifindex, u64::from(BPF_F_INGRESS));
    // SAFETY: as above.
    unsafe { (*skb).mark = marked };
    copied.map_err(|_| DropReason::EncapsulationFailed)?;
    let payload = Payload { len: first_len, version: inner.version, tos };
    send(
        ctx,
        account,
        choice.peer,
        path,
        payload,
        Seal { session: index, counter: Some(counter) },
        PacketType::Data,
        Part::First,
        Way::alone(choice.path),
    )
}

/// Sends the second part of a packet whose copy came back.
#[inline(always)]
fn send_second_part(
    ctx: &TcContext,
    account: &mut Account,
    inner: &Inner,
    path: u8,
    counter: u64,
) -> Result<i32, Exit> {
    let (Choice { peer, .. }, _) = path_choice::of_flow(&inner.key)?;
    let choice = Choice { peer, path };
    let path = path_choice::usable(choice).ok_or(DropReason::NoPath)?;
    let first_len = parts::split(inner.len, path.inner_mtu).ok_or(DropReason::TooBig)?;
    let len = inner.len - first_len;
    if move_to_front(ctx, first_len, len) != 0 {
        return Err(DropReason::EncapsulationFailed.into());
    }
    // The mark is taken off: on the uplink it would be found by whoever classifies by marks (`tc` filters, shapers).
    // SAFETY: the context is valid while the program runs.
    let session = unsafe { core::mem::take(&mut (*ctx.skb.skb).mark) };
    let payload = Payload { len, version: inner.version, tos: inner.tos };
    send(
        ctx,
        account,
        peer,
        path,
        payload,
        Seal { session, counter: Some(counter) },
        PacketType::Data,
        Part::Second,
        Way::alone(choice.path),
    )
}

/// Moves the last `len` bytes of a packet, which stand `offset` bytes behind its Ethernet header, to the front, and
/// cuts the packet there. Not 0 when the kernel refuses.
#[inline(never)]
fn move_to_front(ctx: &TcContext, offset: u32, len: u32) -> i32 {
    let Some(scratch) = PART_SCRATCH.get_ptr_mut(0) else {
        return -1;
    };
    if len == 0 || len > MAX_PART_LEN as u32 {
        return -1;
    }
    // SAFETY: this CPU's own scratch, which holds `len` bytes; the context is valid while the program runs.
    unsafe {
        const MOST: u32 = MAX_PART_LEN as u32;
        let bytes = (&raw mut (*scratch).bytes).cast();
        let skb = ctx.skb.skb;
        if bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32 + offset, bytes, length::<MOST>(len)) != 0 {
            return -1;
        }
        // The version nibble of the first byte is no longer an IP version: that is why the kernel's length checks,
        // which go by the packet's protocol, still hold (net/core/filter.c, `bpf_skb_adjust_room`).
        if bpf_skb_change_tail(skb, ETHERNET_LEN as u32 + len, 0) != 0 {
            return -1;
        }
        bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, bytes, length::<MOST>(len), 0) as i32
    }
}

/// The word of a TCP header that holds its length and flags, host order; 0 when there is none.
#[inline(always)]
fn tcp_word(packet: Packet, inner: &Inner) -> u32 {
    if inner.key.protocol != TCP || !inner.has_ports {
        return 0;
    }
    let word = packet.words::<1>(ETHERNET_LEN + (inner.transport as usize & 0x3f) + 12);
    word.map_or(0, |[word]| u32::from_be(word))
}

/// Bytes of a TCP header, by its [`tcp_word`].
#[inline(always)]
const fn tcp_header_len(tcp: u32) -> u32 {
    (tcp >> 28) * 4
}

/// Whether a packet of an automatic flow goes by two paths while they have room: one that is small, and whose loss costs
/// a round trip or more. Pure acknowledgements are many, and the next one says the same: only where losses are likely.
#[inline(always)]
fn is_worth_two(inner: &Inner, tcp: u32, peer: u32) -> bool {
    let [source, destination] = [inner.key.ports as u16, (inner.key.ports >> 16) as u16].map(u16::from_be);
    let is_dns = inner.key.protocol == UDP && (source == DNS_PORT || destination == DNS_PORT);
    let is_acknowledgement = tcp & TCP_FLAGS == ACK && inner.len == inner.transport + tcp_header_len(tcp);
    is_dns || tcp & SYN != 0 || is_acknowledgement && classes::is_lossy(peer)
}

/// Lowers the segment size that a SYN announces to what fits the tunnel.
#[inline(always)]
fn clamp_segment_size(ctx: &TcContext, inner: &Inner, tcp: u32) {
    let Some(tunnel) = TUNNEL.get(0) else {
        return;
    };
    let header_len = tcp_header_len(tcp);
    if header_len > TCP_HEADER_LEN && inner.len >= inner.transport + header_len {
        let limit = mss::for_mtu(tunnel.mtu, inner.version);
        let transport = ETHERNET_LEN as u32 + (inner.transport & 0x3f);
        clamp_option(ctx, transport, header_len - TCP_HEADER_LEN, u32::from(limit));
    }
}

/// Looks at one option; a body of `bpf_loop`, because the verifier follows that once and not once for every option.
extern "C" fn search_option(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: the caller's stack, for the length of the loop.
    i64::from(!unsafe { (*search).step() })
}

#[inline(never)]
fn clamp_option(ctx: &TcContext, transport: u32, options_len: u32, limit: u32) -> i32 {
    if options_len == 0 || options_len > MAX_OPTIONS_LEN as u32 {
        return 0;
    }
    let mut search = Search::new([0; OPTIONS_BUFFER_LEN], options_len);
    let at = transport + TCP_HEADER_LEN;
    let buffer = search.options.as_mut_ptr().cast();
    // SAFETY: the buffer is longer than the options, the context is valid while the program runs, and callback and
    // context of the loop fit each other.
    unsafe {
        const MOST: u32 = OPTIONS_BUFFER_LEN as u32;
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), at, buffer, length::<MOST>(options_len)) != 0 {
            return 0;
        }
        bpf_loop(MAX_OPTIONS_LEN as u32, search_option as *mut _, (&raw mut search).cast(), 0);
    }
    let limit = limit as u16;
    let Some((offset, old)) = search.found().filter(|&(_, old)| old > limit) else {
        return 0;
    };
    // An option at an odd offset lies across two of the checksum's words: swapping its bytes says the same.
    let (from, to) = if offset % 2 == 0 { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
    let changed = ctx
        .l4_csum_replace((transport + TCP_CHECKSUM_OFFSET) as usize, u64::from(from.to_be()), u64::from(to.to_be()), 2)
        .and_then(|()| ctx.store((at + offset) as usize, &limit.to_be(), 0));
    i32::from(changed.is_err())
}
