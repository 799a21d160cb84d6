//! Which names tunnels, uplinks, peers and interfaces may have.

/// Most bytes of an interface's name: `IFNAMSIZ` is 16 with the final zero (include/uapi/linux/if.h).
pub const INTERFACE_NAME_MAX: usize = 15;
/// Most bytes of a tunnel's name: `NAME-port` has to be an interface's name too.
pub const TUNNEL_NAME_MAX: usize = INTERFACE_NAME_MAX - "-port".len();
/// Most bytes of an uplink's or a peer's name.
const NAME_MAX: usize = 15;

/// Checks the name of an uplink or a peer.
///
/// # Errors
/// What a name must be.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_word) {
        Ok(())
    } else {
        Err("1 to 15 of the characters A-Z a-z 0-9 _ -")
    }
}

/// Checks the name of a tunnel, which is also a directory in bpffs (where a dot is refused).
///
/// # Errors
/// What a name must be.
pub fn check_tunnel_name(name: &str) -> Result<(), &'static str> {
    if (1..=TUNNEL_NAME_MAX).contains(&name.len()) && name.bytes().all(is_word) && !name.starts_with('-') {
        Ok(())
    } else {
        Err("a tunnel's name of 1 to 10 of the characters A-Z a-z 0-9 _ -, \
             because the device NAME-port must fit into an interface's 15")
    }
}

/// Checks the name of an interface as the kernel does (`dev_valid_name`, net/core/dev.c).
///
/// # Errors
/// What a name must be.
pub fn check_interface_name(name: &str) -> Result<(), &'static str> {
    if (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
    {
        Ok(())
    } else {
        Err("an interface's name of 1 to 15 bytes, without '/', ':' and spaces")
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert!(check_name("fifteen-letters").is_ok());
        assert!(check_name("sixteen-letters_").is_err());
        assert!(check_tunnel_name("ten-letter").is_ok());
        assert!(check_tunnel_name("eleven-lett").is_err());
        assert!(check_interface_name("enp0s31f6.12345").is_ok());
        assert!(check_interface_name("enp0s31f6.123456").is_err());
        for check in [check_name, check_tunnel_name, check_interface_name] {
            assert!(check("").is_err());
        }
    }

    #[test]
    fn characters() {
        assert!(check_name("a/b").is_err());
        assert!(check_name("größe").is_err());
        assert!(check_tunnel_name("-p").is_err());
        assert!(check_tunnel_name("a.b").is_err());
        assert!(check_interface_name("eth0:1").is_err());
        assert!(check_interface_name("..").is_err());
    }
}
