//! Packets and flows, and what became of them, as data.

pub mod capture;
pub mod flood;
pub mod iperf;
pub mod packet_socket;
pub mod ping;
pub mod quic;
pub mod stream;

pub use capture::{Capture, Captured};
pub use flood::Flood;
pub use iperf::{Iperf, IperfReport};
pub use packet_socket::PacketSocket;
pub use ping::{Ping, PingReport};
pub use quic::{QuicFlow, QuicReport};
pub use stream::{StreamReport, UdpStream};

/// The value below which a share (0 to 1) of the sorted values lies; 0 where there are none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}
