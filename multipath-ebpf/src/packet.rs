//! Access to the packet: one bounds check for each run of words.

use aya_ebpf::programs::TcContext;
use multipath_common::inner::{self, IPV4_WORDS, IPV6_WORDS, Inner};

use crate::intrinsics::opaque;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// `EtherType` of IPv4, host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6, host order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Largest offset that the verifier lets a program add to a packet pointer (kernel/bpf/verifier.c, `MAX_PACKET_OFF`)
/// and that a mask can say; no uplink has a larger MTU.
pub const MAX_OFFSET: usize = (1 << 14) - 1;

/// The bytes that a program may touch now. Invalid after any helper that moves the packet.
#[derive(Clone, Copy)]
pub struct Packet {
    data: usize,
    end: usize,
}

impl Packet {
    /// The bytes between the two pointers of a context.
    #[inline(always)]
    pub const fn new(data: usize, end: usize) -> Self {
        Self { data, end }
    }

    /// The bytes of a socket buffer's linear part, after all of it was made linear. `None` where the kernel has no
    /// memory.
    #[inline(always)]
    pub fn linear(ctx: &TcContext) -> Option<Self> {
        let packet = Self::new(ctx.data(), ctx.data_end());
        if packet.len() == ctx.len() {
            return Some(packet);
        }
        ctx.pull_data(ctx.len()).ok()?;
        Some(Self::new(ctx.data(), ctx.data_end()))
    }

    /// The bytes of a socket buffer's linear part, after its first `len` bytes were made linear, if it has so many:
    /// drivers that fill page fragments leave less than our headers there.
    #[inline(always)]
    pub fn headers(ctx: &TcContext, len: u32) -> Self {
        let packet = Self::new(ctx.data(), ctx.data_end());
        let available = ctx.len();
        let wanted = if len < available { len } else { available };
        if packet.len() >= wanted {
            return packet;
        }
        // Where the kernel has no memory, the packet is treated like one that is too short.
        let _ = ctx.pull_data(wanted);
        Self::new(ctx.data(), ctx.data_end())
    }

    /// Where they begin.
    #[inline(always)]
    pub const fn start(self) -> usize {
        self.data
    }

    /// Where they end.
    #[inline(always)]
    pub const fn end(self) -> usize {
        self.end
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a packet that is empty is like any other that is too short")]
    #[inline(always)]
    pub const fn len(self) -> u32 {
        (self.end - self.data) as u32
    }

    /// A pointer to `T` at an offset, if all of it lies in the packet.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.end { None } else { Some(start as *mut T) }
    }

    /// A pointer to `T` at an offset that only the packet knows, if all of it lies in the packet.
    ///
    /// The compiler must not take this check for those at smaller offsets: the verifier draws no such conclusion.
    #[inline(always)]
    pub fn at_variable<T>(self, offset: usize) -> Option<*mut T> {
        Self { data: opaque(self.data as u64) as usize, end: self.end }.at(offset)
    }

    /// Words in memory order at an offset.
    ///
    /// The words need not be aligned: BPF has no alignment fault where the kernel has efficient unaligned access, and
    /// the verifier refuses the program where it has not (kernel/bpf/verifier.c, `check_ptr_alignment`).
    #[inline(always)]
    pub fn words<const N: usize>(self, offset: usize) -> Option<[u32; N]> {
        // SAFETY: `at` has checked the bounds.
        self.at::<[u32; N]>(offset).map(|pointer| unsafe { *pointer })
    }

    /// Writes words in memory order at an offset; `None` when they do not fit.
    #[inline(always)]
    pub fn set_words<const N: usize>(self, offset: usize, words: [u32; N]) -> Option<()> {
        // SAFETY: `at` has checked the bounds.
        self.at::<[u32; N]>(offset).map(|pointer| unsafe { *pointer = words })
    }

    /// The `EtherType` of an Ethernet frame, host order.
    #[inline(always)]
    pub fn ethertype(self) -> Option<u16> {
        // SAFETY: `at` has checked the bounds.
        self.at::<u16>(ETHERNET_LEN - 2).map(|pointer| u16::from_be(unsafe { *pointer }))
    }

    /// Writes the `EtherType` of an Ethernet frame, host order.
    #[inline(always)]
    pub fn set_ethertype(self, ethertype: u16) -> Option<()> {
        // SAFETY: `at` has checked the bounds.
        self.at::<u16>(ETHERNET_LEN - 2).map(|pointer| unsafe { *pointer = ethertype.to_be() })
    }

    /// Writes an Ethernet header: the destination is also the source, because the receiver knows no other station.
    #[inline(always)]
    pub fn set_ethernet(self, mac: [u8; 6], ethertype: u16) -> Option<()> {
        let pointer = self.at::<[u16; 7]>(0)?;
        let mac = [
            u16::from_ne_bytes([mac[0], mac[1]]),
            u16::from_ne_bytes([mac[2], mac[3]]),
            u16::from_ne_bytes([mac[4], mac[5]]),
        ];
        // SAFETY: `at` has checked the bounds.
        unsafe { *pointer = [mac[0], mac[1], mac[2], mac[0], mac[1], mac[2], ethertype.to_be()] };
        Some(())
    }

    /// The IP packet at an offset, with the ports of its flow. `None` when it is malformed.
    #[inline(always)]
    pub fn inner(self, offset: usize) -> Option<Inner> {
        let mut inner = match inner::version(self.words::<1>(offset)?[0]) {
            4 => inner::parse_ipv4(&self.words::<IPV4_WORDS>(offset)?)?,
            6 => inner::parse_ipv6(&self.words::<IPV6_WORDS>(offset)?)?,
            _ => return None,
        };
        if inner.has_ports {
            // An IP header has at most 60 bytes; the mask says so to the verifier.
            inner.key.ports = self.words::<1>(offset + (inner.transport as usize & 0x3f))?[0];
        }
        Some(inner)
    }
}
