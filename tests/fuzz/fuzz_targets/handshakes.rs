//! Two gateways, a network that does to their handshakes whatever the input says, and a peer with a valid key that
//! answers with whatever the input says. No order that a gateway gives to its maps may contradict the state of its
//! slots; both ends of a session have the same keys; nothing altered is taken; and when the network is good again, the
//! two gateways have a session.
#![no_main]

#[path = "../handshakes/gateway.rs"]
mod gateway;
#[path = "../handshakes/insider.rs"]
mod insider;
#[path = "../handshakes/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| {
    let mut world = world::World::new();
    let mut script = world::Script::new(script);
    while let Some(step) = script.byte() {
        world.step(step, &mut script);
    }
    world.settles();
});
