//! The daemon of one tunnel: the one place that joins configuration, netlink, maps, programs, sockets and time.
//!
//! This file starts it and has the loop that waits for whatever comes next; what is done then stands in the files below.

mod bonding;
mod carrier;
mod device;
mod exchange;
mod health;
mod leading;
mod learning;
mod paths;
mod peers;
mod probing;
mod reload;
mod sessions;
mod settings;
mod spreading;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use ipnet::IpNet;
use multipath_common::{
    health::Reason,
    maps::{Capacity, NAME_LEN, Path as PathEntry, PathSettings, WIPE_DELAY_MS, path_slot},
    playout::{STAGE_FQ, Stage},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tracing::{debug, info, warn};

use self::{
    bonding::{PathBonding, PeerBonding},
    carrier::CarrierWatch,
    device::tunnel_device,
    leading::Leads,
    paths::unattached,
    probing::Lengths,
    sessions::KernelRandom,
    settings::UsageFile,
};
use crate::{
    clock,
    config::{Config, MTU_MIN, Routes, class_rules},
    control::{
        clock_offset::ClockOffset,
        monitor::{Change as HealthChange, Monitor},
        path_mtu::PathMtu,
        rate::RateController,
        resolve::PathIdentity,
        train::Trains,
    },
    dataplane::{
        Attachments, ControlEvents, FlowEvents, LoadedPrograms, Lock, Maps, OriginEvents, Pins, ProbeEvents, TcHook,
        wipe_session_keys,
    },
    playout::PlayoutStage,
    privileges,
    protocol::{Handshakes, Timers},
    underlay::{Change, Changes, FrameSocket, Offloads, Ports, TunnelLink, Underlay, UnderlayError, set_offloads},
};

/// How long `take_down` waits for a daemon to notice that its device is gone.
const DAEMON_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long after a failed request to the kernel everything is read anew.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a port may be in use that a daemon has just left.
const PORT_IS_FREE_WITHIN: Duration = Duration::from_millis(500);

/// The longest sleep: the runtime's clock stands still while the machine sleeps, sessions grow older.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How long a peer that could be reached may be silent on all paths before it is doubted that it still knows the session:
/// three intervals of the probes of a metered path.
pub const DOUBT: Duration = Duration::from_secs(15);

/// What the daemon is told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How TC programs are attached.
    pub tc: TcHook,
    /// When sessions change their keys, and when they end.
    pub timers: Timers,
    /// Where is kept what outlives the machine's sleep and restart.
    pub state: PathBuf,
}

/// Why a daemon ended.
enum End {
    /// It was told to end; the kernel goes on forwarding.
    Detached,
    /// It was told to take the tunnel down.
    TakenDown,
    /// Somebody else took the tunnel down.
    DeviceGone,
}

/// A path that the daemon looks after.
struct ManagedPath {
    peer: u32,
    id: u8,
    name: String,
    identity: PathIdentity,
    /// Index in the configuration's uplinks.
    uplink: usize,
    /// For a learned path: our address that the peer sends to, which must be the source of what we send.
    preferred_local: Option<IpAddr>,
    /// Whether it has a way, or why not; `None` before it was looked up.
    link: Option<Result<(), Reason>>,
    /// What the kernel says of the way, whatever may be sent on it.
    resolved: PathEntry,
    /// The interface and the address that what was measured is true of.
    measured_by: (u32, [u8; 16]),
    /// What stands in the map.
    written: PathEntry,
    /// The daemon's settings, as they stand in the map.
    automatic: PathSettings,
    /// The weight that it has beside the peer's other paths; 0 for none yet.
    weight: u32,
    /// The operator's settings.
    operator: PathSettings,
    monitor: Monitor,
    mtu: PathMtu,
    rate: RateController,
    trains: Trains,
    /// Which of the peer's clocks the rate was measured with: another one after it has jumped.
    delay_epoch: u32,
    lengths: Lengths,
    /// Packets and probes that had come when it was last looked at.
    arrived: u64,
    /// When something authentic last came by it, or it was first looked at; time since boot.
    heard_at: Duration,
    /// What aggregation goes by.
    bonding: PathBonding,
    /// When what is known of it is written next.
    write_quality_at: Duration,
    /// The change by which it is doubted, which is not in the log yet, and when it was, nanoseconds since 1970.
    doubt: Option<(u64, HealthChange)>,
}

