//! The AEAD in the kernel: the same bits as another implementation, at every length, and how long it takes.
//!
//! The programs `seal` and `open` of the object `aead.o` do nothing else.

use std::path::{Path, PathBuf};
use std::{env, iter};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::Array;
use aya::programs::{Program, TestRun as _, TestRunOptions, TestRunResult};
use aya::{Ebpf, EbpfLoader};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};
use multipath_common::maps::{CIPHER_AUTH, CIPHER_CHACHA20_POLY1305};
use multipath_common::wire::{HEADER_LEN, TAG_LEN};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Bytes of an Ethernet header; a test run sets the protocol by it.
const ETHERNET_LEN: usize = 14;
/// Bytes before the payload.
const BEFORE: usize = ETHERNET_LEN + HEADER_LEN;
/// Runs of a program whose time is taken together.
const REPEAT: u32 = 1000;
/// How often that is done: other work on the machine makes some of them slow, and none fast.
const ROUNDS: u32 = 30;

struct Bench {
    ebpf: Ebpf,
    key: [u8; 32],
}

impl Bench {
    fn new() -> Result<Self> {
        let object = object();
        let mut ebpf = EbpfLoader::new()
            .load_file(&object)
            .with_context(|| format!("cannot load {}: as root, after `cargo xtask build`", object.display()))?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => bail!("program {name} is of type {:?}", other.prog_type()),
            }
            .with_context(|| format!("the kernel refuses program {name}"))?;
        }
        Ok(Self { ebpf, key: core::array::from_fn(|i| i as u8 ^ 0x5a) })
    }

    fn set_cipher(&mut self, cipher: u32) -> Result<()> {
        let mut map: Array<_, [u32; 9]> = Array::try_from(self.ebpf.map_mut("key").context("no map of the key")?)?;
        let key: [u32; 8] = bytemuck::cast(self.key);
        let words: [u32; 9] = core::array::from_fn(|i| key.get(i).copied().unwrap_or(cipher));
        Ok(map.set(0, words, 0)?)
    }

    /// What a program returns, and the packet that it leaves.
    fn run(&mut self, program: &str, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut output = vec![0; packet.len()];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut output), ..TestRunOptions::default() };
        Ok((self.test_run(program, options)?.return_value, output))
    }

    /// Nanoseconds of a run.
    fn time(&mut self, program: &str, packet: &[u8]) -> Result<u64> {
        let mut fastest = u64::MAX;
        for _ in 0..ROUNDS {
            let options = TestRunOptions { data_in: Some(packet), repeat: REPEAT, ..TestRunOptions::default() };
            fastest = fastest.min(self.test_run(program, options)?.duration.as_nanos() as u64);
        }
        Ok(fastest)
    }

    fn test_run(&mut self, name: &str, options: TestRunOptions<'_>) -> Result<TestRunResult> {
        match self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))? {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            other => bail!("program {name} is of type {:?}", other.prog_type()),
        }
        .with_context(|| format!("no test run of {name}"))
    }

    /// The packet, sealed by another implementation.
    fn sealed(&self, packet: &[u8], cipher: u32) -> Vec<u8> {
        let mut sealed = packet.to_vec();
        let (before, tag) = sealed.split_at_mut(packet.len() - TAG_LEN);
        let (header, payload) = before[ETHERNET_LEN..].split_at_mut(HEADER_LEN);
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&header[8..16]);
        let other = ChaCha20Poly1305::new(&self.key.into());
        let (associated, secret) = match cipher {
            CIPHER_AUTH => ([header, payload].concat(), &mut [][..]),
            _ => (header.to_vec(), payload),
        };
        let computed = other.encrypt_in_place_detached(&nonce.into(), &associated, secret);
        tag.copy_from_slice(&computed.expect("a short message"));
        sealed
    }
}

/// The object that `cargo xtask build` puts beside that of the data plane.
fn object() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/aead.o");
    env::var_os("MPVPN_AEAD_OBJECT").map_or(built, PathBuf::from)
}

