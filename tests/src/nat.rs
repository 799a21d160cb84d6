//! A router that translates addresses, as a home router or a carrier does.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::process;

const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 1000;
const RANGES: u16 = 40;

/// A router namespace that masquerades (IPv4 and IPv6, UDP always with another source port) what leaves through `public`.
/// What comes from outside passes only as the answer to something from inside.
#[derive(Debug)]
pub struct Nat {
    router: Namespace,
    public: String,
    range: AtomicU16,
}

impl Nat {
    /// Turns the namespace into a router that masquerades what leaves through its interface `public`.
    pub(crate) fn start(router: Namespace, public: &str) -> Result<Self> {
        router.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        let nat = Self { router, public: public.to_owned(), range: AtomicU16::new(0) };
        nat.apply()?;
        Ok(nat)
    }

    /// The router's namespace.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Forgets all mappings and takes the next ones from another range of ports: the peers outside see new source ports at
    /// once, as after a reboot of the router or when a carrier's mapping has expired.
    pub fn rebind(&self) -> Result<()> {
        self.range.fetch_add(1, Ordering::Relaxed);
        self.apply()?;
        self.router.output(&["conntrack", "--flush"], PATIENCE)?.success()?;
        Ok(())
    }

    /// UDP source ports of the mappings that are made now, inclusive.
    pub fn ports(&self) -> (u16, u16) {
        let first = FIRST_PORT + (self.range.load(Ordering::Relaxed) % RANGES) * PORTS;
        (first, first + PORTS - 1)
    }

    fn apply(&self) -> Result<()> {
        let (first, last) = self.ports();
        let public = &self.public;
        let rules = format!(
            r#"table inet lab
delete table inet lab
table inet lab {{
    chain forward {{
        type filter hook forward priority filter; policy accept
        iifname "{public}" ct state new drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        oifname "{public}" meta l4proto udp masquerade to :{first}-{last}
        oifname "{public}" masquerade
    }}
}}
"#
        );
        let mut command = self.router.command("nft");
        command.args(["-f", "-"]).stdin(process::memory_file("nft", rules.as_bytes())?);
        process::output(command, PATIENCE)?.success()?;
        Ok(())
    }
}