impl ManagedPath {
    /// Its key in the maps.
    const fn slot(&self) -> u32 {
        path_slot(self.peer, self.id)
    }
}

/// A peer that the daemon looks after.
struct ManagedPeer {
    number: u32,
    /// Fingerprint of the keys that its sessions are made with.
    credentials: u32,
    /// Our receiver index of the session that its packets are sealed with; 0 if there is none. What stands in the map.
    session: u32,
    /// When that session was made, nanoseconds since boot; 0 if there is none.
    handshake_ns: u64,
    /// When something authentic last came from it, or when it was last doubted; time since boot.
    heard_at: Duration,
    /// How its clock goes, beside ours.
    clock: ClockOffset,
    bonding: PeerBonding,
}

/// A running tunnel.
struct Daemon {
    config: Config,
    /// How many peers and prefixes the maps were made for.
    room: Capacity,
    underlay: Underlay,
    device: TunnelLink,
    programs: LoadedPrograms,
    maps: Maps,
    attachments: Attachments,
    /// Where handshakes come and go.
    ports: Ports,
    /// Where control messages go: frames into the device, which the egress program seals.
    frames: FrameSocket,
    /// The answers to probes.
    answers: ProbeEvents,
    handshakes: Handshakes,
    /// When sessions are looked at next that the peer has not used yet; `None` while there are none. Time since boot.
    look_at_unconfirmed: Option<Duration>,
    /// When the sessions' counters are looked at next.
    look_at_counters: Duration,
    /// When it is looked at next what changes slowly: weights, quotas, silent peers.
    look_around_at: Duration,
    /// When the sockets are asked next for what routers have said.
    hear_routers_at: Duration,
    carriers: CarrierWatch,
    leads: Leads,
    /// Until when nothing but handshakes is done in time, because something else failed. Time since boot.
    upkeep_pauses_until: Duration,
    /// When everything is read anew; `None` if nothing failed. A request that failed is no reason to stop following the
    /// network.
    again_at: Option<Instant>,
    /// The configuration's peers, in its order.
    peers: Vec<ManagedPeer>,
    /// Where each peer's number stands in them.
    positions: HashMap<u32, usize>,
    /// The peers' paths, by their key in the maps.
    paths: BTreeMap<u32, ManagedPath>,
    /// A path has come up, gone down, appeared or vanished since the others were last told.
    has_changed_paths: bool,
    /// Uplinks or paths are there that were not when origins were last learned from.
    must_learn: bool,
    /// Endpoints that are no longer configured, with their uplinks: they are not learned as long as the peer may send from
    /// them only because it was answered. Until when, time since boot.
    withdrawn: BTreeMap<([u8; NAME_LEN], SocketAddr), Duration>,
    /// How often the operator had changed something when that was last looked at.
    operator_generation: u64,
    /// What uplinks with a quota have carried in the present period, bytes, by their names.
    used_bytes: BTreeMap<String, u64>,
    usage: UsageFile,
    /// Number of the last entry in the log of changes.
    logged: u64,
    /// When the configuration was last applied, and when another one was last refused; nanoseconds since boot.
    configured_ns: u64,
    refused_ns: u64,
    #[expect(dead_code, reason = "held for its drop: while it lives, no other daemon takes the tunnel")]
    lock: Lock,
}

