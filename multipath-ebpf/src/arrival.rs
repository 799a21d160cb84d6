//! What TC and XDP share on the way in: everything that is checked before a packet is touched.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_ANY, bpf_spin_lock},
    helpers::{bpf_ktime_get_boot_ns, bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use aya_log_ebpf::info;
use multipath_common::{
    drops::DropReason,
    inner,
    maps::{
        CIPHER_AUTH, CIPHER_CHACHA20_POLY1305, CIPHER_NONE, FAMILY_IPV4, FAMILY_IPV6, MAX_COUNTER, MAX_PATHS, Origin,
        OriginKey, PATH_UNUSED, Session, path_slot,
    },
    outer::{self, IPV4_UDP_WORDS, IPV6_UDP_WORDS, Outer, Ports},
    transit,
    wire::{DataHeader, Flags, HEADER_LEN, HEADER_WORDS, IPV4_HEADER_LEN, PacketType, TAG_LEN, type_byte},
};

use crate::{
    aead,
    drops::{Account, Exit, address_bytes},
    intrinsics::fetch_add,
    maps::{self, ARRIVAL_PATHS, ARRIVALS, ORIGIN_EVENTS, ORIGINS, PATH_STATS, PATHS_MAP, TUNNEL},
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    zero_tag,
};

/// A data or control packet of a known session, checked and not yet touched.
pub struct Arrival {
    /// Its outer headers.
    pub outer: Outer,
    /// Its header.
    pub header: DataHeader,
    /// Bytes of the sealed payload, without header and tag.
    pub payload_len: u32,
    /// Number of the peer that sent it.
    pub peer: u32,
    /// [`path_slot`] of our path that it came by; while the daemon has not written it down, of the one with the same id
    /// as the sender's.
    pub slot: u32,
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// When it was looked at, nanoseconds of `CLOCK_BOOTTIME`.
    pub now: u64,
    /// Its session.
    session: *mut Session,
}

impl Arrival {
    /// Offset of the sealed payload behind the link-layer header.
    #[inline(always)]
    pub const fn payload_offset(&self) -> usize {
        if self.outer.headers_len as usize == IPV4_UDP_WORDS * 4 {
            IPV4_UDP_WORDS * 4 + HEADER_LEN
        } else {
            IPV6_UDP_WORDS * 4 + HEADER_LEN
        }
    }

    /// Opens the packet in place; `L2` are the bytes of the link-layer header, and all of it must lie in the packet.
    /// One that is refused has garbage for a payload then, so it must be dropped.
    #[inline(always)]
    pub fn open<const L2: usize>(&self, packet: Packet) -> Result<(), Exit> {
        let keys = maps::session_keys(self.header.receiver).ok_or(DropReason::UnknownSession)?;
        // SAFETY: looked up in this run of the program. A session that was retired since has no cipher, and `open`
        // refuses; if the slot is another session's by now, `accept` does.
        let cipher = unsafe { (*self.session).cipher };
        let words = self.header.to_words();
        let offset = L2 + self.payload_offset();
        let failed = match cipher {
            CIPHER_NONE => zero_tag::check(packet, offset + self.payload_len as usize),
            _ => aead::open(packet, offset, self.payload_len, words, &raw const keys.receive, cipher),
        };
        match failed {
            0 => Ok(()),
            _ => Err(DropReason::BadTag.into()),
        }
    }

    /// Marks the counter as seen, after the packet was opened; then counts it.
    ///
    /// No packet is delivered twice: copies of it may pass the check in [`inspect`] on several CPUs at once, and all of
    /// them may be opened, but the lock orders them here, the first one sets the bit, and the others find it set.
    /// Nothing clears a bit but a counter so much higher that this one lies behind the window. Nor does a forged packet
    /// mark anything: it does not come here, because it was not opened.
    ///
    /// The index is compared once more, because the slot may have been retired since, and be another session's.
    #[inline(always)]
    pub fn accept(&self) -> Result<(), Exit> {
        let session = self.session;
        // SAFETY: looked up in this run of the program. The window is only touched under the lock, and nothing is
        // called while it is held.
        let new = unsafe {
            lock((&raw mut (*session).lock).cast::<bpf_spin_lock>());
            let new = (*session).index == self.header.receiver && (*session).window.mark(self.header.counter);
            unlock((&raw mut (*session).lock).cast::<bpf_spin_lock>());
            new
        };
        if !new {
            return Err(seen(&self.header).into());
        }
        if let Some(stats) = PATH_STATS.get_ptr_mut(self.slot) {
            // SAFETY: this CPU's own value, just looked up.
            unsafe {
                (*stats).ingress.packets += 1;
                (*stats).ingress.bytes += u64::from(self.outer.headers_len + self.outer.payload_len);
                (*stats).ingress.last_seen_ns = self.now;
            }
        }
        if transit::tells(&self.header, self.payload_len) {
            self.measure();
        }
        Ok(())
    }

    /// Takes the packet into what is known of the way that it came by. While that way is not written down, the slot may
    /// be another path's, whose figures must stay its own; nobody is told any before.
    #[inline(never)]
    fn measure(&self) -> u32 {
        if !self.is_attributed() {
            return 0;
        }
        let Some(arrivals) = ARRIVALS.get_ptr_mut(self.slot) else {
            return 0;
        };
        // SAFETY: just looked up. What is not added to atomically may get lost where two processors write at once.
        unsafe {
            fetch_add(&raw mut (*arrivals).packets, 1);
            fetch_add(&raw mut (*arrivals).bytes, u64::from(self.outer.headers_len + self.outer.payload_len));
            (*arrivals).counter = self.header.counter;
            let now_us = (self.now / 1000) as u32;
            if self.header.flags.class.is_aggregate() {
                // What its timestamp says is due to the sender's virtual queue, and not comparable with the others'.
                let is_first = fetch_add(&raw mut (*arrivals).striped, 1) == 0;
                (*arrivals).take_striped(self.header.timestamp, now_us, is_first);
                return 0;
            }
            let seen = (*arrivals).take(self.header.timestamp, now_us);
            if seen.is_reordered {
                fetch_add(&raw mut (*arrivals).reordered, 1);
            }
            if seen.is_late {
                fetch_add(&raw mut (*arrivals).late, 1);
            }
        }
        0
    }

    /// Tells the daemon, once for every change, where the packets of a peer's path come from if that is not what is
    /// written down: once the packet is accepted and all of it is checked, because one that is refused must not say
    /// where the peer is. A packet that was sent twice tells nothing: it bears the id of its first path, and may have
    /// come by the second.
    #[inline(never)]
    pub fn report(&self, ctx: &impl EbpfContext) -> u32 {
        if !is_doubled(&self.header) && !self.came_as_written() {
            self.report_origin(ctx);
        }
        0
    }

    /// Whether the daemon has written down by which of our paths the packets of the sender's path come.
    #[inline(always)]
    pub fn is_attributed(&self) -> bool {
        // Looked up again, because a flag would have the verifier follow every way through the window twice; compared,
        // because the daemon may have written it down since.
        attributed(self.peer, self.header.path) == Some(self.slot)
    }

    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value they are copied: the stack has no room")]
    #[inline(always)]
    fn report_origin(&self, ctx: &impl EbpfContext) {
        let outer = &self.outer;
        let ipv4 = outer.headers_len as usize == IPV4_HEADER_LEN + 8;
        let key = OriginKey { peer: self.peer, path: u32::from(self.header.path) };
        let origin = Origin {
            ifindex: self.ifindex,
            family: if ipv4 { FAMILY_IPV4 } else { FAMILY_IPV6 },
            local: address_bytes(outer.destination),
            remote: address_bytes(outer.source),
            remote_port: outer.source_port,
            local_port: outer.destination_port,
            reserved: [0; 4],
        };
        // SAFETY: read at once.
        if let Some(last) = unsafe { ORIGINS.get(&key) }
            && last.ifindex == origin.ifindex
            && last.remote_port == origin.remote_port
            && last.local_port == origin.local_port
            && last.remote == origin.remote
            && last.local == origin.local
        {
            return;
        }
        if ORIGINS.insert(&key, &origin, u64::from(BPF_ANY)).is_ok() {
            info!(
                ctx,
                "peer {}: path {} now comes by interface {} from port {}",
                key.peer,
                key.path,
                origin.ifindex,
                origin.remote_port
            );
            // With a full ring the next packet tries again. (A daemon that starts looks into `origins`.)
            if ORIGIN_EVENTS.output(&key, 0).is_err() {
                let _ = ORIGINS.remove(&key);
            }
        }
    }

    /// Whether the packet came by the interface and between the addresses that are written down for its path.
    #[inline(always)]
    fn came_as_written(&self) -> bool {
        let outer = &self.outer;
        self.is_attributed()
            && PATHS_MAP.get(self.slot).is_some_and(|path| {
                path.state != PATH_UNUSED
                    && path.ifindex == self.ifindex
                    && path.remote_port == outer.source_port
                    && path.local_port == outer.destination_port
                    && path.remote == address_bytes(outer.source)
                    && path.local == address_bytes(outer.destination)
            })
    }
}

/// Longest sealed payload, bytes: behind the longest headers it still can be opened.
const MAX_PAYLOAD_LEN: u32 = aead::MAX_END - (ETHERNET_LEN + IPV6_UDP_WORDS * 4 + HEADER_LEN) as u32;

/// Reads and checks a packet whose link-layer header has `L2` bytes.
///
/// `available` is the length of the whole frame, of which the packet may hold only the start. What is found goes into
/// `place`, all of it at once: zeros written in advance become calls of memset, a loop over bytes.
#[inline(always)]
pub fn inspect<'a, const L2: usize>(
    packet: Packet,
    available: u32,
    ifindex: u32,
    place: &'a mut MaybeUninit<Arrival>,
    account: &mut Account,
) -> Result<&'a mut Arrival, Exit> {
    let tunnel = TUNNEL.get(0).ok_or(Exit::Pass)?;
    let [first] = packet.words::<1>(L2).ok_or(Exit::Pass)?;
    let available = available - L2 as u32;
    let ports = Ports { first: tunnel.listen_port, count: tunnel.port_count };
    // Only an Ethernet header says what follows it: other protocols may begin with the same bytes.
    let ethertype = if L2 == ETHERNET_LEN { packet.ethertype().ok_or(Exit::Pass)? } else { 0 };
    account.doubtful = 1;
    let (outer, words) = match (inner::version(first), ethertype) {
        (4, 0 | ETHERTYPE_IPV4) => {
            let words = packet.words::<IPV4_UDP_WORDS>(L2).ok_or(Exit::Pass)?;
            let outer = outer::parse_ipv4(&words, available, ports)?.ok_or(Exit::Pass)?;
            (outer, packet.words::<HEADER_WORDS>(L2 + IPV4_UDP_WORDS * 4))
        }
        (6, 0 | ETHERTYPE_IPV6) => {
            let words = packet.words::<IPV6_UDP_WORDS>(L2).ok_or(Exit::Pass)?;
            if outer::is_first_ipv6_fragment(&words) {
                let [udp] = packet.words::<1>(L2 + IPV6_UDP_WORDS * 4).ok_or(Exit::Pass)?;
                let ours = ports.hold(u32::from_be(udp));
                return Err(if ours { DropReason::OuterFragment.into() } else { Exit::Pass });
            }
            let outer = outer::parse_ipv6(&words, available, ports)?.ok_or(Exit::Pass)?;
            (outer, packet.words::<HEADER_WORDS>(L2 + IPV6_UDP_WORDS * 4))
        }
        _ => return Err(Exit::Pass),
    };
    let arrival = place.as_mut_ptr();
    // SAFETY: the place is one for it.
    unsafe { (&raw mut (*arrival).outer).write(outer) };
    let words = words.ok_or(DropReason::Truncated)?;
    if matches!(
        PacketType::from_byte(type_byte(words[0])),
        Some(PacketType::HandshakeInitiation | PacketType::HandshakeResponse | PacketType::Cookie)
    ) {
        return Err(Exit::Pass);
    }
    let header = DataHeader::from_words(&words).map_err(|_| DropReason::UnknownVersion)?;
    let is_known = match header.packet_type {
        PacketType::Data => true,
        PacketType::Control => header.flags.to_bits() == Flags::PIN.to_bits(),
        _ => false,
    };
    if !is_known || header.path as usize >= MAX_PATHS {
        return Err(DropReason::UnknownVersion.into());
    }
    let overhead = (HEADER_LEN + TAG_LEN) as u32;
    if outer.payload_len < overhead {
        return Err(DropReason::Truncated.into());
    }
    let payload_len = outer.payload_len - overhead;
    if payload_len > MAX_PAYLOAD_LEN {
        return Err(DropReason::Oversized.into());
    }
    // SAFETY: as above.
    unsafe {
        (&raw mut (*arrival).header).write(header);
        (&raw mut (*arrival).payload_len).write(payload_len);
    }
    let session = maps::session(header.receiver).ok_or(DropReason::UnknownSession)?;
    // SAFETY: just looked up; the field never changes.
    let peer = unsafe { (*session).peer };
    // From here on it is ours, whatever address it was sent to.
    account.doubtful = 0;
    let slot = attributed(peer, header.path).unwrap_or(path_slot(peer, header.path));
    account.path = slot + 1;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    check_session(session, &header, now)?;
    // SAFETY: the place is one for it, and all of its fields are written.
    unsafe {
        (&raw mut (*arrival).peer).write(peer);
        (&raw mut (*arrival).slot).write(slot);
        (&raw mut (*arrival).ifindex).write(ifindex);
        (&raw mut (*arrival).now).write(now);
        (&raw mut (*arrival).session).write(session);
        Ok(&mut *arrival)
    }
}

