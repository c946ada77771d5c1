//! Wall time, CPU time and peak memory of a command and of everything it starts, from `/proc`, with the server's CPU
//! beside it: a tool that lets the server do its work has not saved it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// Clock ticks per second in `/proc/<pid>/stat`: USER_HZ is 100 on every Linux that PostgreSQL runs on.
const TICKS: f64 = 100.0;

/// One measured step of one tool.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) step: String,
    pub(super) tool: &'static str,
    pub(super) wall: Duration,
    /// Seconds of the command and everything it started.
    pub(super) cpu: f64,
    /// Seconds that the server spent meanwhile.
    pub(super) server_cpu: f64,
    /// Sum over the command's processes of each one's peak, in KiB.
    pub(super) peak_kib: u64,
    /// What the step left behind, in bytes, or 0.
    pub(super) stored: u64,
    /// How many bytes of user data it handled.
    pub(super) handled: u64,
}

/// Runs a command to its end. `server` is the postmaster whose time is counted beside it.
pub(super) fn measure(mut command: Command, server: Option<u32>) -> Result<Measured, Failure> {
    let server_before = server.map_or(0.0, tree_cpu);
    let children_before = waited_children_cpu();
    let begin = Instant::now();
    let errors = std::env::temp_dir().join(format!("pgkeep-bench-{}.err", std::process::id()));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&errors)?).spawn()?;
    let mut peaks = std::collections::BTreeMap::new();
    let status = loop {
        for pid in tree(child.id()) {
            if let Some(peak) = peak_kib(pid) {
                peaks.insert(pid, peak);
            }
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let wall = begin.elapsed();
    if !status.success() {
        let said = std::fs::read_to_string(&errors).unwrap_or_default();
        // The end of what it said tells why; a command that failed may be repeated in it, at any length.
        let start = said.floor_char_boundary(said.len().saturating_sub(2_000));
        return Err(format!("{command:?} ended with {status}: {}", said[start..].trim()).into());
    }
    Ok(Measured {
        step: String::new(),
        tool: "",
        wall,
        cpu: waited_children_cpu() - children_before,
        server_cpu: server.map_or(0.0, tree_cpu) - server_before,
        peak_kib: peaks.values().sum(),
        stored: 0,
        handled: 0,
    })
}

/// Bytes of all files below a folder.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Fields of a process's `stat` after its name: state is 0, parent 1, then as proc(5) counts.
fn stat_fields(process: &str) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let rest = text.rsplit(')').next()?;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// CPU seconds of the children this process has waited for.
fn waited_children_cpu() -> f64 {
    stat_fields("self").map_or(0.0, |fields| ticks(fields.get(13)) + ticks(fields.get(14)))
}

/// CPU seconds of a process, its live descendants, and those it has waited for.
fn tree_cpu(root: u32) -> f64 {
    tree(root)
        .into_iter()
        .filter_map(|pid| stat_fields(&pid.to_string()))
        .map(|fields| (11..=14).map(|index| ticks(fields.get(index))).sum::<f64>())
        .sum()
}

fn ticks(field: Option<&u64>) -> f64 {
    field.and_then(|ticks| u32::try_from(*ticks).ok()).map_or(0.0, f64::from) / TICKS
}

fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
