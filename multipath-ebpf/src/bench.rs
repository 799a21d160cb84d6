//! Seals and opens as the programs of the data plane do, and nothing else: for tests and for measuring.
//!
//! A packet is an Ethernet header, our header, the payload and the tag; the key and the cipher are in the map `key`.
//! The programs return what `aead::seal` and `aead::open` return, so 0 is success.
//!
//! | program | does |
//! | --- | --- |
//! | `seal`, `open` | one of both |
//! | `seal_open` | both, so that the packet is afterwards what it was, but for the tag |
//! | `seal_xdp`, `open_xdp` | the same in an XDP program |
//! | `seal_none`, `open_none` | the same with `cipher = "none"`: what `zero_tag::write` and `zero_tag::check` return |
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros of the entry points make functions without their docstrings")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of the entry points pass the context by value")]
#![expect(clippy::cast_possible_wrap, reason = "the kernel takes the verdict of a classifier as a signed number")]

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use multipath_common::wire::{HEADER_LEN, HEADER_WORDS, TAG_LEN};
use multipath_ebpf::{
    aead,
    packet::{ETHERNET_LEN, Packet},
    zero_tag,
};

/// Words of a key.
const KEY_WORDS: usize = 8;
/// What a program returns when the packet is none.
const NO_PACKET: u32 = u32::MAX;

/// The key, then the number of the cipher.
#[btf_map(name = "key")]
static KEY: Array<[u32; KEY_WORDS + 1], 1> = Array::new();

/// [`aead::seal`] or [`aead::open`].
type Function = fn(Packet, usize, u32, [u32; HEADER_WORDS], *const [u32; KEY_WORDS], u32) -> u32;

#[inline(always)]
fn apply(function: Function, packet: Packet) -> u32 {
    let (Some(key), Some(header)) = (KEY.get(0), packet.words(ETHERNET_LEN)) else { return NO_PACKET };
    let Some(len) = packet.len().checked_sub((ETHERNET_LEN + HEADER_LEN + TAG_LEN) as u32) else { return NO_PACKET };
    function(packet, ETHERNET_LEN + HEADER_LEN, len, header, key.as_ptr().cast(), key[KEY_WORDS])
}

#[inline(always)]
fn apply_to_buffer(function: Function, ctx: &TcContext) -> u32 {
    Packet::linear(ctx).map_or(NO_PACKET, |packet| apply(function, packet))
}

#[inline(always)]
fn apply_to_tag(function: fn(Packet, usize) -> u32, ctx: &TcContext) -> u32 {
    let Some(packet) = Packet::linear(ctx) else { return NO_PACKET };
    packet.len().checked_sub(TAG_LEN as u32).map_or(NO_PACKET, |offset| function(packet, offset as usize))
}

#[classifier]
pub fn seal(ctx: TcContext) -> i32 {
    apply_to_buffer(aead::seal, &ctx) as i32
}

#[classifier]
pub fn open(ctx: TcContext) -> i32 {
    apply_to_buffer(aead::open, &ctx) as i32
}

#[classifier]
pub fn seal_open(ctx: TcContext) -> i32 {
    (apply_to_buffer(aead::seal, &ctx) | apply_to_buffer(aead::open, &ctx)) as i32
}

#[classifier]
pub fn seal_none(ctx: TcContext) -> i32 {
    apply_to_tag(zero_tag::write, &ctx) as i32
}

#[classifier]
pub fn open_none(ctx: TcContext) -> i32 {
    apply_to_tag(zero_tag::check, &ctx) as i32
}

#[xdp]
pub fn seal_xdp(ctx: XdpContext) -> u32 {
    apply(aead::seal, Packet::new(ctx.data(), ctx.data_end()))
}

#[xdp]
pub fn open_xdp(ctx: XdpContext) -> u32 {
    apply(aead::open, Packet::new(ctx.data(), ctx.data_end()))
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
