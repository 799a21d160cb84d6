//! What the programs of the data plane and those that measure it have in common.
#![no_std]
#![expect(internal_features, reason = "a fetching atomic add is only to be had as an intrinsic on this target")]
#![feature(asm_experimental_arch, core_intrinsics)]

pub mod aead;
pub mod intrinsics;
pub mod packet;
pub mod zero_tag;