/// A packet with random bytes, and IPv4 as its `EtherType`.
fn packet(random: &mut StdRng, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = iter::repeat_with(|| random.random()).take(BEFORE + len + TAG_LEN).collect();
    packet[ETHERNET_LEN - 2..ETHERNET_LEN].copy_from_slice(&[8, 0]);
    packet
}

#[test]
fn the_kernel_seals_and_opens_as_rustcrypto_does() -> Result<()> {
    let mut bench = Bench::new()?;
    let mut random = StdRng::seed_from_u64(8439);
    for cipher in [CIPHER_CHACHA20_POLY1305, CIPHER_AUTH] {
        bench.set_cipher(cipher)?;
        for len in 0..=1500 {
            let case = format!("{len} bytes, cipher {cipher}");
            let plain = packet(&mut random, len);
            let sealed = bench.sealed(&plain, cipher);
            for (seal, open) in [("seal", "open"), ("seal_xdp", "open_xdp")] {
                ensure!(bench.run(seal, &plain)? == (0, sealed.clone()), "{case}: {seal}");
                let (refused, opened) = bench.run(open, &sealed)?;
                ensure!(refused == 0 && opened[..BEFORE + len] == plain[..BEFORE + len], "{case}: {open}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_kernel_refuses_every_changed_byte() -> Result<()> {
    let mut bench = Bench::new()?;
    let mut random = StdRng::seed_from_u64(1305);
    for cipher in [CIPHER_CHACHA20_POLY1305, CIPHER_AUTH] {
        bench.set_cipher(cipher)?;
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 127, 300] {
            let plain = packet(&mut random, len);
            let sealed = bench.sealed(&plain, cipher);
            for at in ETHERNET_LEN..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << random.random_range(0..8);
                ensure!(bench.run("open", &changed)?.0 != 0, "{len} bytes, cipher {cipher}: byte {at} may change");
            }
        }
    }
    Ok(())
}

#[test]
fn the_tag_of_no_cipher_is_zeros_and_nothing_else() -> Result<()> {
    let mut bench = Bench::new()?;
    let mut random = StdRng::seed_from_u64(3);
    for len in 0..=1500 {
        let plain = packet(&mut random, len);
        let mut sealed = plain.clone();
        sealed[BEFORE + len..].fill(0);
        ensure!(bench.run("seal_none", &plain)? == (0, sealed.clone()), "{len} bytes: seal");
        ensure!(bench.run("open_none", &sealed)? == (0, sealed.clone()), "{len} bytes: open");
        sealed[BEFORE + len + random.random_range(0..TAG_LEN)] ^= 1 << random.random_range(0..8);
        ensure!(bench.run("open_none", &sealed)?.0 != 0, "{len} bytes: a tag that is not zeros");
    }
    Ok(())
}

#[test]
fn the_kernel_refuses_an_unknown_cipher_and_touches_nothing() -> Result<()> {
    let mut bench = Bench::new()?;
    bench.set_cipher(0)?;
    let plain = packet(&mut StdRng::seed_from_u64(0), 100);
    for program in ["seal", "open"] {
        let (result, output) = bench.run(program, &plain)?;
        ensure!(result != 0 && output == plain, "{program}");
    }
    Ok(())
}

/// Prints one JSON object a line: `{"cipher": .., "len": .., "seal_ns": .., "open_ns": ..}`.
#[test]
#[ignore = "takes times: `cargo test --release -p multipath-tests --test aead -- --ignored --nocapture`, on a quiet machine"]
fn times() -> Result<()> {
    let mut bench = Bench::new()?;
    for (cipher, name, limit_ns) in [(CIPHER_CHACHA20_POLY1305, "chacha20-poly1305", 5500), (CIPHER_AUTH, "auth", 1200)]
    {
        bench.set_cipher(cipher)?;
        for len in [64, 512, 1420] {
            let plain = packet(&mut StdRng::seed_from_u64(0), len);
            let both = bench.time("seal_open", &plain)?;
            let seal = bench.time("seal", &plain)?;
            println!(r#"{{"cipher": "{name}", "len": {len}, "seal_ns": {seal}, "open_ns": {}}}"#, both - seal);
            ensure!(both <= 2 * limit_ns, "{both} ns to seal and open {len} bytes with {name}");
        }
    }
    Ok(())
}
