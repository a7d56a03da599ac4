//! Row 70: tasks that fill the disk of the data directory together, and go on writing whenever something is free.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::{Client, ServerOptions, eventually, process, server};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{CLUSTER, describe, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("row_70/tasks_fill_a_disk_in_memory", Needs::Root, || tasks_fill_the_disk(Disk::in_memory)),
    ("row_70/tasks_fill_ext4", Needs::Root, || tasks_fill_the_disk(Disk::ext4)),
];

/// Of the disk: small enough to be filled in a second, and large enough for the images and the store's reserve.
const DISK_MIB: u32 = 320;
/// A disk is called full when less than this is free: one part in a hundred.
const FULL_BYTES: u64 = ((DISK_MIB as u64) << 20) / 100;
/// A disk is full after this, and what the server says of it follows.
const DISK_LIMIT: Duration = Duration::from_secs(30);
/// Tasks that fill it at once.
const FILLERS: u32 = 3;

/// Writes on for ever, and takes what anybody else gives back.
const FILLER: &str = "trap 'exit 0' TERM; while :; do cat /dev/zero >> /fill; done 2>/dev/null";
/// Ends by itself once nothing can be written.
const ENDER: &str = "while dd if=/dev/zero bs=64k count=1 >> /probe; do sleep 0.2; done 2>/dev/null; exit 7";
/// Is there until it is told to end.
const NEIGHBOUR: &str = "trap 'exit 9' TERM; while :; do sleep 0.1; done";

fn tasks_fill_the_disk(disk: fn() -> Result<Disk>) -> Result<()> {
    let disk = disk()?;
    let options = || ServerOptions {
        data: Some(disk.directory.path().join("data")),
        expected_log: &["disk", "space", "reserve", "checkpoint", "full", "another one is started"],
        ..ServerOptions::default()
    };
    let mut server = options().start()?;
    furnish(&server)?;
    let mut client = server.client();
    for (family, script) in [("filler", FILLER), ("ender", ENDER), ("neighbour", NEIGHBOUR)] {
        register(&mut client, family, "busybox", &["sh", "-c", script])?;
    }
    let neighbours = start(&mut client, "neighbour", 3)?;
    let enders = start(&mut client, "ender", 3)?;
    for arn in neighbours.iter().chain(&enders) {
        until_running(&mut client, arn)?;
    }
    let fillers = start(&mut client, "filler", FILLERS)?;
    // Half of it, because a file system counts its size in its own way.
    let full = eventually(DISK_LIMIT, || (disk.free_bytes().ok()? < FULL_BYTES / 2).then_some(()));
    full.with_context(|| format!("the disk was never full{}", server.log_tail()))?;

    // Admission stops, what runs lives, and what ends is recorded.
    ensure_refused(&mut client)?;
    let doctor = server.run(&["doctor", "--data", &server.data.display().to_string()])?;
    ensure!(doctor.text().contains("no task below"), "{}", doctor.text());
    for arn in &enders {
        ensure_exit(&until_stopped(&mut client, arn)?, 7)?;
    }
    stop(&mut client, &neighbours[0], 9)?;
    ensure!(describe(&mut client, &neighbours[1])?["lastStatus"] == "RUNNING");
    ensure!(disk.free_bytes()? < FULL_BYTES, "the disk is not full any more");

    // A supervisor that starts on a full disk finds all of it again.
    server.kill_supervisor()?;
    stop(&mut client, &neighbours[1], 9)?;
    ensure_refused(&mut client)?;
    ensure!(disk.free_bytes()? < FULL_BYTES, "the disk is not full any more");

    // So does a server, under another address than is written down.
    server.kill()?;
    let mut server = options().start()?;
    let mut client = server.client();
    ensure!(describe(&mut client, &neighbours[2])?["lastStatus"] == "RUNNING");
    ensure_refused(&mut client)?;
    ensure!(disk.free_bytes()? < FULL_BYTES, "the disk is not full any more");

    for arn in &fillers {
        client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
    }
    for arn in &fillers {
        until_stopped(&mut client, arn)?;
    }
    // Their files go a little after them.
    let late = eventually(DISK_LIMIT, || start(&mut client, "neighbour", 1).ok());
    let late = late.context("no task is accepted on a disk with room")?.remove(0);
    until_running(&mut client, &late)?;
    stop(&mut client, &late, 9)?;
    stop(&mut client, &neighbours[2], 9)?;
    let told = |text: &str| eventually(DISK_LIMIT, || server.log().contains(text).then_some(()));
    told("the disk has room again").context("the log does not tell")?;
    server.stop().map(drop)
}