/// Brings the tunnel up, or takes it over from a daemon that ended, and follows the network until it is told to end.
/// Calls `ready` when everything is set up: packets pass as soon as a peer's handshake is through, or at once by a session
/// that an earlier daemon left.
pub async fn run(config: Config, bpffs: &Path, options: Options, ready: impl FnOnce()) -> Result<()> {
    let interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let hangup = signal(SignalKind::hangup()).context("can't wait for SIGHUP")?;
    let underlay = Underlay::open()?;
    let changes = Underlay::changes()?;
    let name = config.tunnel.name.clone();
    let pins = Pins::new(bpffs, &name);
    let was_up = pins.exist()?;
    let had_maps = pins.current_maps().ok();
    let begun = async {
        let mut daemon = Daemon::start(config, underlay.clone(), &pins, options).await?;
        let origins = daemon.maps.origin_events()?;
        let control = daemon.maps.control_events()?;
        let flows = daemon.maps.flow_events()?;
        let mut held = daemon.maps.playout_maps()?;
        let playout = if underlay.queue_by_time(&daemon.device.port).await? {
            // The kernel needs no daemon for it.
            held.set_stage(Stage { alive_until_ns: u64::MAX, kind: STAGE_FQ, is_asleep: 0 })?;
            None
        } else {
            Some(PlayoutStage::open(held, &daemon.device)?)
        };
        daemon.learn_all().await?;
        privileges::take_precedence();
        privileges::keep_needed(daemon.config.tunnel.listen_port)?;
        let playout = playout.map(PlayoutStage::start).transpose()?;
        Ok::<_, anyhow::Error>((
            daemon,
            Events { changes, origins, control, flows, interrupt, terminate, hangup },
            playout,
        ))
    };
    let (mut daemon, mut events, playout) = match Box::pin(begun).await {
        Ok(begun) => begun,
        Err(error) => {
            // A first start leaves nothing half-made behind; a tunnel that forwards already stays as it is.
            let cleaned = match had_maps {
                _ if pins.has_daemon() => Ok(()),
                _ if !was_up => remove(&underlay, &pins, &name).await,
                // The start may have come so far that the old layout is gone: then the new one is in use.
                Some(maps) if maps.exists() => remove_other_layouts(&pins, &maps).await,
                _ => Ok(()),
            };
            if let Err(left) = cleaned {
                warn!("can't clean up after the failed start: {left:#}");
            }
            return Err(error);
        }
    };
    ready();
    let end = daemon.follow(&mut events).await?;
    daemon.write_usage();
    // While the tunnel is this daemon's: the next one has a stage of its own.
    drop(playout);
    drop(daemon);
    match end {
        End::Detached => {
            info!(
                "the daemon ends, the kernel goes on forwarding until the sessions end: `mpvpn down {name}` removes the \
                 tunnel"
            );
        }
        End::DeviceGone => {
            info!(
                "the device {name} is gone, the daemon ends: `mpvpn down {name}` removes what may be left of the tunnel"
            );
        }
        End::TakenDown => remove(&underlay, &pins, &name).await?,
    }
    Ok(())
}

