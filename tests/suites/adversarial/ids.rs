//! Row 61: user ids.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::expect::expect;
use crate::lab::lab;
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_61_ids_on_volumes", Needs::Root, row_61_ids_on_volumes),
    ("row_61_ranges_of_two_tasks", Needs::Root, row_61_ranges_of_two_tasks),
];

/// Users that a machine itself has; no id of a task is one of them.
const HOST_IDS: u32 = 65_536;

fn row_61_ids_on_volumes() -> Result<()> {
    let lab = lab()?;
    let directory = lab.volumes().join("ids");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    let owned = directory.join("host-owned");
    fs::write(&owned, "secret")?;
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o600))?;
    let mut definition = lab.definition(&["ids", "/data", "/host"]);
    let shared = json!({"scope": "shared", "autoprovision": true});
    definition["volumes"] = json!([
        {"name": "of-row-61", "dockerVolumeConfiguration": shared},
        {"name": "host", "host": {"sourcePath": directory}},
    ]);
    definition["containerDefinitions"][0]["mountPoints"] = json!([
        {"sourceVolume": "of-row-61", "containerPath": "/data"},
        {"sourceVolume": "host", "containerPath": "/host"},
    ]);
    expect(include_str!("expected/ids.txt"), &lab.start(&definition)?.finish()?)?;
    let made = find(&lab.server.data, "made-by-root").context("find what the task made")?;
    let meta = fs::metadata(&made)?;
    ensure!(meta.uid() >= HOST_IDS && meta.gid() >= HOST_IDS, "{} is of {}", made.display(), meta.uid());
    let meta = fs::metadata(&owned)?;
    ensure!((meta.uid(), meta.mode() & 0o7777) == (0, 0o600), "the host's file was changed: {meta:?}");
    ensure!(fs::read_to_string(&owned)? == "secret", "the host's file was written to");
    Ok(())
}

/// A file of this name below a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().collect();
    let is_it = |entry: &&fs::DirEntry| entry.file_name() == name;
    entries.iter().find(is_it).map(fs::DirEntry::path).or_else(|| {
        let is_dir = |entry: &&fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.iter().filter(is_dir).find_map(|entry| find(&entry.path(), name))
    })
}

fn row_61_ranges_of_two_tasks() -> Result<()> {
    let lab = lab()?;
    let tasks = [lab.start(&lab.definition(&["ipc-hold"]))?, lab.start(&lab.definition(&["ipc-hold"]))?];
    let mut firsts = Vec::new();
    for task in &tasks {
        task.until_printed("held")?;
        let pid = *task.host_pids().first().context("find the task's process")?;
        for map in ["uid_map", "gid_map"] {
            let text = fs::read_to_string(format!("/proc/{pid}/{map}"))?;
            let fields: Vec<u32> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [0, first, 65_536] = fields[..] else { anyhow::bail!("{map}: {text}") };
            ensure!(first >= HOST_IDS, "{map}: {text}");
            firsts.push(first);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("find Uid")?;
        ensure!(uid.split_whitespace().all(|id| id.parse().is_ok_and(|id: u32| id >= HOST_IDS)), "{uid}");
    }
    ensure!(firsts[0] == firsts[1] && firsts[2] == firsts[3], "{firsts:?}");
    ensure!(firsts[0].abs_diff(firsts[2]) >= 65_536, "the ranges of two tasks meet: {firsts:?}");
    tasks.iter().try_for_each(|task| task.stop().map(drop))
}
