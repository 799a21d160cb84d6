//! Starts that fail, starts with half of the machine missing, second daemons.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Result, ensure};
use multipath_tests::{
    Daemon, End, Family, Gateway, LinkSpec, Output, Process, Topology, TunnelConfig,
    config::UplinkSection,
    gateway::{READY, mpvpn_binary},
    traffic::UdpStream,
};

use crate::{PATIENCE, alone, assert_nothing_of_it, close, passes, path, paths, status, until, up};

const VXLAN: &str = "link add vx0 type vxlan id 7 dev up0 local 10.100.0.1 remote 10.100.0.2 dstport 4789\n\
                     addr add 10.120.0.1/24 dev vx0\nlink set vx0 up";

/// Adds an uplink whose start fails: VXLAN has no XDP in its driver.
fn with_native_vxlan(config: &TunnelConfig) -> TunnelConfig {
    let mut config = config.clone();
    config.uplinks.push(UplinkSection { xdp: Some("native".to_owned()), ..UplinkSection::automatic("vx0") });
    config
}

/// Starts a daemon that must fail, and returns what it left.
fn fail(gateway: &Gateway, config: &TunnelConfig) -> Result<Output> {
    let file = gateway.write_config(config)?;
    let output = gateway.mpvpn(&[Path::new("up"), &file])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    println!("{}", output.stderr.trim_end());
    Ok(output)
}

fn names(gateway: &Gateway) -> Result<String> {
    let links = gateway.namespace().output(&["ip", "-brief", "link"], PATIENCE)?;
    Ok(links.success()?.to_owned())
}

#[test]
fn a_start_that_fails_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4); 2])?;
    let (gateway, namespace) = (&topology.a, topology.a.namespace());
    let [config, _] = topology.tunnel_configs(0);

    namespace.ip(VXLAN)?;
    let output = fail(gateway, &with_native_vxlan(&config))?;
    assert!(output.stderr.contains("can't attach XDP to vx0") && output.stderr.contains("xdp ="), "{}", output.stderr);
    assert_nothing_of_it(gateway)?;

    namespace.ip("route add 10.98.2.0/24 dev lan")?;
    let output = fail(gateway, &config)?;
    assert!(output.stderr.contains("10.98.2.0/24"), "{}", output.stderr);
    assert_nothing_of_it(gateway)?;
    namespace.ip("route del 10.98.2.0/24 dev lan")?;

    for (make, what) in
        [("link add mp0 type veth peer name other", "mp0"), ("link add mp0-port type veth peer name other", "mp0-port")]
    {
        namespace.ip(make)?;
        let before = names(gateway)?;
        let output = fail(gateway, &config)?;
        assert!(output.stderr.contains("mp0"), "{}", output.stderr);
        assert_eq!(names(gateway)?, before, "somebody else's device is as it was");
        assert!(!gateway.bpffs().join("mpvpn").exists(), "pins are left");
        namespace.ip(&format!("link del {what}"))?;
    }
    assert_nothing_of_it(gateway)?;

    // Nothing of all this is in the way of a start that can succeed.
    let _daemons = up(&topology)?;
    close(topology)
}

#[test]
fn a_running_tunnel_is_not_harmed_by_a_second_start() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4); 2])?;
    let [config, _] = topology.tunnel_configs(0);
    let [mut a, _b] = up(&topology)?;
    topology.a.namespace().ip(VXLAN)?;
    let stream = UdpStream { flows: 8, ..UdpStream::to(topology.b.host_v4(), 2000, 64, Duration::from_mins(1)) };
    let stream = stream.start(topology.ha(), topology.hb())?;

    // While the daemon runs, another one is refused, also one with so many peers that its maps would be others.
    let mut large = config.clone();
    for number in 0..20_u8 {
        let mut peer = config.peers[0].clone();
        peer.name = format!("more{number}");
        peer.public_key = topology.a.mpvpn(&["genkey"])?.success()?.trim().to_owned();
        peer.endpoints.clear();
        peer.allowed_ips = vec![format!("10.77.{number}.0/24")];
        large.peers.push(peer);
    }
    for second in [&config, &large] {
        let output = fail(&topology.a, second)?;
        assert!(output.stderr.contains("another mpvpn is the daemon of mp0"), "{}", output.stderr);
    }
    assert!(a.is_running() && status(&topology.a)?.daemon);

    // While none runs, a start that fails leaves the kernel forwarding.
    a.terminate()?;
    fail(&topology.a, &with_native_vxlan(&config))?;
    large.uplinks = with_native_vxlan(&config).uplinks;
    fail(&topology.a, &large)?;
    assert_eq!(path(&topology.a, "b/up0")?.state, "up");
    let _a = topology.a.up(&config)?;
    thread::sleep(Duration::from_millis(100));
    let report = stream.stop()?;
    println!("sent {}, lost {}, overflowed {}", report.sent, report.lost, report.overflowed);
    assert_eq!((report.lost - report.refused - report.overflowed, report.duplicated), (0, 0));
    assert_eq!(paths(&topology.a)?.iter().map(|path| path.name.clone()).collect::<Vec<_>>(), ["b/up0", "b/up1"]);
    close(topology)
}

