//! Seals and opens payloads where they stand in the packet, for TC and XDP alike.

use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_loop, macros::btf_map};
use multipath_common::{
    crypto::aead::{self, Aead, Direction, Packet as _, UNIT_LEN, UNIT_WORDS, Unit},
    maps::{CIPHER_AUTH, CIPHER_CHACHA20_POLY1305},
    wire::HEADER_WORDS,
};

use crate::{
    intrinsics::opaque,
    packet::{MAX_OFFSET, Packet},
};

/// What a subprogram returns when all is well.
const DONE: u32 = 0;
/// What it returns when the payload does not lie in the packet, or the cipher is unknown.
const FAILED: u32 = 1;
/// What a body of `bpf_loop` returns for the next turn.
const NEXT: i64 = 0;
/// What it returns for no other.
const BREAK: i64 = 1;

/// Longest payload and what is before it, bytes.
pub const MAX_END: u32 = MAX_OFFSET as u32 - UNIT_LEN;

/// Where the work is done. Per CPU, because no program of a CPU is interrupted by another of its own kind.
#[btf_map(name = "seal_scratch")]
static SCRATCH: PerCpuArray<Aead, 1> = PerCpuArray::new();

/// Seals `len` bytes at `offset` of the packet, and writes the tag behind them. Not 0 when they or the tag do not lie
/// in the packet, or when `cipher` is neither [`CIPHER_CHACHA20_POLY1305`] nor [`CIPHER_AUTH`].
///
/// The header is in memory order, the key points to little-endian words in a map value that was just looked up.
#[inline(always)]
pub fn seal(
    packet: Packet,
    offset: usize,
    len: u32,
    header: [u32; HEADER_WORDS],
    key: *const [u32; 8],
    cipher: u32,
) -> u32 {
    begin(header, key);
    seal_begun(packet, offset, len, cipher)
}

/// The first half of [`seal`]: what does not depend on the payload.
#[inline(always)]
pub fn begin(header: [u32; HEADER_WORDS], key: *const [u32; 8]) {
    start(key, pair(header[0], header[1]), pair(header[2], header[3]), header[4]);
}

/// The second half of [`seal`].
#[inline(always)]
pub fn seal_begun(packet: Packet, offset: usize, len: u32, cipher: u32) -> u32 {
    seal_in_place(packet.start(), packet.end(), pair(offset as u32, len), cipher)
}

/// Opens `len` bytes at `offset` of the packet. Not 0 when the tag behind them is not theirs; they are then neither
/// plaintext nor ciphertext, and the packet must be dropped. The bytes of the tag are lost in any case.
///
/// Header, key and cipher are those of [`seal`].
#[inline(always)]
pub fn open(
    packet: Packet,
    offset: usize,
    len: u32,
    header: [u32; HEADER_WORDS],
    key: *const [u32; 8],
    cipher: u32,
) -> u32 {
    begin(header, key);
    open_in_place(packet.start(), packet.end(), pair(offset as u32, len), cipher)
}

/// Two words as one argument: a subprogram takes five.
#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[inline(never)]
fn start(key: *const [u32; 8], header01: u64, header23: u64, header4: u32) -> u32 {
    let Some(aead) = SCRATCH.get_ptr_mut(0) else { return FAILED };
    // SAFETY: this CPU's own scratch; the key was just looked up.
    let (aead, key) = unsafe { (&mut *aead, &*key) };
    aead.start(key, [header01 as u32, (header01 >> 32) as u32, header23 as u32, (header23 >> 32) as u32, header4]);
    DONE
}

#[inline(never)]
fn seal_in_place(data: usize, end: usize, offset_and_len: u64, cipher: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return FAILED };
    let mut work = Work { packet: Packet::new(data, end), scratch };
    let Some(mut tag) = work.tag(offset_and_len) else { return FAILED };
    if !work.make_tag(offset_and_len, cipher, seal_step) {
        return FAILED;
    }
    work.aead().write_tag(&mut tag);
    opaque(u64::from(DONE)) as u32
}

#[inline(never)]
fn open_in_place(data: usize, end: usize, offset_and_len: u64, cipher: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return FAILED };
    let mut work = Work { packet: Packet::new(data, end), scratch };
    let Some(tag) = work.tag(offset_and_len) else { return FAILED };
    work.aead().keep_tag(&tag);
    if !work.make_tag(offset_and_len, cipher, open_step) {
        return FAILED;
    }
    opaque(u64::from(work.aead().tag_differs())) as u32
}

