//! Attaches the programs: to `mp0-port` and to every uplink. Links are pinned, so that they outlive the daemon, and a
//! new daemon puts its programs into them in one step.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};
use tracing::{debug, info};

use super::{
    clsact,
    load::{DELIVERED, EGRESS, INGRESS_TC, INGRESS_TC_RAW, LoadedPrograms, STEER},
    probe::has_tcx,
};
use crate::{
    config,
    underlay::{Link, LinkLayer, TunnelLink, driver},
};

/// What an uplink's packets come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver, and TC for what XDP leaves.
    XdpNative,
    /// XDP in the kernel's stack, and TC for what XDP leaves.
    XdpGeneric,
    /// TC alone.
    Tc,
}

impl Hook {
    /// How status and log call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp native",
            Self::XdpGeneric => "xdp generic",
            Self::Tc => "tc",
        }
    }

    /// Name of the pin of the XDP link; a link keeps its mode for life, so each mode has its own.
    fn xdp_pin(self, uplink: &str, ifindex: u32) -> Option<String> {
        match self {
            Self::XdpNative => Some(format!("{uplink}-xdp-{ifindex}")),
            Self::XdpGeneric => Some(format!("{uplink}-xdp-generic-{ifindex}")),
            Self::Tc => None,
        }
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// By links (TCX, Linux 6.6): replaced in one step, detached with their pin.
    Tcx,
    /// As filters of a clsact qdisc, for older kernels.
    Clsact,
}

impl TcHook {
    /// The best that the kernel has.
    pub fn of_kernel() -> Result<Self> {
        Ok(if has_tcx()? { Self::Tcx } else { Self::Clsact })
    }
}

/// Where an uplink's programs are attached.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    /// Interface index.
    pub ifindex: u32,
    /// The hooks.
    pub hook: Hook,
}

/// All that is attached.
pub struct Attachments {
    links: PathBuf,
    tc: TcHook,
    uplinks: BTreeMap<String, Attached>,
    /// Names of the pins of what hands packets to other processors.
    steering: Vec<String>,
}

impl Attachments {
    /// Nothing is attached yet; links are pinned in `links`.
    pub fn new(links: PathBuf, tc: TcHook) -> Self {
        Self { links, tc, uplinks: BTreeMap::new(), steering: Vec::new() }
    }

    /// What is attached to the uplink of this name.
    pub fn uplink(&self, name: &str) -> Option<Attached> {
        self.uplinks.get(name).copied()
    }

    /// Attaches the egress program to `mp0-port`, or replaces the one that is there.
    pub fn attach_egress(&self, programs: &mut LoadedPrograms, port: &Link) -> Result<()> {
        self.attach_tc(programs.classifier(EGRESS)?, "egress", port)
    }

    /// Attaches what hands packets to other processors, or replaces what is there; `false` where the kernel has no TCX:
    /// filters are attached to ingress only.
    pub fn attach_steering(&mut self, programs: &mut LoadedPrograms, tunnel: &TunnelLink) -> Result<bool> {
        if self.tc != TcHook::Tcx {
            return Ok(false);
        }
        let TunnelLink { device, port } = tunnel;
        // Beside the egress program: each leaves the other's frames alone.
        let opening = format!("opening-{}", port.index);
        attach_tc(programs.classifier(INGRESS_TC)?, &port.name, TcAttachType::Ingress, &self.links.join(&opening))?;
        let steer = format!("steer-{}", device.index);
        attach_tc(programs.classifier(STEER)?, &device.name, TcAttachType::Egress, &self.links.join(&steer))?;
        let delivered = format!("delivered-{}", device.index);
        let program = programs.classifier(DELIVERED)?;
        attach_tc(program, &device.name, TcAttachType::Ingress, &self.links.join(&delivered))?;
        self.steering = vec![opening, steer, delivered];
        Ok(true)
    }

    /// Attaches the ingress programs to an uplink, or replaces those that are there.
    pub fn attach_uplink(&mut self, programs: &mut LoadedPrograms, uplink: &config::Uplink, link: &Link) -> Result<()> {
        self.rename_pins(&uplink.name, link.index)?;
        let program = if link.layer == LinkLayer::Ethernet { INGRESS_TC } else { INGRESS_TC_RAW };
        self.attach_tc(programs.classifier(program)?, &format!("{}-tc", uplink.name), link)?;
        let hook = if link.layer == LinkLayer::Ethernet { self.attach_xdp(programs, uplink, link)? } else { Hook::Tc };
        info!("uplink {}: {} by {}", uplink.name, link.name, hook.name());
        self.uplinks.insert(uplink.name.clone(), Attached { ifindex: link.index, hook });
        Ok(())
    }

    /// Gives the pins of an interface whose uplink has got another name this name: XDP takes one link an interface.
    fn rename_pins(&self, uplink: &str, ifindex: u32) -> Result<()> {
        let suffixes = ["tc", "xdp", "xdp-generic"].map(|hook| format!("-{hook}-{ifindex}"));
        for entry in fs::read_dir(&self.links).context("can't read the directory of links")? {
            let entry = entry.context("can't read the directory of links")?;
            let file = entry.file_name().to_string_lossy().into_owned();
            for suffix in &suffixes {
                if file.strip_suffix(suffix.as_str()).is_some_and(|name| name != uplink) {
                    let new = self.links.join(format!("{uplink}{suffix}"));
                    fs::rename(entry.path(), &new)
                        .with_context(|| format!("can't rename {file} to {}", new.display()))?;
                }
            }
        }
        Ok(())
    }