/// Looks whether the session lives and the counter is new.
#[inline(always)]
fn check_session(session: *mut Session, header: &DataHeader, now: u64) -> Result<(), Exit> {
    let counter = header.counter;
    // SAFETY: looked up in this run of the program; the fields never change.
    let (expires_ns, cipher) = unsafe { ((*session).expires_ns, (*session).cipher) };
    if !matches!(cipher, CIPHER_CHACHA20_POLY1305 | CIPHER_AUTH | CIPHER_NONE) {
        return Err(DropReason::UnknownSession.into());
    }
    if now > expires_ns || counter >= MAX_COUNTER {
        return Err(DropReason::SessionExpired.into());
    }
    // A cheap look without the lock: a torn view costs at most a packet at the window's edge, `accept` decides.
    // SAFETY: as above, only read.
    if unsafe { !(*session).window.is_new(counter) } {
        return Err(seen(header).into());
    }
    Ok(())
}

/// Whether a packet goes by two paths.
#[inline(always)]
fn is_doubled(header: &DataHeader) -> bool {
    header.flags.class.is_doubled()
}

/// Why a packet is dropped whose counter was seen before.
#[inline(always)]
fn seen(header: &DataHeader) -> DropReason {
    if is_doubled(header) { DropReason::Duplicate } else { DropReason::Replayed }
}

/// [`path_slot`] of our path by which the packets of a peer's path come, if the daemon has written it down.
#[inline(always)]
fn attributed(peer: u32, path: u8) -> Option<u32> {
    ARRIVAL_PATHS.get(path_slot(peer, path)).and_then(|entry| entry.checked_sub(1))
}
