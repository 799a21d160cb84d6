//! What the daemon holds of a path, and why: the numbers that stand in the maps `path_quality` and `path_log`.

/// Declares numbered words with their names once.
macro_rules! words {
    ($(#[$type_attr:meta])* pub enum $type:ident { $($(#[$attr:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$type_attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $type { $($(#[$attr])* $variant,)+ }

        impl $type {
            /// All of them in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name under which commands print it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The one with this number.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }
        }
    };
}

words! {
    /// How a path is. Only `Up` paths carry data, unless nothing better is there; `Stalled` ones carry it together with
    /// another path.
    pub enum Health {
        /// No such path, or nothing is known of it yet.
        Unknown = "unknown",
        /// It leads somewhere, and no probe has been answered yet, or not enough of them since it was down.
        Probing = "probing",
        /// It works and is used.
        Up = "up",
        /// It answers and loses so many packets that it is used only when nothing better is there.
        Lossy = "lossy",
        /// An answer is overdue: packets go by another path as well until it comes or the path is down.
        Stalled = "stalled",
        /// Nothing comes back, or there is no way to the endpoint.
        Down = "down",
        /// It works and waits: a path of a better tier carries the packets.
        Backup = "backup",
        /// Somebody has put it out of use: the operator, the peer's operator, or a quota that is used up.
        Disabled = "disabled",
    }
}

words! {
    /// Why a path's health has changed.
    pub enum Reason {
        /// Nothing has happened.
        None = "-",
        /// The path has appeared.
        New = "new path",
        /// Probes are answered.
        Answers = "probes are answered",
        /// A probe is overdue.
        Overdue = "a probe is overdue",
        /// Data and probes were sent, and nothing of it was reported.
        Unreported = "nothing of what was sent is reported",
        /// Several probes in a row had no answer.
        Unanswered = "probes have no answer",
        /// Many packets are lost.
        Loss = "packets are lost",
        /// Few packets are lost any more.
        LossEnded = "packets arrive again",
        /// The uplink's interface has no carrier or is down.
        Carrier = "no carrier",
        /// The uplink's interface is gone.
        InterfaceGone = "interface gone",
        /// The uplink has no address to send from.
        NoAddress = "no address",
        /// There is no route to the endpoint through the uplink.
        NoRoute = "no route",
        /// The interface, address or route is there (again).
        Resolved = "interface, address and route are there",
        /// A router says that the endpoint can't be reached.
        Unreachable = "a router reports the endpoint unreachable",
        /// It comes and goes: it has to work for longer before it is used again.
        Flapping = "flaps, must prove itself",
        /// A path of a better tier works.
        BetterTier = "a path of a better tier works",
        /// No path of a better tier works.
        NoBetterTier = "no path of a better tier works",
        /// Nothing better is there: the least bad path is used.
        LeastBad = "least bad path",
        /// The operator's word.
        Operator = "operator",
        /// The word of the operator of the other gateway.
        Peer = "the other gateway's operator",
        /// The quota of the uplink is used up, or begins anew.
        Quota = "quota",
        /// The session with the peer has ended, or is there again.
        Session = "session",
        /// Nobody is at a learned address any more.
        Abandoned = "nobody is there any more",
        /// The configuration has changed.
        Configuration = "configuration",
        /// Larger or smaller packets pass than before.
        PathMtu = "path MTU",
    }
}

words! {
    /// What a path is for, in the maps `path_automatic` (the configuration's), `path_operator` (the command line's) and
    /// in probes (what the sender wants of its peer). The larger number is the stricter word, where two gateways differ.
    pub enum Role {
        /// Whatever the next authority says: command line, then configuration, then `Active`.
        Automatic = "auto",
        /// It carries data.
        Active = "active",
        /// It carries data when no active path works.
        Backup = "backup",
        /// It costs money: it carries data when no active and no backup path works, and is probed seldom.
        Metered = "metered",
        /// It carries nothing but probes, or nothing at all.
        Down = "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (number, health) in Health::ALL.iter().enumerate() {
            assert_eq!((*health as usize, Health::from_number(number as u32)), (number, Some(*health)));
            assert_eq!(Health::ALL.iter().filter(|other| other.name() == health.name()).count(), 1);
        }
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!((*reason as usize, Reason::from_number(number as u32)), (number, Some(*reason)));
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
        assert_eq!(Health::from_number(Health::ALL.len() as u32), None);
    }
}
