//! Bodies while they arrive, and those of strangers until they are proved: bounded by the memory that they take, in all and for one
//! address. Who sends slowly holds what they have sent, and no place that others need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::network::network;

/// For so long an address is known that a proved body came from.
const KNOWN: Duration = Duration::from_secs(3600);

/// Counts them.
pub(crate) struct Bodies {
    bounds: Bounds,
    held: Arc<Mutex<Held>>,
}

/// How much there may be at a time. An address is one of IPv4, or one /64 of IPv6.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of memory; a quarter of them for one address.
    pub(crate) bytes: usize,
    /// Bodies of one address.
    pub(crate) each: usize,
    /// Of `bytes`, what is kept for known addresses, however many strangers there are.
    pub(crate) for_known: usize,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    of_strangers: usize,
    by_address: HashMap<IpAddr, Own>,
    known: HashMap<IpAddr, Instant>,
}

impl Held {
    fn knows(&self, address: IpAddr) -> bool {
        self.known.get(&address).is_some_and(|proved| proved.elapsed() < KNOWN)
    }
}

/// Of one address.
#[derive(Clone, Copy, Default)]
struct Own {
    bodies: usize,
    bytes: usize,
}

/// What one body takes; dropping it gives it back.
pub(crate) struct Room {
    bounds: Bounds,
    held: Arc<Mutex<Held>>,
    address: IpAddr,
    known: bool,
    bytes: usize,
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn full() -> Error {
    let detail = "Too many bodies are on their way at the moment. Try again as Retry-After says.";
    Error::new(Code::Overloaded, detail).retry_after(Duration::from_secs(1))
}

impl Bodies {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, held: Arc::default() }
    }

    /// A body from there was proved.
    pub(crate) fn note_proved(&self, address: IpAddr) {
        let mut held = lock(&self.held);
        held.known.retain(|_, proved| proved.elapsed() < KNOWN);
        held.known.insert(network(address), Instant::now());
    }

    /// Whether one was lately.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        lock(&self.held).knows(network(address))
    }

    /// Room for one more body, which has nothing yet.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<Room> {
        let address = network(address);
        let mut held = lock(&self.held);
        let own = held.by_address.get(&address).copied().unwrap_or_default();
        if own.bodies >= self.bounds.each {
            return Err(full());
        }
        let known = held.knows(address);
        held.by_address.insert(address, Own { bodies: own.bodies + 1, ..own });
        Ok(Room { bounds: self.bounds, held: Arc::clone(&self.held), address, known, bytes: 0 })
    }
}

impl Room {
    /// Room for so many bytes altogether, or a refusal.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        let mut held = lock(&self.held);
        let all = held.bytes + more;
        let strangers = held.of_strangers + if self.known { 0 } else { more };
        let own = held.by_address.entry(self.address).or_default();
        let Bounds { bytes: most, for_known, .. } = self.bounds;
        if all > most || own.bytes + more > most / 4 || !self.known && strangers > most - for_known {
            return Err(full());
        }
        own.bytes += more;
        (held.bytes, held.of_strangers) = (all, strangers);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.bytes -= self.bytes;
        if !self.known {
            held.of_strangers -= self.bytes;
        }
        let Some(own) = held.by_address.get_mut(&self.address) else { return };
        own.bytes -= self.bytes;
        own.bodies -= 1;
        if own.bodies == 0 {
            held.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(bodies: &Bodies, address: &str) -> Result<Room> {
        bodies.enter(address.parse().unwrap())
    }

    #[test]
    fn one_address_leaves_room_for_others_and_room_comes_back() {
        let bodies = Bodies::new(Bounds { bytes: 400, each: 64, for_known: 0 });
        let many: Vec<Room> = (0..99).filter_map(|_| enter(&bodies, "192.0.2.1").ok()).collect();
        assert_eq!(many.len(), 64);
        assert!(enter(&bodies, "::ffff:192.0.2.1").is_err(), "the same address");
        let mut other = enter(&bodies, "192.0.2.2").unwrap();
        other.grow(60).unwrap();
        other.grow(100).unwrap();
        assert_eq!(other.grow(101).unwrap_err().code(), Code::Overloaded);
        assert!(enter(&bodies, "192.0.2.2").unwrap().grow(1).is_err(), "its quarter is taken");
        let more: Vec<Room> = (3..6)
            .map(|i| {
                let mut room = enter(&bodies, &format!("2001:db8:0:{i}::1")).unwrap();
                room.grow(100).unwrap();
                room
            })
            .collect();
        let mut last = enter(&bodies, "192.0.2.9").unwrap();
        assert!(last.grow(1).is_err(), "all is taken");
        drop(more);
        last.grow(100).unwrap();
        drop((many, other, last));
        let held = lock(&bodies.held);
        assert!(held.bytes == 0 && held.by_address.is_empty());
    }

    #[test]
    fn many_strangers_leave_room_for_who_is_known() {
        let bodies = Bodies::new(Bounds { bytes: 400, each: 64, for_known: 200 });
        bodies.note_proved("192.0.2.1".parse().unwrap());
        assert!(bodies.knows("192.0.2.1".parse().unwrap()) && !bodies.knows("192.0.2.2".parse().unwrap()));
        let mut rooms: Vec<Room> = (2..6).map(|i| enter(&bodies, &format!("192.0.2.{i}")).unwrap()).collect();
        let grown: Vec<bool> = rooms.iter_mut().map(|room| room.grow(100).is_ok()).collect();
        assert_eq!(grown, [true, true, false, false]);
        enter(&bodies, "192.0.2.1").unwrap().grow(100).unwrap();
        drop(rooms);
        let held = lock(&bodies.held);
        assert!(held.bytes == 0 && held.of_strangers == 0);
    }
}