fn until_running(client: &mut Client, arn: &str) -> Result<()> {
    let running = || describe(client, arn).ok().filter(|task| task["lastStatus"] == "RUNNING");
    eventually(DISK_LIMIT, running).with_context(|| format!("{arn} does not run")).map(drop)
}

fn ensure_refused(client: &mut Client) -> Result<()> {
    let network = client.network()?;
    let request = json!({"cluster": CLUSTER, "taskDefinition": "neighbour", "networkConfiguration": network});
    let answer = client.ecs("RunTask", &request)?;
    let reason = answer["failures"][0]["reason"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("Capacity is unavailable at this time"), "{answer}");
    ensure!(answer["tasks"].as_array().is_none_or(Vec::is_empty), "{answer}");
    Ok(())
}

fn stop(client: &mut Client, arn: &str, code: i32) -> Result<()> {
    client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
    ensure_exit(&until_stopped(client, arn)?, code)
}

fn ensure_exit(task: &Value, code: i32) -> Result<()> {
    ensure!(task["containers"][0]["exitCode"] == json!(code), "{task}");
    Ok(())
}

/// A small file system, mounted; ended with all that uses it, and unmounted, when dropped.
struct Disk {
    directory: tempfile::TempDir,
    /// Of a file system in a file.
    _image: Option<tempfile::NamedTempFile>,
}

impl Disk {
    fn in_memory() -> Result<Self> {
        Self::mount(&["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m,mode=755"), "none"], None)
    }

    fn ext4() -> Result<Self> {
        let image = tempfile::NamedTempFile::new()?;
        image.as_file().set_len(u64::from(DISK_MIB) << 20)?;
        let path = image.path().to_str().context("the name of a temporary file")?.to_owned();
        tool("mkfs.ext4", &["-q", "-F", &path])?;
        Self::mount(&["-o", "loop", &path], Some(image))
    }

    fn mount(arguments: &[&str], image: Option<tempfile::NamedTempFile>) -> Result<Self> {
        let directory = server::scratch_directory()?;
        let at = directory.path().display().to_string();
        tool("mount", &[arguments, &[&at]].concat())?;
        Ok(Self { directory, _image: image })
    }

    /// Ends the containers that a failed test has left, and that would fill the disk for ever.
    fn end_supervisor(&self) {
        let data = self.directory.path().join("data");
        let mut told = None;
        let ended = eventually(DISK_LIMIT, || {
            let Some(supervisor) = server::supervisor_of(&data) else { return Some(()) };
            if told.replace(supervisor) != Some(supervisor) {
                let _ = kill_process(supervisor, Signal::TERM);
            }
            None
        });
        if ended.is_none() {
            eprintln!("the supervisor of {} does not end", data.display());
        }
    }

    /// What is free for others than root.
    fn free_bytes(&self) -> Result<u64> {
        free_bytes(self.directory.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.end_supervisor();
        // Lazily, because a failed test may still hold files in it.
        let mut umount = std::process::Command::new("umount");
        let _ = process::run(umount.arg("-l").arg(self.directory.path()), b"", Duration::from_secs(10));
    }
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).context("look at the disk")?;
    Ok(stat.f_bavail * stat.f_frsize)
}

fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new(program);
    let finished = process::run(command.args(arguments), b"", Duration::from_secs(20))?;
    ensure!(finished.code == 0, "{command:?}: {}", finished.stderr);
    Ok(())
}
