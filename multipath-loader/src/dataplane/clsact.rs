//! TC programs as filters of a clsact qdisc, for kernels without TCX (before 6.6).
//!
//! A filter is no link: it cannot be pinned, and nothing but its priority and handle says which it is. So the program is
//! pinned in its place, under a name that carries both, and whoever removes the pin detaches the filter first.

use std::{fs, mem, path::Path};

use anyhow::{Context, Result};
use aya::programs::{
    Link as _, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
};
use nix::net::if_::if_indextoname;
use tracing::debug;

use super::attach::remove_pin;
use crate::underlay::Link;

/// Between the name and interface index of a pin, and the priority of its filter.
pub(super) const MARK: &str = "-clsact-";
/// Handle of our filters; a priority holds one filter.
const HANDLE: u32 = 1;

/// Attaches a program to an interface's ingress, or replaces the one that `name` has there.
pub(super) fn attach(program: &mut SchedClassifier, links: &Path, name: &str, link: &Link) -> Result<()> {
    if let Err(error) = qdisc_add_clsact(&link.name) {
        // It is there already, ours or another's; if it could not be made, attaching says so.
        debug!("clsact on {}: {error}", link.name);
    }
    let prefix = format!("{name}-{}{MARK}", link.index);
    let failed = || format!("can't attach a program to the ingress of {}", link.name);
    let id = if let Some(priority) = priority_of(links, &prefix)? {
        let old = filter(&link.name, priority).with_context(failed)?;
        program.attach_to_link(old).with_context(failed)?
    } else {
        let options = NlOptions { handle: TcHandle::from(HANDLE), ..NlOptions::default() };
        program
            .attach_with_options(&link.name, TcAttachType::Ingress, TcAttachOptions::Netlink(options))
            .with_context(failed)?
    };
    let filter = program.take_link(id)?;
    let pin = links.join(format!("{prefix}{}", filter.priority().with_context(failed)?));
    // Dropping it would detach it.
    mem::forget(filter);
    remove_pin(&pin)?;
    program.pin(&pin).with_context(|| format!("can't pin {}", pin.display()))
}

/// Detaches the filter that the pin of this name stands for; nothing happens if it is a link's pin, or if the interface
/// is gone and the filter with it.
pub(super) fn detach(pin: &str) -> Result<()> {
    let Some((name, priority)) = pin.rsplit_once(MARK) else { return Ok(()) };
    let index = name.rsplit('-').next().and_then(|index| index.parse().ok());
    let (Some(index), Ok(priority)) = (index, priority.parse()) else { return Ok(()) };
    // For an interface that is gone there is no name, or an empty one.
    let interface = if_indextoname(index).unwrap_or_default().to_string_lossy().into_owned();
    if interface.is_empty() {
        return Ok(());
    }
    let filter = filter(&interface, priority).with_context(|| format!("can't find the filter on {interface}"))?;
    filter.detach().with_context(|| format!("can't detach the filter from {interface}"))
}

/// Detaches all filters that pins in a directory stand for.
pub(super) fn detach_all(links: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(links) else { return Ok(()) };
    for entry in entries {
        let entry = entry.with_context(|| format!("can't read {}", links.display()))?;
        detach(&entry.file_name().to_string_lossy())?;
    }
    Ok(())
}

fn filter(interface: &str, priority: u16) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, priority, TcHandle::from(HANDLE), None)
}

/// The priority in the name of the pin that begins so.
fn priority_of(links: &Path, prefix: &str) -> Result<Option<u16>> {
    for entry in fs::read_dir(links).with_context(|| format!("can't read {}", links.display()))? {
        let file = entry.with_context(|| format!("can't read {}", links.display()))?.file_name();
        if let Some(priority) = file.to_string_lossy().strip_prefix(prefix).and_then(|rest| rest.parse().ok()) {
            return Ok(Some(priority));
        }
    }
    Ok(None)
}
