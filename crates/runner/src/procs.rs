//! Processes as `/proc` shows them: trees, their use, and killing all of one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proc {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
    /// `R`, `S`, `Z`, …
    pub state: char,
    /// When it began, in clock ticks since boot: with `pid` this names a process for good.
    pub start: u64,
    /// CPU time of it and its reaped children, in clock ticks.
    pub cpu: u64,
    /// Resident memory in bytes.
    pub memory: u64,
}

const PAGE: u64 = 4096;
/// Clock ticks a second; the same on every Linux that we run on.
pub const TICKS: u64 = 100;

/// All processes.
pub fn all() -> BTreeMap<i32, Proc> {
    let mut procs = BTreeMap::new();
    let Ok(dir) = std::fs::read_dir("/proc") else { return procs };
    for entry in dir.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if let Some(p) = one(pid) {
            procs.insert(pid, p);
        }
    }
    procs
}

/// One process; none when it is gone.
pub fn one(pid: i32) -> Option<Proc> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything: what follows the last bracket is plain.
    let rest = &stat[stat.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Some(Proc {
        pid,
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        pgrp: fields.get(2)?.parse().ok()?,
        cpu: number(11) + number(12) + number(13) + number(14),
        start: number(19),
        memory: number(21) * PAGE,
    })
}

/// All descendants of these processes, themselves included.
pub fn tree(procs: &BTreeMap<i32, Proc>, roots: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for p in procs.values() {
        children.entry(p.ppid).or_default().push(p.pid);
    }
    let mut found = BTreeSet::new();
    let mut todo: Vec<i32> = roots.into_iter().filter(|pid| procs.contains_key(pid)).collect();
    while let Some(pid) = todo.pop() {
        if found.insert(pid) {
            todo.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// Whether a process's environment holds that entry.
pub fn has_env(pid: i32, entry: &str) -> bool {
    let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    env.split(|b| *b == 0).any(|e| e == entry.as_bytes())
}

/// The arguments a process was started with.
pub fn args(pid: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 1) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills everything that `find` finds, again and again until it finds nothing alive: what was forked meanwhile is found
/// in the next round, and what is stopped first can't fork.
pub async fn kill_all(mut find: impl FnMut() -> BTreeSet<i32>) {
    for round in 0..200 {
        let alive: Vec<i32> =
            find().into_iter().filter(|pid| one(*pid).is_some_and(|p| p.state != 'Z')).collect();
        if alive.is_empty() {
            return;
        }
        if round == 0 {
            alive.iter().for_each(|pid| signal(*pid, Signal::STOP));
        }
        alive.iter().for_each(|pid| signal(*pid, Signal::KILL));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Takes the zombies among our adopted children, so that they go. `own` are waited for elsewhere.
pub fn reap_adopted(me: i32, own: &BTreeSet<i32>) {
    for p in all().values() {
        if p.ppid == me && p.state == 'Z' && !own.contains(&p.pid) {
            let _ = waitpid(Pid::from_raw(p.pid), WaitOptions::NOHANG);
        }
    }
}

/// Bytes of a folder and all below it; links are not followed.
pub fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_find_ourselves_and_our_child() {
        let mut child =
            std::process::Command::new("sleep").arg("60").env("NITEJAR_MARK", "here").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        // Between fork and exec it still looks like us.
        while args(pid).first().is_none_or(|a| !a.ends_with("sleep")) {
            std::thread::yield_now();
        }
        let procs = all();
        assert!(procs[&me].memory > 0 && procs[&pid].ppid == me);
        assert!(tree(&procs, [me]).contains(&pid) && !tree(&procs, [pid]).contains(&me));
        assert!(has_env(pid, "NITEJAR_MARK=here") && !has_env(pid, "NITEJAR_MARK=her"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
