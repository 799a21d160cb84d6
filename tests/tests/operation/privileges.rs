//! What the daemon may do once it runs, and who can come near its maps.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use multipath_tests::{Daemon, End};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt},
    unistd::{Uid, setfsuid},
};

use crate::{PATIENCE, alone, close, passes, topology, until, up};

/// Bits of capabilities (include/uapi/linux/capability.h).
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// A field of a thread's `status`.
fn field(thread: &Path, name: &str) -> Result<String> {
    let status = fs::read_to_string(thread.join("status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {name} in {status}"))?.trim().to_owned())
}

/// The daemon has these capabilities and can never get others.
fn assert_capabilities(daemon: &Daemon, expected: u64) -> Result<()> {
    // Capabilities are each thread's own: the loop and the playout stage.
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid()))?;
    let threads: Vec<PathBuf> = threads.map(|thread| Ok(thread?.path())).collect::<Result<_>>()?;
    // Where the kernel has fq there is no stage.
    assert!((1..=2).contains(&threads.len()), "{threads:?}");
    for thread in threads {
        for (set, expected) in
            [("CapEff", expected), ("CapPrm", expected), ("CapBnd", expected), ("CapInh", 0), ("CapAmb", 0)]
        {
            assert_eq!(u64::from_str_radix(&field(&thread, set)?, 16)?, expected, "{set} of {}", thread.display());
        }
        assert_eq!(field(&thread, "NoNewPrivs")?, "1");
    }
    Ok(())
}

/// Everything below a directory, and the directory.
fn tree(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { paths.extend(tree(&path)?) } else { paths.push(path) }
    }
    Ok(paths)
}

#[test]
fn a_running_daemon_keeps_one_capability_and_can_do_all_its_work() -> Result<()> {
    let _alone = alone();
    let topology = topology(2)?;
    let [daemon, _b] = up(&topology)?;
    assert_capabilities(&daemon, NET_ADMIN)?;
    // An uplink that goes and comes again is a new interface, which takes programs, sockets and pins.
    let link = topology.link(0)?;
    link.remove_interface(End::A)?;
    link.restore_interface(End::A)?;
    for end in [End::A, End::B] {
        topology.link(1)?.set_carrier(end, false)?;
    }
    until("packets pass the uplink that came again", || Ok(passes(&topology).is_ok()))?;
    close(topology)
}

/// Of two processes of root without the right to trace, neither can look into the other if that can't be dumped.
#[test]
fn a_daemon_is_closed_to_root_without_the_right_to_trace() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let [daemon, _b] = up(&topology)?;
    // CAP_PERFMON is enough to read (kernel/fork.c, `may_access_mm`), and CAP_SYS_ADMIN is CAP_PERFMON too.
    let untracing = ["setpriv", "--bounding-set=-sys_ptrace,-perfmon,-sys_admin"];
    let namespace = topology.a.namespace();
    let can_read = |pid: u32| -> Result<bool> {
        let maps = format!("/proc/{pid}/maps");
        let output = namespace.output(&[&untracing[..], &["cat", &maps]].concat(), PATIENCE)?;
        Ok(output.status.success())
    };
    let other = namespace.spawn(&[&untracing[..], &["sleep", "60"]].concat())?;
    until("another process of root can be looked into", || can_read(other.pid()))?;
    assert!(!can_read(daemon.pid())?);
    close(topology)
}

#[test]
fn a_low_port_keeps_the_capability_to_bind_it() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let [mut a, mut b] = topology.tunnel_configs(0);
    for (config, other) in [(&mut a, 501), (&mut b, 500)] {
        config.tunnel.listen_port = 1001 - other;
        for endpoint in config.peers.iter_mut().flat_map(|peer| &mut peer.endpoints) {
            endpoint.address.set_port(other);
        }
    }
    let daemon = topology.a.up(&a)?;
    let _b = topology.b.up(&b)?;
    topology.wait_for_session("mp0")?;
    assert_capabilities(&daemon, NET_ADMIN | NET_BIND_SERVICE)?;
    let link = topology.link(0)?;
    link.remove_interface(End::A)?;
    link.restore_interface(End::A)?;
    until("packets pass the uplink that came again", || Ok(passes(&topology).is_ok()))?;
    close(topology)
}

#[test]
fn nobody_but_root_comes_near_the_maps() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let tunnels = topology.a.bpffs().join("mpvpn");
    // As an earlier version left it, or a careless administrator.
    fs::create_dir(&tunnels)?;
    fs::set_permissions(&tunnels, fs::Permissions::from_mode(0o777))?;
    let _daemons = up(&topology)?;
    let paths = tree(&tunnels)?;
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let metadata = fs::metadata(&path)?;
        let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!((owner, mode), (0, expected), "{}", path.display());
    }
    close(topology)
}

#[test]
fn pins_in_somebody_elses_directory_are_refused() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let tunnels = topology.a.bpffs().join("mpvpn");
    fs::create_dir(&tunnels)?;
    chown(&tunnels, Some(65534), None)?;
    let [config, _] = topology.tunnel_configs(0);
    let error = topology.a.up(&config).expect_err("the daemon uses a directory that is not root's");
    assert!(format!("{error:#}").contains("not this user's directory"), "{error:#}");
    close(topology)
}

/// The user that the kernel and all distributions know by this number.
const NOBODY: u32 = 65_534;

/// Binds a socket of `nobody` to the tunnel's port in all ways that sockets can share one.
fn binds_of_nobody(port: u16, interface: &str) -> Vec<(String, nix::Result<()>)> {
    // A socket belongs to the file system's user of the thread that makes it (net/socket.c, `sock_alloc`).
    setfsuid(Uid::from_raw(NOBODY));
    let mut results = Vec::new();
    for (is_ipv4, reuse_address, reuse_port, to_device) in
        (0..16).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0))
    {
        let attempt = || -> nix::Result<()> {
            let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReuseAddr, &reuse_address)?;
            setsockopt(&fd, sockopt::ReusePort, &reuse_port)?;
            if to_device {
                setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface))?;
            }
            if is_ipv4 {
                bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
            } else {
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
                bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))
            }
        };
        let name = format!("ipv4 {is_ipv4}, address {reuse_address}, port {reuse_port}, device {to_device}");
        results.push((name, attempt()));
    }
    results
}

#[test]
fn nobody_else_can_take_the_handshakes() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let interface = topology.tunnel_configs(0)[0].uplinks[0].interface.clone();
    let port = topology.tunnel_configs(0)[0].tunnel.listen_port;
    let is_bound = |results: &[(String, nix::Result<()>)]| results.iter().all(|(_, result)| result.is_ok());
    let before = topology.a.namespace().run(|| binds_of_nobody(port, &interface))?;
    assert!(is_bound(&before), "{before:?}");
    let _daemons = up(&topology)?;
    for (way, result) in topology.a.namespace().run(|| binds_of_nobody(port, &interface))? {
        assert_eq!(result, Err(Errno::EADDRINUSE), "{way}");
    }
    close(topology)
}
