//! Commands that read and check: `up --check`, `status`, `path`, `genkey`, `pubkey`, `doctor`, `--help`, `completions`.

use std::{fs, io::Write as _, path::Path, process::Stdio};

use anyhow::{Context, Result};
use multipath_tests::{Gateway, config::ClassSection};
use serde_json::Value;

use crate::{PATIENCE, alone, close, fails, path, paths, status, topology, until, up};

/// Nothing of a tunnel is on the gateway.
fn assert_nothing_applied(gateway: &Gateway) -> Result<()> {
    let links = gateway.namespace().output(&["ip", "-brief", "link"], PATIENCE)?;
    assert!(!links.success()?.contains("mp0"), "{}", links.stdout);
    assert!(!gateway.bpffs().join("mpvpn").exists());
    Ok(())
}

#[test]
fn a_file_is_checked_and_nothing_applied() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let gateway = &topology.a;
    let [mut config, _] = topology.tunnel_configs(0);
    config.classes = vec![ClassSection::ports("pin", "22")];
    let file = gateway.write_config(&config)?;
    let check = [Path::new("up"), Path::new("--check"), &file];
    let output = gateway.mpvpn(&check)?;
    assert_eq!(output.success()?, format!("{}: ok\n", file.display()));

    let good = fs::read_to_string(&file)?;
    let line_of = |text: &str, part: &str| {
        text.lines().position(|line| line.contains(part)).map(|index| index + 1).with_context(|| part.to_owned())
    };
    for (old, new, key, expected) in [
        ("listen_port = 5182", "listen_port = 70000", "listen_port", "65535"),
        ("name = \"b\"", "name = \"b\"\ncipher = \"rot13\"", "cipher", "none"),
        ("name = \"up0\"", "name = \"up0\"\nweight = 0", "weight", "1"),
        ("name = \"up0\"", "name = \"up0\"\nrate = \"8\"", "rate", "8mbit"),
        ("name = \"up0\"", "name = \"up0\"\nxdp = \"fast\"", "xdp", "native"),
        ("name = \"up0\"", "name = \"up0\"\ncolour = \"red\"", "colour", "interface"),
        ("10.98.2.0/24", "10.98.2.0/33", "allowed_ips", "prefix"),
        ("class = \"pin\"", "class = \"bulk\"", "class", "aggregate"),
        ("ports = \"22\"", "ports = \"22-\"", "ports", "443"),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good, "{old} stands in the file");
        fs::write(&file, &bad)?;
        let line = line_of(&bad, new.lines().last().unwrap_or(new))?;
        for arguments in [&check[..], &[Path::new("up"), &file]] {
            let message = fails(gateway, 1, arguments)?;
            println!("{message}");
            for part in [&format!("{}:{line}", file.display()), key, "expected", expected, "nothing of it is applied"] {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
            assert_nothing_applied(gateway)?;
        }
    }
    let message = fails(gateway, 1, &["up", "--check", "/nowhere/mp0.toml"])?;
    assert!(message.contains("/nowhere/mp0.toml"), "{message}");
    close(topology)
}

