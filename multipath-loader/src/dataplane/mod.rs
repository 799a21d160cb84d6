//! The data plane in the kernel: loads, attaches and pins the programs, and reads and writes their maps.
//!
//! Nothing else in the loader touches aya.

mod attach;
mod clsact;
mod load;
mod maps;
mod pins;
mod probe;

pub use self::{
    attach::{Attached, Attachments, Hook, TcHook},
    load::{LoadedPrograms, OBJECT},
    maps::{DropCount, Maps, OriginEvents, PathRecord, PeerRecord, name_bytes, name_text},
    pins::{Lock, Pins, tunnels},
    probe::{has_tcx, missing_kinds},
};
