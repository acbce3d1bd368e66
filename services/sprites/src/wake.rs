//! Runners that wait for work, by agent. A hint only: who misses it looks again after a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wake(Mutex<HashMap<String, Arc<Notify>>>);

impl Wake {
    /// What an agent's runner waits on.
    pub(crate) fn of(&self, agent: &str) -> Arc<Notify> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits on are dropped before the map grows further.
        if map.len() > 1000 && !map.contains_key(agent) {
            map.retain(|_, n| Arc::strong_count(n) > 1);
        }
        Arc::clone(map.entry(agent.to_owned()).or_default())
    }

    /// There is work for these agents.
    pub(crate) fn ring<'a>(&self, agents: impl IntoIterator<Item = &'a str>) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for agent in agents {
            if let Some(notify) = map.get(agent) {
                notify.notify_one();
            }
        }
    }
}