#[test]
fn status_and_paths_as_data_and_as_tables() -> Result<()> {
    let _alone = alone();
    let topology = topology(2)?;
    let gateway = &topology.a;

    assert_eq!(gateway.mpvpn(&["status"])?.success()?, "no tunnel is up\n");
    assert_eq!(gateway.mpvpn(&["status", "--json"])?.success()?, "{\"tunnels\":[]}\n");
    for command in [&["status", "mp0"][..], &["path", "list"], &["path", "set", "up0", "weight", "3"], &["down", "mp0"]]
    {
        let message = fails(gateway, 1, command)?;
        assert!(message.contains("not up") || message.contains("no tunnel"), "{command:?}: {message}");
    }

    let [mut daemon, _b] = up(&topology)?;
    let is_whole = |path: &Value| path["inner_mtu"] == 1436 && path["used"] == true;
    until("the paths are known", || Ok(paths(gateway)?.iter().all(is_whole)))?;
    until("the tunnel's MTU follows", || Ok(status(gateway)?["mtu"] == 1436))?;
    let tunnel = status(gateway)?;
    let expected = serde_json::json!({ "name": "mp0", "daemon": true, "listen_port": 5182, "mtu": 1436 });
    for (key, value) in expected.as_object().context("object")? {
        assert_eq!(tunnel[key], *value, "{key}");
    }
    let peer = &tunnel["peers"][0];
    assert_eq!((peer["name"].as_str(), peer["cipher"].as_str()), (Some("b"), Some("chacha20-poly1305")));
    let session = &peer["session"];
    assert!(session["handshake_seconds"].as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{session}");
    assert!(session["expires_seconds"].as_f64().is_some_and(|left| (120.0..=180.0).contains(&left)), "{session}");
    assert_eq!((peer["handshake_attempts"].as_u64(), &peer["trouble"]), (Some(0), &Value::Null));
    assert_eq!(peer["public_key"].as_str().map(str::len), Some(44));
    assert!(tunnel["drops"].is_array());
    for (number, path) in peer["paths"].as_array().context("paths")?.iter().enumerate() {
        let expected = serde_json::json!({
            "name": format!("b/up{number}"), "uplink": format!("up{number}"), "interface": format!("up{number}"),
            "id": number, "key": number, "state": "up", "operator_weight": null, "share": 0.5,
            "rate_kbps": null, "local": format!("10.10{number}.0.1:5182"), "remote": format!("10.10{number}.0.2:5182"),
            "learned": false, "inner_mtu": 1436,
        });
        for (key, value) in expected.as_object().context("object")? {
            assert_eq!(path[key], *value, "{key}");
        }
        for direction in ["egress", "ingress"] {
            assert!(path[direction]["packets"].is_u64() && path[direction]["bytes"].is_u64());
        }
    }
    assert_eq!(paths(gateway)?.len(), 2);
    let text = gateway.mpvpn(&["status"])?.success()?.to_owned();
    for part in [
        "tunnel: mp0",
        "daemon: running",
        "peer: b",
        "cipher: chacha20-poly1305\n",
        "session: up",
        "b/up0",
        "b/up1",
        "50 %",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(gateway.mpvpn(&["path", "list"])?.success()?.contains("b/up1"));

    gateway.mpvpn(&["path", "set", "b/up0", "weight", "30"])?.success()?;
    gateway.mpvpn(&["path", "set", "up1", "weight", "10"])?.success()?;
    gateway.mpvpn(&["path", "set", "--tunnel", "mp0", "b/up1", "rate", "8mbit"])?.success()?;
    let (first, second) = (path(gateway, "b/up0")?, path(gateway, "b/up1")?);
    assert_eq!((&first["weight"], &first["operator_weight"], &first["share"]), (&30.into(), &30.into(), &0.75.into()));
    assert_eq!((&second["weight"], &second["rate_kbps"]), (&10.into(), &8000.into()));
    for setting in [["b/up0", "weight", "auto"], ["up1", "weight", "auto"], ["up1", "rate", "auto"]] {
        gateway.mpvpn(&[&["path", "set"], &setting[..]].concat())?.success()?;
    }
    let second = path(gateway, "b/up1")?;
    assert_eq!((&second["operator_weight"], &second["rate_kbps"]), (&Value::Null, &Value::Null));

    for (word, role) in [("down", "down"), ("backup", "backup"), ("metered", "metered"), ("up", "active")] {
        gateway.mpvpn(&["path", "set", "up1", word])?.success()?;
        let path = path(gateway, "b/up1")?;
        assert_eq!((&path["role"], &path["operator_role"]), (&role.into(), &role.into()));
    }
    gateway.mpvpn(&["path", "set", "up1", "auto"])?.success()?;
    let path_up1 = path(gateway, "b/up1")?;
    assert_eq!((&path_up1["role"], &path_up1["operator_role"]), (&"active".into(), &Value::Null));
    let log: Value = serde_json::from_str(gateway.mpvpn(&["path", "log", "--path", "up1", "--json"])?.success()?)?;
    assert_eq!((&log["tunnel"], &log["changes"][0]["path"]), (&"mp0".into(), &"b/up1".into()));

    let message = fails(gateway, 1, &["path", "set", "b/nowhere", "weight", "3"])?;
    assert!(message.contains("b/nowhere") && message.contains("b/up0, b/up1"), "{message}");
    assert!(fails(gateway, 2, &["path", "set", "b/up0", "weight", "0"])?.contains("from 1 to 1000000"));

    daemon.kill()?;
    assert_eq!(status(gateway)?["daemon"], false);
    assert!(gateway.mpvpn(&["status"])?.success()?.contains("not running"));

    let [second, _] = topology.tunnel_configs(1);
    let _second = gateway.up(&second)?;
    for command in [&["path", "list"][..], &["path", "set", "up0", "weight", "3"]] {
        let message = fails(gateway, 1, command)?;
        assert!(message.contains("mp0, mp1"), "{message}");
    }
    gateway.mpvpn(&["path", "set", "up0", "weight", "3", "--tunnel", "mp1"])?.success()?;
    assert_eq!(path(gateway, "b/up0")?["operator_weight"], Value::Null, "the other tunnel's path is untouched");
    close(topology)
}

#[test]
fn keys_help_and_completions() -> Result<()> {
    let _alone = alone();
    let topology = topology(1)?;
    let gateway = &topology.a;

    let key = gateway.mpvpn(&["genkey"])?.success()?.to_owned();
    assert_eq!(key.trim().len(), 44);
    assert_ne!(key, gateway.mpvpn(&["genkey"])?.success()?);
    let preshared = gateway.mpvpn(&["genpsk"])?.success()?.to_owned();
    assert_eq!(preshared.trim().len(), 44);
    assert_ne!(preshared, gateway.mpvpn(&["genpsk"])?.success()?);
    let mut pubkey = gateway.mpvpn_command(&["pubkey"])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    pubkey.stdin.take().context("stdin")?.write_all(key.as_bytes())?;
    let public = String::from_utf8(pubkey.wait_with_output()?.stdout)?;
    assert_eq!(public.trim().len(), 44);
    assert_ne!(public, key);

    for command in [
        &["up"][..],
        &["down"],
        &["status"],
        &["path"],
        &["path", "list"],
        &["path", "set"],
        &["genkey"],
        &["genpsk"],
        &["pubkey"],
        &["doctor"],
        &["completions"],
    ] {
        let help = gateway.mpvpn(&[command, &["--help"]].concat())?;
        assert!(
            help.success()?.contains("Example: mpvpn") || help.stdout.contains("Example: umask"),
            "{}",
            help.stdout
        );
    }
    assert!(gateway.mpvpn(&["--help"])?.success()?.contains("Example"));
    for shell in ["bash", "zsh", "fish"] {
        let script = gateway.mpvpn(&["completions", shell])?;
        assert!(script.success()?.contains("mpvpn") && script.stdout.contains("doctor"), "{shell}");
    }
    close(topology)
}

#[test]
fn the_doctor_finds_what_is_missing() -> Result<()> {
    let _alone = alone();
    let topology = topology(2)?;
    let gateway = &topology.a;
    let [mut config, _] = topology.tunnel_configs(0);

    let bare = gateway.mpvpn(&["doctor"])?;
    assert!(bare.success()?.lines().any(|line| line.starts_with("ok")), "{}", bare.stdout);
    let file = gateway.write_config(&config)?;
    let with_config = gateway.mpvpn(&[Path::new("doctor"), &file])?;
    println!("{}", with_config.stdout);
    assert!(with_config.success()?.contains("up1"), "{}", with_config.stdout);
    assert!(!with_config.stdout.lines().any(|line| line.starts_with("fail")), "{}", with_config.stdout);

    config.uplinks[1].interface = "gone0".to_owned();
    let file = gateway.write_config(&config)?;
    let output = gateway.mpvpn(&[Path::new("doctor"), &file])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let failed: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("fail")).collect();
    assert!(failed.len() == 1 && failed[0].contains("gone0"), "{}", output.stdout);
    assert!(output.stdout.contains("-> "), "it says what to do: {}", output.stdout);

    let json = gateway.mpvpn(&[Path::new("doctor"), &file, Path::new("--json")])?;
    let report: Value = serde_json::from_str(&json.stdout)?;
    assert_eq!(report["fail"], 1);
    assert_nothing_applied(gateway)?;
    close(topology)
}
