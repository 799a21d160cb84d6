//! Why the programs drop a packet. Each reason has its own counter in the map `drops`.

/// Declares the reasons with their names once.
macro_rules! drop_reasons {
    ($($(#[$attr:meta])* $variant:ident = $name:literal,)+) => {
        /// A reason; its number is the key in the map `drops`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum DropReason { $($(#[$attr])* $variant,)+ }

        impl DropReason {
            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name under which commands print it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The reason with this number.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }
        }
    };
}

drop_reasons! {
    /// Egress: the frame carries neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// Egress: the inner packet is shorter than its headers say, or its version or header length is wrong; or the frame
    /// bears a mark in its MAC addresses that is for the gateway's own frames.
    MalformedInner = "malformed_inner",
    /// Egress: no peer's `allowed_ips` hold the destination.
    NoPeer = "no_peer",
    /// Egress: there is no session with the peer.
    NoSession = "no_session",
    /// Egress: none of the peer's paths can be used. Ingress: no path leads back to where a probe came from.
    NoPath = "no_path",
    /// Egress: neither whole nor in two parts does the packet fit any usable path.
    TooBig = "too_big",
    /// Egress: the kernel refused to make room for the outer headers, or to hand the packet on.
    EncapsulationFailed = "encapsulation_failed",
    /// Ingress: the outer packet is a fragment.
    OuterFragment = "outer_fragment",
    /// Ingress: the outer packet is shorter than its headers say.
    Truncated = "truncated",
    /// Ingress: the outer packet is longer than its UDP header says, or carries more than its inner packet.
    Oversized = "oversized",
    /// Ingress: type, flags or path id of another version of the protocol.
    UnknownVersion = "unknown_version",
    /// Ingress: no session has this receiver index.
    UnknownSession = "unknown_session",
    /// Either way: the session has ended.
    SessionExpired = "session_expired",
    /// Ingress: the counter was seen before, or lies behind the window.
    Replayed = "replayed",
    /// Ingress: the tag does not fit the packet.
    BadTag = "bad_tag",
    /// Ingress: what was opened is no IP packet.
    BadInner = "bad_inner",
    /// Ingress: the inner source address is not one of the peer's `allowed_ips`.
    WrongSource = "wrong_source",
    /// Ingress: congestion was marked on a packet whose flow cannot hear of it (RFC 6040 section 4.2).
    EcnNotCapable = "ecn_not_capable",
    /// Ingress: the part does not fit its other half, or the store has no room.
    PartMismatch = "part_mismatch",
    /// Ingress: a control message for which the daemon's ring had no room.
    ControlLost = "control_lost",
    /// Ingress: the kernel refused to strip the outer headers or to deliver the packet.
    DeliveryFailed = "delivery_failed",
    /// Ingress: a second copy of a packet that was sent twice.
    Duplicate = "duplicate",
    /// Egress: more comes than the path's rate allows.
    PathFull = "path_full",
    /// Ingress: a reply to no probe of ours.
    Unasked = "unasked",
}
