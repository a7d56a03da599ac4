//! Row 74: a process that nothing ends, because it waits in the kernel for a file system that does not answer.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::eventually;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use crate::expect::expect;
use crate::lab::{CLUSTER, Lab, TASK_LIMIT, Task};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[("row_74_hung_process", Needs::Root, row_74_hung_process)];

/// How long a task with such a process is watched after it was killed. It would have stopped within a second.
const WATCHED: Duration = Duration::from_secs(4);

fn row_74_hung_process() -> Result<()> {
    // Mounted first: what is mounted later is not seen by a supervisor that has its own namespace of mounts.
    let (lab, mut volume) = Lab::open_on(|volumes| Hung::mount(volumes.join("hung")))?;
    let supervisor = lab.server.supervisor();
    let mut definition = lab.definition(&[]);
    definition["requiresCompatibilities"] = json!(["EC2"]);
    definition["volumes"] = json!([{"name": "hung", "host": {"sourcePath": volume.path}}]);
    let container = &mut definition["containerDefinitions"][0];
    container["entryPoint"] = json!(["sh", "-c", "echo looking; exec ls /hung"]);
    container["mountPoints"] = json!([{"sourceVolume": "hung", "containerPath": "/hung"}]);
    container["stopTimeout"] = json!(1);
    let task = lab.start(&definition)?;
    task.until_printed("looking")?;
    eventually(TASK_LIMIT, || volume.was_asked().then_some(())).context("the process asks for nothing")?;

    lab.client().ecs("StopTask", &json!({"cluster": CLUSTER, "task": task.arn}))?;
    let stopped = || task.describe().ok().filter(|task| task["lastStatus"] == "STOPPED");
    if let Some(task) = eventually(WATCHED, stopped) {
        anyhow::bail!("a task is said to have stopped whose process is there: {task}");
    }
    ensure!(is_hung(&task), "the process does not hang");
    // Nobody waits for it: others start, stop and end as ever.
    expect("0: /dev/null\n1: pipe\n2: pipe", &lab.run(&["descriptors"])?)?;
    let neighbour = lab.start(&lab.definition(&["handles"]))?;
    neighbour.until_printed("held")?;
    neighbour.stop()?;
    ensure!(lab.server.supervisor() == supervisor, "the supervisor is another");

    volume.abort()?;
    let ended = task.until_stopped()?;
    ensure!(ended["stopCode"] == "UserInitiated", "{ended}");
    ensure!(ended["containers"][0]["exitCode"] == json!(137), "{ended}");
    ensure!(task.host_pids().is_empty(), "processes are left: {:?}", task.host_pids());
    Ok(())
}

/// Whether a process of the task sleeps and cannot be woken (proc_pid_stat(5)).
fn is_hung(task: &Task<'_>) -> bool {
    let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    task.host_pids().into_iter().any(|pid| state(pid).contains(") D "))
}

/// A FUSE file system that tells what its root is, and answers nothing else.
struct Hung {
    path: PathBuf,
    /// Whether somebody waits for an answer.
    asked: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl Hung {
    fn mount(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path)?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options)?;
        mount("hung", &path, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
            .context("mount a FUSE file system")?;
        let asked = Arc::new(AtomicBool::new(false));
        let answering = std::thread::spawn({
            let asked = asked.clone();
            move || answer(device, &asked)
        });
        Ok(Self { path, asked, answering: Some(answering) })
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends the connection, with which all that waits for an answer fails (`umount2(2)`, MNT_FORCE).
    fn abort(&mut self) -> Result<()> {
        unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH).context("unmount it")?;
        let answering = self.answering.take().context("it was aborted already")?;
        answering.join().map_err(|_| anyhow::anyhow!("what answers has failed"))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        if self.answering.is_some() {
            let _ = self.abort();
        }
    }
}

// Numbers and layouts of <linux/fuse.h>.
const GETATTR: u32 = 3;
const INIT: u32 = 26;

/// Answers until the connection has ended.
fn answer(mut device: File, asked: &AtomicBool) {
    // The kernel wants room for the largest request that it may send, 8 KiB and a header.
    let mut request = [0; 64 * 1024];
    while let Ok(read) = device.read(&mut request) {
        let Some((opcode, unique)) = header(&request[..read]) else { continue };
        let body = match opcode {
            INIT => initial(),
            GETATTR => root_attributes(),
            _ => {
                asked.store(true, Ordering::Relaxed);
                continue;
            }
        };
        let mut reply = Vec::new();
        reply.extend((16 + body.len() as u32).to_ne_bytes());
        reply.extend(0u32.to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(body);
        let _ = device.write(&reply);
    }
}

/// What is asked, and the number of the question.
fn header(request: &[u8]) -> Option<(u32, u64)> {
    let opcode = u32::from_ne_bytes(request.get(4..8)?.try_into().ok()?);
    let unique = u64::from_ne_bytes(request.get(8..16)?.try_into().ok()?);
    Some((opcode, unique))
}

/// `struct fuse_init_out` of version 7.41: nothing that need not be, but that mounts may map ids, without which no
/// container gets a volume.
fn initial() -> Vec<u8> {
    const INIT_EXT: u32 = 1 << 30;
    const ALLOW_IDMAP: u32 = 1 << (40 - 32);
    const WRITE_BYTES_MAX: u32 = 4096;
    let mut body = vec![0; 64];
    for (at, number) in [(0, 7u32), (4, 41), (12, INIT_EXT), (20, WRITE_BYTES_MAX), (32, ALLOW_IDMAP)] {
        body[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    body
}

/// `struct fuse_attr_out` of a directory that all may read.
fn root_attributes() -> Vec<u8> {
    let mut body = vec![0; 104];
    // Valid for an hour.
    body[..8].copy_from_slice(&3600u64.to_ne_bytes());
    // The number of the root is 1.
    body[16..24].copy_from_slice(&1u64.to_ne_bytes());
    body[76..80].copy_from_slice(&0o40_755u32.to_ne_bytes());
    body[80..84].copy_from_slice(&2u32.to_ne_bytes());
    body
}
