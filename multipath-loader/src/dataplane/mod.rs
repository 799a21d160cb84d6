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
    maps::{
        ControlEvents, DropCount, FlowEvents, Maps, OriginEvents, PathRecord, PeerRecord, PlayoutMaps, ProbeEvents,
        name_bytes, name_text, wipe_session_keys,
    },
    pins::{Lock, Pins, tunnels},
    probe::{has_tcx, is_real_time, missing_kinds},
};
