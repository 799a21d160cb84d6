//! A changed file: taken over whole, or not at all.

use std::time::Duration;

use anyhow::Result;
use multipath_common::maps::WIPE_DELAY_MS;
use tracing::{error, info};

use super::{Daemon, End, port_error, ports};
use crate::{
    clock,
    config::{Config, Routes, Spread, class_rules},
};

impl Daemon {
    /// Reads the file again and takes over what has changed. One that is wrong, or that changes what a running tunnel cannot,
    /// is refused, and everything stays as it is; so is one that the kernel refuses a part of, and everything becomes what it
    /// was.
    pub(super) async fn reload(&mut self) -> Result<Option<End>> {
        let applied = match self.acceptable() {
            Ok(new) => self.change_to(new).await,
            Err(reason) => Err(reason),
        };
        match applied {
            Ok(()) => {
                info!("{}: applied", self.config.file.display());
                self.configured_ns = clock::since_boot()?.as_nanos() as u64;
            }
            Err(reason) => {
                error!("{}: the tunnel stays as it is: {reason:#}", self.config.file.display());
                self.refused_ns = clock::since_boot()?.as_nanos() as u64;
            }
        }
        self.write_tunnel()?;
        Ok(None)
    }

    /// What the file says now, if the tunnel can have it.
    fn acceptable(&mut self) -> Result<Config> {
        let new = Config::load(&self.config.file)?;
        self.config.check_reload(&new, self.room)?;
        // The one thing that somebody else may have in the meantime.
        if let Err(error) = self.ports.set(ports(&new)) {
            self.ports.set(ports(&self.config))?;
            return Err(port_error(&new, error));
        }
        Ok(new)
    }

    /// Takes another configuration over, or, if that fails, the present one again.
    async fn change_to(&mut self, new: Config) -> Result<()> {
        let old = std::mem::replace(&mut self.config, new);
        let Err(reason) = self.take_over(&old).await else { return Ok(()) };
        let refused = std::mem::replace(&mut self.config, old);
        let restored = match self.ports.set(ports(&self.config)) {
            Ok(()) => self.take_over(&refused).await,
            Err(error) => Err(port_error(&self.config, error)),
        };
        if let Err(error) = restored {
            error!("a part of the refused file is still in force, start the daemon again: {error:#}");
            self.try_again();
        }
        Err(reason)
    }

    /// Makes the tunnel what the configuration says, which was `old` before.
    async fn take_over(&mut self, old: &Config) -> Result<()> {
        // First what the kernel refuses at times, while nobody has lost a session by it.
        self.underlay.set_addresses(&self.device.device, &self.config.tunnel.addresses).await?;
        if self.config.tunnel.routes == Routes::Auto || old.tunnel.routes == Routes::Auto {
            self.underlay.set_routes(&self.device.device, &self.routes()).await?;
        }
        for uplink in &old.uplinks {
            let stays = self
                .config
                .uplinks
                .iter()
                .any(|new| (&new.name, &new.interface, new.xdp) == (&uplink.name, &uplink.interface, uplink.xdp));
            if !stays && let Some(attached) = self.attachments.uplink(&uplink.name) {
                self.attachments.forget_uplink(&uplink.name);
                self.ports.remove_uplink(attached.ifindex);
            }
        }
        let now = clock::since_boot()?;
        if self.write_peers()? {
            // Slots are filled again only once nobody can be sealing with the keys in them.
            tokio::time::sleep(Duration::from_millis(WIPE_DELAY_MS)).await;
            self.maps.wipe_empty_slots()?;
        }
        self.tell_handshakes(now);
        self.tell_monitors(now);
        self.warn_of_ciphers();
        self.forget_usage();
        self.count_quotas()?;
        self.set_roles();
        self.weigh()?;
        self.maps.set_class_rules(&class_rules(&self.config.classes))?;
        self.write_tunnel()?;
        self.refresh(None).await?;
        self.attachments.remove_stale(&self.device.port)?;
        self.maps.advance_automatic()?;
        self.must_learn = true;
        match (old.tunnel.spread, self.config.tunnel.spread) {
            (Spread::Auto, Spread::Off) => self.maps.set_spreading(1)?,
            // Receive steering is set by somebody who may mount, which a running daemon may not.
            (Spread::Off, Spread::Auto) => info!("work is spread over the processors once the daemon is started again"),
            _ => {}
        }
        Ok(())
    }
}
