//! Bodies of strangers, while they arrive and until they are proved: bounded by the memory that they take, in all and for one
//! address. Who sends slowly holds what they have sent, and no place that others need.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::network::network;

/// Bodies of one address (IPv6: one /64) at a time. GitHub sends from few addresses, each body within a moment.
const BODIES: usize = 64;

/// Counts them.
pub(crate) struct Bodies {
    most: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    by_address: HashMap<IpAddr, Own>,
}

/// Of one address.
#[derive(Clone, Copy, Default)]
struct Own {
    bodies: usize,
    bytes: usize,
}

/// What one body takes; dropping it gives it back.
pub(crate) struct Room {
    most: usize,
    held: Arc<Mutex<Held>>,
    address: IpAddr,
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
    /// At most so many bytes, and a quarter of them of one address.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// Room for one more body, which has nothing yet.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<Room> {
        let address = network(address);
        let mut held = lock(&self.held);
        let own = held.by_address.get(&address).copied().unwrap_or_default();
        if own.bodies >= BODIES {
            return Err(full());
        }
        held.by_address.insert(address, Own { bodies: own.bodies + 1, ..own });
        Ok(Room { most: self.most, held: Arc::clone(&self.held), address, bytes: 0 })
    }
}

impl Room {
    /// Room for so many bytes altogether, or a refusal.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        let mut held = lock(&self.held);
        let all = held.bytes + more;
        let own = held.by_address.entry(self.address).or_default();
        if all > self.most || own.bytes + more > self.most / 4 {
            return Err(full());
        }
        own.bytes += more;
        held.bytes = all;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.bytes -= self.bytes;
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
        let bodies = Bodies::new(400);
        let many: Vec<Room> = (0..99).filter_map(|_| enter(&bodies, "192.0.2.1").ok()).collect();
        assert_eq!(many.len(), BODIES);
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
}
