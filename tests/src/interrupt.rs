//! Clean-up when the process is interrupted (Ctrl-C), asked to end or loses its terminal.

use std::sync::{Mutex, Once, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::lab::LabId;
use crate::remains;

static LABS: Mutex<Vec<LabId>> = Mutex::new(Vec::new());
static HOOKS: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());
static MAKING: RwLock<()> = RwLock::new(());
static HANDLER: Once = Once::new();

/// Runs `hook` once when the process is interrupted, before its labs are removed: to give a terminal back, for example.
pub fn on_interrupt(hook: impl FnOnce() + Send + 'static) {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
}

/// Held while a namespace, a mount or a process is being made, so that none appears behind the back of the interrupt handler.
pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    MAKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Has the lab removed if the process is interrupted from now on.
pub(crate) fn register(id: LabId) -> Result<()> {
    let mut installed = Ok(());
    HANDLER.call_once(|| installed = install());
    installed.context("cannot install the lab's signal handler")?;
    LABS.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    Ok(())
}

/// The lab has been removed in the regular way.
pub(crate) fn unregister(id: LabId) {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).retain(|lab| *lab != id);
}

fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("lab-interrupt".into()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        for hook in std::mem::take(&mut *HOOKS.lock().unwrap_or_else(PoisonError::into_inner)) {
            hook();
        }
        let _nothing_new = MAKING.write().unwrap_or_else(PoisonError::into_inner);
        for id in LABS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(error) = remains::remove(*id) {
                eprintln!("lab {id}: {error:#}");
            }
        }
        // Dies of the signal, so that whoever waits for this process sees what ended it.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        std::process::exit(128 + signal);
    })?;
    Ok(())
}