    fn attach_tc(&self, program: &mut SchedClassifier, name: &str, link: &Link) -> Result<()> {
        match self.tc {
            TcHook::Tcx => {
                let pin = self.links.join(format!("{name}-{}", link.index));
                attach_tc(program, &link.name, TcAttachType::Ingress, &pin)
            }
            TcHook::Clsact => clsact::attach(program, &self.links, name, link),
        }
    }

    /// Attaches XDP as the configuration asks. With `auto` in the driver if it can, and not at all otherwise: generic XDP
    /// only screens packets, TC takes them as they are. A veth could, but copies every packet for it: TC carries more
    /// packets there, with a shorter round trip (docs/measurements.md).
    fn attach_xdp(&self, programs: &mut LoadedPrograms, uplink: &config::Uplink, link: &Link) -> Result<Hook> {
        let hook = match uplink.xdp {
            config::Xdp::Auto if driver(&link.name).is_ok_and(|driver| driver == "veth") => Hook::Tc,
            config::Xdp::Auto | config::Xdp::Native => Hook::XdpNative,
            config::Xdp::Generic => Hook::XdpGeneric,
            config::Xdp::Off => Hook::Tc,
        };
        for other in [Hook::XdpNative, Hook::XdpGeneric].into_iter().filter(|other| *other != hook) {
            // An interface has one XDP program, whatever its mode: the old one goes first, and TC takes its packets.
            other.xdp_pin(&uplink.name, link.index).map_or(Ok(()), |name| remove_pin(&self.links.join(name)))?;
        }
        let Some(pin) = hook.xdp_pin(&uplink.name, link.index).map(|name| self.links.join(name)) else {
            return Ok(Hook::Tc);
        };
        let (program, mode) = match hook {
            Hook::XdpGeneric => (programs.xdp_generic()?, XdpMode::Skb),
            _ => (programs.xdp()?, XdpMode::Driver),
        };
        match (attach_xdp(program, mode, link, &pin), uplink.xdp) {
            (Ok(()), _) => Ok(hook),
            (Err(error), config::Xdp::Auto) => {
                debug!("no native XDP on {}: {error:#}", link.name);
                Ok(Hook::Tc)
            }
            (Err(error), _) => Err(error).with_context(|| {
                format!("can't attach XDP to {}: write xdp = \"auto\" or \"off\" for uplink {}", link.name, uplink.name)
            }),
        }
    }

    /// Whether an earlier daemon has attached programs to the uplink.
    pub fn is_pinned(&self, uplink: &config::Uplink, link: &Link) -> bool {
        self.links.join(format!("{}-tc-{}", uplink.name, link.index)).exists()
    }

    /// Forgets an uplink whose interface is gone; the kernel has detached the programs with it.
    pub fn forget_uplink(&mut self, name: &str) {
        self.uplinks.remove(name);
    }

    /// Removes the pins of links that nothing of the current configuration is attached by: uplinks that are no longer
    /// configured, interfaces that are gone.
    pub fn remove_stale(&self, port: &Link) -> Result<()> {
        let mut current = vec![format!("egress-{}", port.index)];
        current.extend(self.steering.iter().cloned());
        for (name, attached) in &self.uplinks {
            current.push(format!("{name}-tc-{}", attached.ifindex));
            current.extend(attached.hook.xdp_pin(name, attached.ifindex));
        }
        for entry in fs::read_dir(&self.links).context("can't read the directory of links")? {
            let entry = entry.context("can't read the directory of links")?;
            let file = entry.file_name().to_string_lossy().into_owned();
            // A filter's pin has more numbers behind the name.
            let is_current = |name: &String| file == *name || file.starts_with(&format!("{name}{}", clsact::MARK));
            if !current.iter().any(is_current) {
                debug!("unpinning {}", entry.path().display());
                clsact::detach(&file)?;
                remove_pin(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The link that is pinned there, if there is one; its device may be gone.
fn pinned(pin: &Path) -> Result<Option<FdLink>> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(link.into())),
        Err(_) if !pin.exists() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't open the link {}", pin.display())),
    }
}

pub(super) fn remove_pin(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}

fn attach_tc(program: &mut SchedClassifier, interface: &str, place: TcAttachType, pin: &Path) -> Result<()> {
    if let Some(link) = pinned(pin)? {
        let link = SchedClassifierLink::try_from(link).context("the pinned link is not for TC")?;
        if let Ok(id) = program.attach_to_link(link) {
            // The pin holds it; this handle may go.
            drop(program.take_link(id)?);
            return Ok(());
        }
        // The interface went and came back under the same index: the old link leads nowhere.
        remove_pin(pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(interface, place, options)
        .with_context(|| format!("can't attach a program to {interface}"))?;
    let link: FdLink = program.take_link(id)?.try_into().context("the kernel gave no link to pin")?;
    link.pin(pin).with_context(|| format!("can't pin {}", pin.display()))?;
    Ok(())
}

/// Attaches XDP to an interface, or replaces the program that is there.
fn attach_xdp(program: &mut Xdp, mode: XdpMode, link: &Link, pin: &Path) -> Result<()> {
    if let Some(pinned) = pinned(pin)? {
        let pinned = XdpLink::try_from(pinned).context("the pinned link is not for XDP")?;
        if let Ok(id) = program.attach_to_link(pinned) {
            drop(program.take_link(id)?);
            return Ok(());
        }
        remove_pin(pin)?;
    }
    let id = program.attach_to_if_index(link.index, mode)?;
    // aya falls back to netlink silently; such a link cannot be pinned, and is detached when it is dropped.
    let attached: FdLink = program.take_link(id)?.try_into().context("the kernel gave no link to pin")?;
    attached.pin(pin).with_context(|| format!("can't pin {}", pin.display()))?;
    Ok(())
}
