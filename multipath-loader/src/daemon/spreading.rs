//! Work for all processors.

use anyhow::Result;
use tracing::{info, warn};

use super::Daemon;
use crate::{
    config::Spread,
    underlay::{processors, steer_receive},
};

impl Daemon {
    /// Lets the programs spread their work over the processors, or not, as configured. Where it cannot be had the tunnel
    /// works without.
    pub(super) fn spread(&mut self) -> Result<()> {
        let port = &self.device.port;
        let mut cpus = if self.config.tunnel.spread == Spread::Auto { processors() } else { 1 };
        // Also where nothing is spread: `steer` keeps others from writing frames that bear the tunnel's own marks.
        let has_steering = self.attachments.attach_steering(&mut self.programs, &self.device)?;
        if cpus > 1 && !has_steering {
            info!("this kernel has no TCX: every packet is worked on by the processor that it comes to");
            cpus = 1;
        }
        match steer_receive(port, cpus) {
            Ok(true) => {}
            Ok(false) => {
                info!("{} has receive steering of somebody else: work is not spread", port.name);
                cpus = 1;
            }
            Err(error) => {
                warn!("every packet is worked on by the processor that it comes to: {:#}", anyhow::Error::from(error));
                cpus = 1;
            }
        }
        self.maps.set_spreading(cpus)
    }
}
