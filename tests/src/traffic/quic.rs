//! One QUIC flow: a connection with a stream of bulk data from the client to the server, by quinn.
//!
//! Loss recovery and congestion control are quinn's own: CUBIC, packet threshold 3 (RFC 9002, section 6.1.1). Only the windows
//! for a stream's data are larger than by default: they stand for the buffers that a kernel gives to TCP as it needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::PrivatePkcs8KeyDer;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use serde::Serialize;
use tokio::task::JoinHandle as Task;

use super::stream::INTERVAL_MS;
use crate::namespace::Namespace;

/// The name that the server's certificate is for.
const SERVER_NAME: &str = "lab";
/// What may be on its way of one stream, bytes: 100 Mbit/s times a round trip of 1.3 s.
const STREAM_WINDOW: u32 = 16 << 20;
/// What a stream writes at once, bytes.
const PIECE: usize = 64 << 10;
/// Buffers of the sockets, bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// How often the client looks at its round-trip time.
const LOOK: Duration = Duration::from_millis(INTERVAL_MS);

/// A flow to be sent.
#[derive(Clone, Debug)]
pub struct QuicFlow {
    /// Address of the server.
    pub to: IpAddr,
    /// UDP port of the server.
    pub port: u16,
    /// How long is sent once the connection is there.
    pub duration: Duration,
}

/// What became of the flow.
#[derive(Clone, Debug, Serialize)]
pub struct QuicReport {
    /// Payload that the server's application got in each interval of [`INTERVAL_MS`] since the connection was there, bytes.
    pub received_per_interval: Vec<u64>,
    /// Pieces of the stream that arrived after later ones; what was sent again among them.
    pub reordered: u64,
    /// The client's smoothed round-trip time at the end of each interval of [`INTERVAL_MS`], milliseconds.
    pub rtts_ms: Vec<f64>,
    /// Packets that the client sent.
    pub sent_packets: u64,
    /// Packets that the client held for lost; what was in them was sent again.
    pub lost_packets: u64,
}

/// A flow that is being sent. It ends by itself.
#[derive(Debug)]
pub struct RunningQuic {
    client: JoinHandle<Result<Sent>>,
    server: JoinHandle<Result<Received>>,
}

#[derive(Debug)]
struct Sent {
    start: Instant,
    rtts_ms: Vec<f64>,
    packets: u64,
    lost: u64,
}

#[derive(Debug, Default)]
struct Received {
    pieces: Vec<(Instant, usize)>,
    reordered: u64,
}

impl QuicFlow {
    /// A flow to port 4433.
    pub fn to(to: impl Into<IpAddr>, duration: Duration) -> Self {
        Self { to: to.into(), port: 4433, duration }
    }

    /// Sends it and waits for the end.
    pub fn run(&self, from: &Namespace, to: &Namespace) -> Result<QuicReport> {
        self.start(from, to)?.finish()
    }

    /// Starts to send; the server is ready before.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(&self, from: &Namespace, to: &Namespace) -> Result<RunningQuic> {
        let (for_client, for_server) = configurations()?;
        let any: IpAddr = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let listening = socket(to, SocketAddr::new(any, self.port))?;
        let own = socket(from, SocketAddr::new(any, 0))?;
        let (server, duration) = (SocketAddr::new(self.to, self.port), self.duration);
        let server_thread = thread::Builder::new()
            .name("quic-server".into())
            .spawn(move || runtime()?.block_on(receive(listening, for_server)))?;
        let client_thread = thread::Builder::new()
            .name("quic-client".into())
            .spawn(move || runtime()?.block_on(send(own, for_client, server, duration)))?;
        Ok(RunningQuic { client: client_thread, server: server_thread })
    }
}

impl RunningQuic {
    /// Waits for the end.
    ///
    /// # Errors
    /// The connection did not come about, or broke.
    pub fn finish(self) -> Result<QuicReport> {
        let sent = self.client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent = sent.context("the client of a QUIC flow")?;
        let received = self.server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(QuicReport::of(sent, &received.context("the server of a QUIC flow")?))
    }
}

impl QuicReport {
    fn of(sent: Sent, received: &Received) -> Self {
        let mut received_per_interval = Vec::new();
        for (at, bytes) in &received.pieces {
            let index = at.saturating_duration_since(sent.start).as_millis() as usize / INTERVAL_MS as usize;
            received_per_interval.resize(received_per_interval.len().max(index + 1), 0);
            received_per_interval[index] += *bytes as u64;
        }
        Self {
            received_per_interval,
            reordered: received.reordered,
            rtts_ms: sent.rtts_ms,
            sent_packets: sent.packets,
            lost_packets: sent.lost,
        }
    }
}

fn socket(namespace: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    let socket = namespace
        .run(|| UdpSocket::bind(address))?
        .with_context(|| format!("UDP port {} of {}", address.port(), namespace.name()))?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    Ok(socket)
}

/// Everything of one end runs in one thread: the lab has few processors.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// Of client and server, with a certificate made for this one flow.
fn configurations() -> Result<(ClientConfig, ServerConfig)> {
    let pair = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).context("cannot make a certificate")?;
    let certificate = pair.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW)).send_window(STREAM_WINDOW.into());
    let transport = Arc::new(transport);
    server.transport_config(transport.clone());
    client.transport_config(transport);
    Ok((client, server))
}

async fn send(socket: UdpSocket, config: ClientConfig, to: SocketAddr, duration: Duration) -> Result<Sent> {
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(to, SERVER_NAME)?.await?;
    let start = Instant::now();
    let mut stream = connection.open_uni().await?;
    let looking: Task<Vec<f64>> = tokio::spawn(round_trips(connection.clone(), duration));
    let writing = async {
        let piece = vec![0; PIECE];
        loop {
            if let Err(error) = stream.write_all(&piece).await {
                return error;
            }
        }
    };
    if let Ok(error) = tokio::time::timeout(duration, writing).await {
        return Err(error).context("the connection broke");
    }
    let rtts_ms = looking.await?;
    let path = connection.stats().path;
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(Sent { start, rtts_ms, packets: path.sent_packets, lost: path.lost_packets })
}

async fn round_trips(connection: Connection, duration: Duration) -> Vec<f64> {
    let mut rtts_ms = Vec::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.tick().await;
    while LOOK * (rtts_ms.len() as u32 + 1) < duration {
        looks.tick().await;
        rtts_ms.push(connection.rtt().as_secs_f64() * 1e3);
    }
    rtts_ms
}

async fn receive(socket: UdpSocket, config: ServerConfig) -> Result<Received> {
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    let connection = endpoint.accept().await.context("the endpoint has closed")?.await?;
    let mut stream = connection.accept_uni().await?;
    let mut received = Received::default();
    let mut end = 0;
    // Pieces as they arrive: their order tells what was late. The client ends the connection, not the stream.
    while let Ok(Some(piece)) = stream.read_chunk(usize::MAX, false).await {
        received.reordered += u64::from(piece.offset < end);
        end = end.max(piece.offset + piece.bytes.len() as u64);
        received.pieces.push((Instant::now(), piece.bytes.len()));
    }
    Ok(received)
}
