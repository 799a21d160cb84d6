//! The maps about flows that are led from one path to all: see [`multipath_common::classes`].

use anyhow::{Context, Result};
use aya::maps::{Map, MapError};
use multipath_common::{
    classes::{Destination, DestinationKey, FlowEvent, Lead},
    maps::{Flow, FlowKey},
};

use super::{Events, Maps, open};

/// The events about flows that have turned out to be bulk.
pub type FlowEvents = Events<FlowEvent>;

impl Maps {
    /// The events about flows that have turned out to be bulk.
    pub fn flow_events(&self) -> Result<FlowEvents> {
        Events::of(typed!(&self.directory, "flow_events", RingBuf), "flow_events")
    }

    /// What is remembered about a flow; its parts may be of different packets.
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key, 0).ok()
    }

    /// The flows that are led, and how far.
    pub fn leads(&self) -> Result<Vec<(FlowKey, Lead)>> {
        self.leads.iter().collect::<Result<_, _>>().context("can't read the map leads")
    }

    /// Leads a flow so far.
    pub fn set_lead(&mut self, flow: &FlowKey, lead: Lead) -> Result<()> {
        self.leads.insert(flow, lead, 0).context("can't write the map leads")
    }

    /// Lets a flow go on alone, pinned to its path.
    pub fn end_lead(&mut self, flow: &FlowKey) -> Result<()> {
        match self.leads.remove(flow) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("can't write the map leads"),
        }
    }

    /// Remembers a destination.
    pub fn set_destination(&mut self, key: &DestinationKey, destination: Destination) -> Result<()> {
        self.destinations.insert(key, destination, 0).context("can't write the map destinations")
    }
}
