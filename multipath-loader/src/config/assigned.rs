//! Numbers that have names: IP protocols and DSCPs.

/// Names and numbers of IP protocols (IANA, Assigned Internet Protocol Numbers), as in `/etc/protocols`; of two names for
/// a number the first one is written.
const PROTOCOLS: [(&str, u8); 15] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// Names and numbers of DSCPs: RFC 2474 (cs), RFC 2597 (af), RFC 3246 (ef), RFC 5865 (va), RFC 8622 (le); of two names for a
/// number the first one is written.
const DSCPS: [(&str, u8); 25] = [
    ("df", 0),
    ("cs0", 0),
    ("be", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// Largest DSCP: it has six bits.
const DSCP_MAX: u8 = 63;

/// Reads a protocol.
pub(super) fn protocol(text: &str) -> Result<u8, &'static str> {
    read(text, &PROTOCOLS, u8::MAX)
        .ok_or("a protocol: its name (tcp, udp, icmp, icmpv6, gre, esp, ah, sctp) or its number from 0 to 255")
}

/// Reads a DSCP.
pub(super) fn dscp(text: &str) -> Result<u8, &'static str> {
    read(text, &DSCPS, DSCP_MAX)
        .ok_or("a DSCP: its name (ef, va, le, df, cs0 to cs7, af11 to af43) or its number from 0 to 63")
}

/// A protocol as it is written.
pub(super) fn protocol_text(number: u8) -> String {
    write(number, &PROTOCOLS)
}

/// A DSCP as it is written.
pub(super) fn dscp_text(number: u8) -> String {
    write(number, &DSCPS)
}

fn read(text: &str, names: &[(&str, u8)], max: u8) -> Option<u8> {
    let known = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    known.or_else(|| digits?.parse().ok().filter(|number| *number <= max))
}

fn write(number: u8, names: &[(&str, u8)]) -> String {
    let name = names.iter().find(|(_, known)| *known == number);
    name.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!((protocol("TCP"), protocol("47"), protocol("ipv6-icmp")), (Ok(6), Ok(47), Ok(58)));
        assert_eq!((dscp("ef"), dscp("AF41"), dscp("63"), dscp("cs7")), (Ok(46), Ok(34), Ok(63), Ok(56)));
        for text in ["", "256", "-1", "tcp ", "quic"] {
            assert!(protocol(text).is_err(), "{text}");
        }
        for text in ["", "64", "-1", "af44", "cs8"] {
            assert!(dscp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for number in 0..=u8::MAX {
            assert_eq!(protocol(&protocol_text(number)), Ok(number));
            if number <= DSCP_MAX {
                assert_eq!(dscp(&dscp_text(number)), Ok(number));
            }
        }
    }
}