/// What the body of a loop gets. The rest is in the scratch, because the stack of the programs is nearly full.
struct Work {
    packet: Packet,
    scratch: *mut Aead,
}

/// The body of a loop.
type Step = extern "C" fn(u32, *mut Work) -> i64;

impl Work {
    #[inline(always)]
    fn aead(&mut self) -> &mut Aead {
        // SAFETY: this CPU's own scratch, looked up in this run of the program, and borrowed nowhere else.
        unsafe { &mut *self.scratch }
    }

    /// The scratch and the packet, for a step.
    #[inline(always)]
    fn parts(&mut self) -> (&mut Aead, InPacket) {
        let packet = InPacket(&raw const self.packet);
        (self.aead(), packet)
    }

    /// The place of the tag; `None` when that and the payload before it do not lie in the packet.
    #[inline(always)]
    fn tag(&mut self, offset_and_len: u64) -> Option<InPlace> {
        let (offset, len) = (offset_and_len as u32, (offset_and_len >> 32) as u32);
        if offset > MAX_END || len > MAX_END - offset {
            return None;
        }
        self.parts().1.unit(offset + len)
    }

    /// Works through the payload, encrypting by `step` if the cipher does. False when it can not.
    #[inline(always)]
    fn make_tag(&mut self, offset_and_len: u64, cipher: u32, step: Step) -> bool {
        let (offset, len) = (offset_and_len as u32, (offset_and_len >> 32) as u32);
        let (aead, mut packet) = self.parts();
        let associated = match cipher {
            CIPHER_CHACHA20_POLY1305 => 0,
            CIPHER_AUTH => len,
            _ => return false,
        };
        if aead.begin(&mut packet, offset, len, associated).is_none() {
            return false;
        }
        let (encryption, authentication) = match cipher {
            CIPHER_AUTH => (0, self.aead().authentication_steps()),
            _ => (self.aead().encryption_steps(), 0),
        };
        // One after the other, because a call that two branches share is not made inline (kernel/bpf/verifier.c,
        // `optimize_bpf_loop`). The verifier leaves out the one that has no turns.
        self.repeat(step, encryption);
        self.repeat(authenticate_step, authentication);
        self.aead().finish();
        true
    }

    /// The verifier follows the body of `bpf_loop` once, and not once for every turn.
    #[inline(always)]
    fn repeat(&mut self, step: Step, times: u32) {
        // SAFETY: the step takes what it is given here, which outlives the loop.
        unsafe { bpf_loop(times, step as *mut _, (&raw mut *self).cast(), 0) };
    }
}

extern "C" fn seal_step(_index: u32, work: *mut Work) -> i64 {
    // SAFETY: the stack of `repeat`'s caller.
    let (aead, mut packet) = unsafe { &mut *work }.parts();
    aead.encrypt(&mut packet, Direction::Seal).map_or(BREAK, |()| NEXT)
}

extern "C" fn open_step(_index: u32, work: *mut Work) -> i64 {
    // SAFETY: the stack of `repeat`'s caller.
    let (aead, mut packet) = unsafe { &mut *work }.parts();
    aead.encrypt(&mut packet, Direction::Open).map_or(BREAK, |()| NEXT)
}

extern "C" fn authenticate_step(_index: u32, work: *mut Work) -> i64 {
    // SAFETY: the stack of `repeat`'s caller.
    let (aead, mut packet) = unsafe { &mut *work }.parts();
    aead.authenticate(&mut packet).map_or(BREAK, |()| NEXT)
}

/// A packet whose pointers stand on the stack, where they are read anew for every unit: the registers are needed.
struct InPacket(*const Packet);

impl aead::Packet for InPacket {
    type Unit<'a> = InPlace;

    #[inline(always)]
    fn unit(&mut self, offset: u32) -> Option<InPlace> {
        // SAFETY: it stands in the `Work` that the pointer was made from.
        let packet = unsafe { self.0.read_volatile() };
        let offset = opaque(u64::from(offset)) as usize & MAX_OFFSET;
        packet.at_variable(offset).map(InPlace)
    }
}

/// A unit in the packet.
struct InPlace(*mut [u32; UNIT_WORDS]);

impl Unit for InPlace {
    #[inline(always)]
    fn word(&self, i: usize) -> u32 {
        // SAFETY: `InPacket::unit` has checked the bounds.
        unsafe { (&raw const (*self.0)[i]).read_volatile() }
    }

    #[inline(always)]
    fn set_word(&mut self, i: usize, word: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0)[i]).write_volatile(word) }
    }
}