/// What the daemon waits for, beside its sockets and the time.
struct Events {
    changes: Changes,
    origins: OriginEvents,
    control: ControlEvents,
    flows: FlowEvents,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Takes a tunnel down, whether its daemon runs or not. `false` when there is none.
pub async fn take_down(bpffs: &Path, name: &str) -> Result<bool> {
    let underlay = Underlay::open()?;
    let pins = Pins::new(bpffs, name);
    let existed = pins.exist()?;
    let deleted = underlay.delete_tunnel(name).await?;
    let started = Instant::now();
    while existed && pins.has_daemon() {
        if started.elapsed() > DAEMON_ENDS_WITHIN {
            bail!("the daemon of {name} does not end although its device is gone: end it by hand, then run this again");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if existed {
        wipe_keys(&pins);
        pins.remove()?;
    }
    Ok(existed || deleted)
}

/// Makes the keys of all sessions zero, once the device is gone and nothing is sealed any more: what is freed with the maps
/// stays in memory as it is.
fn wipe_keys(pins: &Pins) {
    let retire = |directory: &Path| -> Result<()> {
        let mut maps = Maps::open(directory)?;
        for peer in maps.peers()? {
            for session in maps.sessions_of(peer.number)? {
                maps.retire_session(session.index)?;
            }
        }
        Ok(())
    };
    for directory in pins.layouts().unwrap_or_default() {
        for done in [retire(&directory), wipe_session_keys(&directory)] {
            if let Err(error) = done {
                // Maps of another version, or of a start that was interrupted.
                debug!("{}: {error:#}", directory.display());
            }
        }
    }
}

/// Removes the maps of all layouts but this one, and wipes their keys: no program is attached that uses them.
async fn remove_other_layouts(pins: &Pins, current: &Path) -> Result<()> {
    let mut others = pins.layouts()?;
    others.retain(|directory| directory != current);
    if others.is_empty() {
        return Ok(());
    }
    // Programs that were replaced just now may still be under way, and would seal with keys that everybody knows.
    tokio::time::sleep(Duration::from_millis(WIPE_DELAY_MS)).await;
    for directory in others {
        if let Err(error) = wipe_session_keys(&directory) {
            debug!("{}: {error:#}", directory.display());
        }
        pins.remove_layout(&directory)?;
    }
    Ok(())
}

/// Removes all that is the tunnel's. A device that has its name and is another's stays.
async fn remove(underlay: &Underlay, pins: &Pins, name: &str) -> Result<()> {
    match underlay.delete_tunnel(name).await {
        Ok(_) | Err(UnderlayError::NameTaken { .. }) => {
            wipe_keys(pins);
            pins.remove()
        }
        Err(error) => Err(error.into()),
    }
}

impl Daemon {
    async fn start(config: Config, underlay: Underlay, pins: &Pins, options: Options) -> Result<Self> {
        let started = Instant::now();
        let name = config.tunnel.name.clone();
        let capacity = config.capacity();
        pins.prepare()?;
        let Some(lock) = pins.lock().await? else {
            bail!("another mpvpn is the daemon of {name} already: end it first, or `mpvpn down {name}`");
        };
        let had_maps = pins.maps(capacity).exists();
        let directory = pins.prepare_maps(capacity)?;
        let old = underlay.tunnel(&name).await?;
        let device = underlay.ensure_tunnel(&tunnel_device(&config, old.map_or(MTU_MIN, |old| old.device.mtu))).await?;
        for (end, offloads) in [(&device.device, Offloads::DEVICE), (&device.port, Offloads::PORT)] {
            set_offloads(&end.name, offloads).with_context(|| format!("can't set the offloads of {}", end.name))?;
        }
        let mut programs = LoadedPrograms::load(&directory, capacity)?;
        programs.follow_log()?;
        let maps = Maps::open(&directory)?;
        let now = clock::since_boot()?;
        let mut daemon = Self {
            ports: take_ports(&config).await?,
            frames: FrameSocket::open(&device.device).context("can't open a raw socket for control messages")?,
            handshakes: Handshakes::new(&config.tunnel.private_key, options.timers, Box::new(KernelRandom)),
            answers: maps.probe_events()?,
            look_at_unconfirmed: None,
            look_at_counters: now,
            look_around_at: now,
            hear_routers_at: now,
            carriers: CarrierWatch::default(),
            leads: Leads::default(),
            upkeep_pauses_until: now,
            again_at: None,
            attachments: Attachments::new(pins.links(), options.tc),
            peers: Vec::new(),
            positions: HashMap::new(),
            paths: BTreeMap::new(),
            has_changed_paths: true,
            must_learn: false,
            withdrawn: BTreeMap::new(),
            operator_generation: maps.operator_generation()?,
            used_bytes: BTreeMap::new(),
            usage: UsageFile::open(options.state.join(format!("{name}.usage"))),
            logged: maps.path_log()?.last().map_or(0, |entry| entry.sequence),
            configured_ns: now.as_nanos() as u64,
            refused_ns: 0,
            config,
            room: capacity,
            underlay,
            device,
            programs,
            maps,
            lock,
        };
        // Whose probes they answer is gone.
        while daemon.answers.take().is_some() {}
        daemon.warn_of_ciphers();
        let has_retired = daemon.write_peers()?;
        if had_maps {
            // Slots that were retired just now, or by a daemon that died before it wiped them.
            let retired_at = if has_retired { Instant::now() } else { started };
            tokio::time::sleep_until(retired_at + Duration::from_millis(WIPE_DELAY_MS)).await;
            daemon.maps.wipe_empty_slots()?;
        }
        daemon.maps.set_class_rules(&class_rules(&daemon.config.classes))?;
        daemon.adopt_sessions()?;
        daemon.leads = Leads::resume(now, &mut daemon.maps)?;
        daemon.forget_usage();
        daemon.count_quotas()?;
        daemon.set_roles();
        daemon.weigh()?;
        daemon.write_local_addresses().await?;
        daemon.write_tunnel()?;
        let links = daemon.underlay.links().await?;
        // New ones first: if one of them can't be attached, the others still have their old programs.
        let mut uplinks = unattached(&daemon.config, &daemon.attachments, &links);
        uplinks.sort_by_key(|(uplink, link)| daemon.attachments.is_pinned(uplink, link));
        for (uplink, link) in uplinks {
            daemon.ports.add_uplink(link).map_err(|error| port_error(&daemon.config, error))?;
            daemon.attachments.attach_uplink(&mut daemon.programs, uplink, link)?;
        }
        daemon.refresh(None).await?;
        // Weights, prefixes or the MTU may be others than the last daemon's although the paths are the same.
        daemon.maps.advance_automatic()?;
        daemon.adapt_mtu().await?;
        daemon.attachments.attach_egress(&mut daemon.programs, &daemon.device.port)?;
        daemon.spread()?;
        daemon.underlay.set_addresses(&daemon.device.device, &daemon.config.tunnel.addresses).await?;
        if daemon.config.tunnel.routes == Routes::Auto {
            daemon.underlay.set_routes(&daemon.device.device, &daemon.routes()).await?;
        }
        daemon.attachments.remove_stale(&daemon.device.port)?;
        remove_other_layouts(pins, &directory).await?;
        Ok(daemon)
    }

    /// The prefixes that routes lead into the device for.
    fn routes(&self) -> Vec<IpNet> {
        match self.config.tunnel.routes {
            Routes::Auto => self.config.peers.iter().flat_map(|peer| peer.allowed_ips.clone()).collect(),
            Routes::Off => Vec::new(),
        }
    }

    /// Waits for whatever comes next, and does it.
    async fn follow(&mut self, events: &mut Events) -> Result<End> {
        loop {
            self.settle()?;
            let wake_at = Instant::now() + self.pause()?;
            let again_at = self.again_at;
            let again = async { tokio::time::sleep_until(again_at.unwrap_or(wake_at)).await };
            let done = tokio::select! {
                change = events.changes.next() => {
                    let Some(change) = change else { bail!("the kernel's routing socket failed: start mpvpn again") };
                    self.apply(change).await
                }
                keys = events.origins.next() => self.learn_from(keys?).await,
                events = events.control.next() => self.hear(&events?),
                flows = events.flows.next() => self.begin_leads(&flows?),
                datagrams = self.ports.receive() => self.receive(&datagrams),
                () = tokio::time::sleep_until(wake_at) => self.keep_time().await,
                () = again, if again_at.is_some() => {
                    self.again_at = None;
                    self.apply(Change::Anything).await
                }
                _ = events.interrupt.recv() => return Ok(End::TakenDown),
                _ = events.terminate.recv() => return Ok(End::Detached),
                _ = events.hangup.recv() => self.reload().await,
            };
            match done {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                Err(error) => {
                    warn!("{error:#}; everything is read anew soon");
                    self.try_again();
                }
            }
        }
    }

    /// Has everything be read anew soon.
    fn try_again(&mut self) {
        self.again_at.get_or_insert(Instant::now() + TRY_AGAIN_AFTER);
    }

    /// How long nothing is due.
    fn pause(&self) -> Result<Duration> {
        let pause =
            self.deadline().map(|deadline| Ok::<_, anyhow::Error>(deadline.saturating_sub(clock::since_boot()?)));
        Ok(pause.transpose()?.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP))
    }
}

/// Takes the tunnel's ports.
async fn take_ports(config: &Config) -> Result<Ports> {
    let started = Instant::now();
    loop {
        match Ports::take(ports(config)) {
            Ok(ports) => return Ok(ports),
            // The kernel closes the sockets of a daemon that ended a moment after it gives its lock free.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PORT_IS_FREE_WITHIN => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(port_error(config, error)),
        }
    }
}

/// The UDP ports of a tunnel.
fn ports(config: &Config) -> impl Iterator<Item = u16> {
    (config.tunnel.listen_port..).take(config.port_count() as usize)
}

fn port_error(config: &Config, error: io::Error) -> anyhow::Error {
    let first = config.tunnel.listen_port;
    let what = match config.port_count() {
        1 => format!("port {first}"),
        count => format!("ports {first} to {}", u32::from(first) + count - 1),
    };
    anyhow::Error::new(error).context(format!(
        "can't have UDP {what}: two tunnels need two ports (listen_port), and no other program may have it (`ss -ulpn sport = \
         :{first}` shows which does)"
    ))
}
