//! Files with keys that others can read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::scene::{LINK, Scene};

#[test]
fn keys_that_others_can_read_are_refused() -> Result<()> {
    let scene = Scene::new(&[LINK])?;
    let a = &scene.topology.a;
    let [mut config, _] = scene.topology.tunnel_configs(0);
    let preshared = a.directory().join("b.psk");
    a.write_secret(&preshared, a.mpvpn(&["genpsk"])?.success()?)?;
    config.peers[0].preshared_key_file = Some(preshared.display().to_string());
    let file = a.write_config(&config)?;
    let up = [Path::new("up"), &file];
    let check = [Path::new("up"), Path::new("--check"), &file];
    a.mpvpn(&check)?.success()?;
    // The tunnel's file has the private key in it.
    for secret in [&file, &preshared] {
        for mode in [0o604, 0o620, 0o640, 0o666] {
            fs::set_permissions(secret, fs::Permissions::from_mode(mode))?;
            for command in [&up[..], &check] {
                let output = a.mpvpn(command)?;
                ensure!(output.status.code() == Some(1), "{} with mode {mode:o}: {output:?}", secret.display());
                let advice = format!("chmod 600 {}", secret.display());
                ensure!(output.stderr.contains(&advice), "{}", output.stderr);
            }
        }
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600))?;
    }
    a.mpvpn(&check)?.success()?;
    scene.close()
}