#[test]
fn any_uplink_may_be_missing_or_down_at_the_start() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::PERFECT.family(Family::V4); 3])?;
    let [a, b] = topology.tunnel_configs(0);
    let _b = topology.b.up(&b)?;
    let namespace = topology.a.namespace();
    for subset in 1..8_usize {
        let is_absent = |number: &usize| subset >> number & 1 == 1;
        for number in (0..3).filter(is_absent) {
            // Both ways of not being there.
            if (subset + number) % 2 == 0 {
                topology.link(number)?.remove_interface(End::A)?;
            } else {
                namespace.ip(&format!("link set up{number} down"))?;
            }
        }
        let mut daemon: Daemon = topology.a.up(&a)?;
        for number in 0..3 {
            let is_down = path(&topology.a, &format!("b/up{number}"))?.state == "down";
            assert_eq!(is_down, is_absent(&number), "up{number} of {subset:03b}");
        }
        for number in (0..3).filter(is_absent) {
            if (subset + number) % 2 == 0 {
                topology.link(number)?.restore_interface(End::A)?;
            } else {
                namespace.ip(&format!("link set up{number} up"))?;
            }
        }
        until("all paths are up", || Ok(paths(&topology.a)?.iter().all(|path| path.state == "up")))?;
        passes(&topology)?;
        daemon.interrupt()?;
        assert_nothing_of_it(&topology.a)?;
    }
    close(topology)
}

#[test]
fn a_namespace_that_goes_takes_the_tunnel_with_it() -> Result<()> {
    let _alone = alone();
    let topology = Topology::new(&[LinkSpec::VETH.family(Family::V4)])?;
    let [config, _] = topology.tunnel_configs(0);
    let gateway = &topology.a;

    // A namespace that loses its name lives on as long as the daemon is in it, and so does the tunnel.
    let [mut a, _b] = up(&topology)?;
    let name = gateway.namespace().name();
    gateway.namespace().output(&["umount", "--lazy", &format!("/run/netns/{name}")], PATIENCE)?.success()?;
    thread::sleep(Duration::from_millis(100));
    assert!(a.is_running(), "{}", a.log());
    passes(&topology)?;
    a.interrupt()?;
    assert_nothing_of_it(gateway)?;

    // A namespace that ends with the daemon leaves pins of links that are attached to nothing: any `down` removes them.
    let file = gateway.write_config(&config)?;
    let mut command = gateway.namespace().command("unshare");
    command.arg("--net").arg(mpvpn_binary()?).arg("--bpffs").arg(gateway.bpffs()).arg("up").arg(&file);
    let mut lone = Process::spawn(command)?;
    until("it is ready", || {
        ensure!(lone.is_running(), "it ended: {}", lone.stderr());
        Ok(lone.stdout().contains(READY))
    })?;
    lone.signal(nix::sys::signal::Signal::SIGKILL)?;
    lone.wait(PATIENCE)?;
    assert!(gateway.bpffs().join("mpvpn/mp0").exists());
    gateway.mpvpn(&["down", "mp0"])?.success()?;
    assert_nothing_of_it(gateway)?;

    // And a start finds its way among them.
    fs::create_dir_all(gateway.bpffs().join("mpvpn/mp0/links"))?;
    let _a = gateway.up(&config)?;
    passes(&topology)?;
    close(topology)
}
