//! What handshake messages cost a gateway: one line of JSON, nanoseconds each. `cargo xtask bench handshake` runs it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use multipath_common::maps::CIPHER_CHACHA20_POLY1305;
use multipath_loader::{
    config::{PublicKey, SecretKey},
    protocol::{
        Action, Handshakes, Identity, Random, Timers,
        message::{COOKIE_LEN, INITIATION_LEN, MAC_LEN, RESPONSE_LEN},
    },
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// Peers whose handshakes are served.
const PEERS: u32 = 1000;
/// Forged initiations.
const FORGED: u32 = 100_000;
const START: Duration = Duration::from_secs(1000);

struct Kernel;

impl Random for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel has random bytes");
    }
}

fn main() -> Result<()> {
    let own = SecretKey::generate()?;
    let secrets = (0..PEERS).map(|_| SecretKey::generate()).collect::<Result<Vec<_>, _>>()?;
    let known: Vec<_> = (0..PEERS).zip(secrets.iter().map(SecretKey::public)).collect();
    let initiations =
        secrets.iter().map(|secret| initiation(secret, &own.public())).collect::<Result<Vec<Vec<u8>>>>()?;
    let stranger = initiation(&SecretKey::generate()?, &own.public())?;
    let mut forged = stranger.clone();
    forged[INITIATION_LEN - 2 * MAC_LEN] ^= 1;
    let mut guessed = stranger.clone();
    guessed[INITIATION_LEN - MAC_LEN..].fill(7);

    let mut handshakes = gateway(&own, &known);
    let source = |number: u32| SocketAddr::from((number.to_be_bytes(), 5182));
    // 50 a second, so that the gateway is not under load; and then 50,000 a second.
    let calm = |number: u32| START + Duration::from_millis(20) * number;
    let flood = |number: u32| calm(3 * PEERS) + Duration::from_micros(20) * number;
    let again = |number: u32| flood(FORGED + number);
    let mut costs = Costs::default();
    costs.add("served", (PEERS, RESPONSE_LEN), |number| {
        handshakes.receive(calm(number), source(number), &initiations[number as usize])
    })?;
    costs.add("stranger", (PEERS, 0), |number| handshakes.receive(calm(PEERS + number), source(number), &stranger))?;
    costs.add("wrong_mac1", (FORGED, 0), |number| handshakes.receive(flood(0), source(number), &forged))?;
    costs.add("cookie", (FORGED, COOKIE_LEN), |number| handshakes.receive(flood(number), source(number), &stranger))?;
    costs.add("wrong_mac2", (FORGED, COOKIE_LEN), |number| {
        handshakes.receive(again(number), source(number), &guessed)
    })?;
    println!("{}", Value::Object(costs.0));
    Ok(())
}

fn gateway(secret: &SecretKey, peers: &[(u32, PublicKey)]) -> Handshakes {
    let mut handshakes = Handshakes::new(secret, Timers::default(), Box::new(Kernel));
    let identity = |&(number, public_key): &(u32, PublicKey)| Identity {
        number,
        public_key,
        preshared_key: Zeroizing::new([0; 32]),
        cipher: CIPHER_CHACHA20_POLY1305,
    };
    handshakes.set_peers(START, &peers.iter().map(identity).collect::<Vec<_>>());
    handshakes
}

fn initiation(secret: &SecretKey, responder: &PublicKey) -> Result<Vec<u8>> {
    let mut handshakes = gateway(secret, &[(0, *responder)]);
    handshakes.set_reachable(0, true);
    match handshakes.poll(START, 1).pop().context("no initiation is due")? {
        Action::Broadcast { datagram, .. } => Ok(datagram),
        action => bail!("{action:?} instead of an initiation"),
    }
}

/// Nanoseconds that a message of each kind costs.
#[derive(Default)]
struct Costs(Map<String, Value>);

impl Costs {
    /// Times `count` messages, nearly all of which get a reply of `reply` bytes, or none where that is 0.
    fn add(
        &mut self,
        kind: &str,
        (count, reply): (u32, usize),
        mut receive: impl FnMut(u32) -> Vec<Action>,
    ) -> Result<()> {
        let began = Instant::now();
        let expected: u32 = (0..count).map(|number| u32::from(reply_len(&receive(number)) == reply)).sum();
        let elapsed = began.elapsed();
        // A flood begins with a few that are let through.
        ensure!(expected >= count / 10 * 9, "{kind}: only {expected} of {count} get a reply of {reply} bytes");
        self.0.insert(kind.to_owned(), json!((elapsed / count).as_nanos() as u64));
        Ok(())
    }
}

fn reply_len(actions: &[Action]) -> usize {
    let length = |action: &Action| if let Action::Reply { datagram } = action { Some(datagram.len()) } else { None };
    actions.iter().find_map(length).unwrap_or(0)
}
