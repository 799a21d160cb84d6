//! What sealing and opening alone cost, beside `OpenSSL` on the same machine.

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use multipath_common::maps::{CIPHER_AUTH, CIPHER_CHACHA20_POLY1305};

use super::program_time::LENGTHS;
use super::sample::Sample;
use crate::command::{find_program, output};
use crate::workspace::Workspace;

/// Runs of a program in one call of the kernel.
const REPEAT: u32 = 20_000;
/// Bytes around the payload in the test programs' packets: Ethernet header, header, tag.
const AROUND: usize = 14 + 20 + 16;
/// Length of `OpenSSL`'s measurement, seconds.
const OPENSSL_SECONDS: &str = "1";

/// The figures of the ciphers.
#[derive(Default)]
pub(crate) struct Crypto {
    /// Length of the payload, time to seal it and to open it with ChaCha20-Poly1305, nanoseconds.
    pub(crate) sealed: Vec<(u16, [Sample; 2])>,
    /// The same for authentication alone.
    pub(crate) authentic: Vec<(u16, [Sample; 2])>,
    /// What `OpenSSL` encrypts with ChaCha20-Poly1305 on one processor in pieces of the longest length, Mbit/s.
    pub(crate) openssl_mbps: Sample,
    /// Instructions that the verifier walked through for sealing and for opening.
    pub(crate) verified: [u32; 2],
}

impl Crypto {
    /// Measures everything `repetitions` times, in turns.
    pub(crate) fn measure(workspace: &Workspace, repetitions: u32) -> Result<Self> {
        let object = workspace.target().join("bpf-build/bpfel-unknown-none/release/aead");
        let mut ebpf =
            EbpfLoader::new().load_file(&object).context("cannot load the programs that only seal and open")?;
        let mut crypto = Self::default();
        for (name, verified) in ["seal", "open"].into_iter().zip(&mut crypto.verified) {
            let program = classifier(&mut ebpf, name)?;
            program.load().with_context(|| format!("cannot load the program {name}"))?;
            *verified = program.info()?.verified_instruction_count().unwrap_or_default();
        }
        let empty = || LENGTHS.map(|length| (length, <[Sample; 2]>::default())).into();
        (crypto.sealed, crypto.authentic) = (empty(), empty());
        for _ in 0..repetitions {
            for (cipher, samples) in
                [(CIPHER_CHACHA20_POLY1305, &mut crypto.sealed), (CIPHER_AUTH, &mut crypto.authentic)]
            {
                let mut key: Array<_, [u32; 9]> = Array::try_from(ebpf.map_mut("key").context("no map of the key")?)?;
                key.set(0, [1, 2, 3, 4, 5, 6, 7, 8, cipher], 0)?;
                for (length, [seal, open]) in samples {
                    seal.add(run(&mut ebpf, "seal", *length)?);
                    // What it opens is nonsense from the second time on: the tag is compared at the end, so the work is the same.
                    open.add(run(&mut ebpf, "open", *length)?);
                }
            }
            match openssl() {
                Ok(mbps) => crypto.openssl_mbps.add(mbps),
                Err(error) => eprintln!("  SKIPPED: OpenSSL cannot be measured: {error:#}"),
            }
        }
        Ok(crypto)
    }
}

/// Mean time of a run, nanoseconds.
fn run(ebpf: &mut Ebpf, name: &str, length: u16) -> Result<f64> {
    let packet = vec![0x5a; usize::from(length) + AROUND];
    let options = TestRunOptions { data_in: Some(&packet), repeat: REPEAT, ..TestRunOptions::default() };
    let result = classifier(ebpf, name)?.test_run(options).with_context(|| format!("no test run of {name}"))?;
    ensure!(!result.duration.is_zero(), "the kernel took no time of {name}");
    Ok(result.duration.as_nanos() as f64)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

fn openssl() -> Result<f64> {
    let program = find_program("openssl").context("it is not installed")?;
    let bytes = LENGTHS[LENGTHS.len() - 1].to_string();
    let mut speed = std::process::Command::new(program);
    let words = ["speed", "-elapsed", "-seconds", OPENSSL_SECONDS, "-bytes", &bytes, "-evp", "chacha20-poly1305"];
    let text = output(speed.args(words))?;
    // The last line: the cipher's name, and thousands of bytes a second as `1234.56k`.
    let thousands = text.split_whitespace().last().and_then(|word| word.strip_suffix('k')?.parse::<f64>().ok());
    Ok(thousands.with_context(|| format!("openssl's answer has no figure: {text}"))? * 8.0 / 1e3)
}
