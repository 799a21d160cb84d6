//! What somebody on the way can see and do, and that keys come and go unnoticed.
//!
//! Needs root, and the object and `mpvpn` as `cargo xtask build` makes them. The attacker of these tests reads, withholds,
//! changes, repeats and makes up packets on every uplink; all that is not told in a test has the default cipher.

mod datagram;
mod handshake;
mod hostile;
mod hub;
mod key_files;
mod nonces;
mod old_sessions;
mod ownership;
mod recording;
mod rekey;
mod roaming;
mod scene;
mod secrecy;
mod state;
mod strangers;
mod watch;
