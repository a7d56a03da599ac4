//! Rows 51 and 52: files of the kernel. Row 54: programs of the runtime. Row 57: devices.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::kernel::{Outcome, attempt, call, say, text};

/// How deep trees are searched; sysfs is deeper only through its links, which are not followed.
const DEPTH_MAX: usize = 24;

/// Where clients of a server are kept waiting.
const PORT: u16 = 7070;

fn error_of(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Opens each path for writing and writes what it holds already, so that success changes nothing.
pub(crate) fn write(paths: &[&str]) {
    for path in paths {
        attempt(path, || {
            let held = fs::read(path).unwrap_or_default();
            let mut file = OpenOptions::new().write(true).open(path).map_err(error_of)?;
            let held = if held.is_empty() { b"0".as_slice() } else { &held };
            file.write(held).map_err(error_of)
        });
    }
}

/// Reads a little of each path: of files how much there is, of directories how many entries.
pub(crate) fn read(paths: &[&str]) {
    for path in paths {
        let is_dir = fs::metadata(path).is_ok_and(|meta| meta.is_dir());
        let amount = if is_dir { fs::read_dir(path).map(Iterator::count) } else { read_some(path) };
        match amount {
            Ok(0) => say(path, "empty"),
            Ok(_) => say(path, "something"),
            Err(error) => say(path, crate::kernel::error_name(error_of(error))),
        }
    }
}

fn read_some(path: &str) -> std::io::Result<usize> {
    File::open(path)?.read(&mut [0; 64])
}

/// Prints every file below these directories that can be opened for writing.
pub(crate) fn writable(directories: &[&str]) {
    for directory in directories {
        let (mut seen, mut found) = (0, Vec::new());
        walk(Path::new(directory), 0, &mut |path, is_dir| {
            seen += 1;
            let is_open = if is_dir {
                let new = path.join("intruder");
                fs::create_dir(&new).is_ok_and(|()| fs::remove_dir(&new).is_ok())
            } else {
                OpenOptions::new().write(true).open(path).is_ok()
            };
            if is_open {
                found.push(path.display().to_string());
            }
        });
        found.sort();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(" ") };
        say(directory, format!("{}, writable: {found}", if seen > 0 { "searched" } else { "nothing there" }));
    }
}

fn walk(path: &Path, depth: usize, look: &mut impl FnMut(&Path, bool)) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            continue;
        }
        look(&entry.path(), kind.is_dir());
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), depth + 1, look);
        }
    }
}

/// Rows 51 and 59: control groups, whose `release_agent` would be run by the host (CVE-2022-0492).
pub(crate) fn cgroups() {
    let (mut agents, mut above) = (0, 0);
    walk(Path::new("/sys/fs/cgroup"), 0, &mut |path, _| {
        agents += usize::from(path.ends_with("release_agent"));
        // What is in the root of a hierarchy alone tells that it is not the task's own group.
        above += usize::from(path.ends_with("cgroup.sane_behavior"));
    });
    say("files called release_agent", agents);
    say("roots of hierarchies", above);
    writable(&["/sys/fs/cgroup"]);
    attempt("mount a hierarchy", || {
        call(libc::SYS_mount, &[text(c"none"), text(c"/tmp"), text(c"cgroup"), 0, text(c"rdma")])
    });
    attempt("unshare cgroup", || call(libc::SYS_unshare, &[libc::CLONE_NEWCGROUP as usize]));
}

/// Devices of hosts: by name, and made under other names by their numbers.
pub(crate) fn devices() {
    let mut names: Vec<String> = fs::read_dir("/dev")
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    names.sort();
    say("/dev", names.join(" "));
    for name in [
        "mem",
        "kmsg",
        "port",
        "sda",
        "vda",
        "nvme0n1",
        "kvm",
        "fuse",
        "loop-control",
        "loop0",
        "net/tun",
        "rtc",
        "uinput",
        "dri/card0",
        "vhost-net",
        "vsock",
        "console",
        "tty",
    ] {
        attempt(&format!("open /dev/{name}"), || {
            File::open(format!("/dev/{name}")).map(|_| 0).map_err(error_of)
        });
    }
    for (name, kind, major, minor) in [
        ("mem", libc::S_IFCHR, 1, 1),
        ("null", libc::S_IFCHR, 1, 3),
        ("port", libc::S_IFCHR, 1, 4),
        ("kmsg", libc::S_IFCHR, 1, 11),
        ("tun", libc::S_IFCHR, 10, 200),
        ("fuse", libc::S_IFCHR, 10, 229),
        ("kvm", libc::S_IFCHR, 10, 232),
        ("loop-control", libc::S_IFCHR, 10, 237),
        ("loop0", libc::S_IFBLK, 7, 0),
        ("sda", libc::S_IFBLK, 8, 0),
        ("vda", libc::S_IFBLK, 254, 0),
        ("nvme0n1", libc::S_IFBLK, 259, 0),
    ] {
        for directory in ["/tmp", "/dev", "/dev/shm"] {
            attempt(&format!("make {directory}/{name}"), || {
                make_and_open(directory, name, kind, libc::makedev(major, minor))
            });
        }
    }
    attempt("make a FIFO", || make("/tmp/fifo", libc::S_IFIFO, 0));
    let mut byte = [0];
    attempt("read /dev/zero", || {
        File::open("/dev/zero").and_then(|mut file| file.read(&mut byte)).map_err(error_of)
    });
    attempt("write /dev/full", || {
        OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .and_then(|mut file| file.write(b"x"))
            .map_err(error_of)
    });
}

/// Makes a device and opens it; both must work for it to be of use.
fn make_and_open(directory: &str, name: &str, kind: libc::mode_t, device: libc::dev_t) -> Outcome {
    let path = format!("{directory}/made-{name}");
    make(&path, kind, device)?;
    File::open(path).map(|_| 0).map_err(error_of)
}

fn make(path: &str, kind: libc::mode_t, device: libc::dev_t) -> Outcome {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    call(libc::SYS_mknodat, &[libc::AT_FDCWD as usize, text(&path), (kind | 0o666) as usize, device as usize])
}

/// Row 54: looks for so many milliseconds for processes that do not run this program (a process of the runtime on its
/// way into the task is one), and tries to write to what they run. Prints what was seen and what came of it.
///
/// Meanwhile it listens on [`PORT`] and answers nobody, which keeps a program waiting that was led there.
pub(crate) fn programs(arguments: &[&str]) {
    let milliseconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(milliseconds);
    let own = fs::metadata("/proc/self/exe").map(|meta| identity(&meta)).ok();
    let (mut outcomes, mut programs, mut kept) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let listener = std::net::TcpListener::bind(("127.0.0.1", PORT));
    println!("looking");
    while Instant::now() < deadline {
        for process in processes() {
            let path = process.join("exe");
            match fs::metadata(&path) {
                Ok(meta) if Some(identity(&meta)) == own => continue,
                Ok(_) => {}
                Err(error) => {
                    outcomes.insert(format!("look: {}", crate::kernel::error_name(error_of(error))));
                    continue;
                }
            }
            if let Ok(name) = fs::read_link(&path) {
                programs.insert(name.display().to_string());
            }
            if kept.len() < 64
                && let Ok(handle) = open(&path, libc::O_PATH)
            {
                kept.push(handle);
            }
            outcomes.insert(format!("write: {}", crate::kernel::name(overwrite(&path))));
        }
    }
    // The way of CVE-2019-5736: a handle that is opened again once its process has ended.
    for handle in &kept {
        use std::os::fd::AsRawFd as _;
        let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        outcomes.insert(format!("write later: {}", crate::kernel::name(overwrite(&path))));
    }
    drop(listener);
    say("programs", programs.into_iter().collect::<Vec<_>>().join(" "));
    outcomes.iter().for_each(|outcome| println!("{outcome}"));
}

fn identity(meta: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (meta.dev(), meta.ino())
}

fn processes() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let is_process =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes()[0].is_ascii_digit());
    entries.flatten().map(|entry| entry.path()).filter(is_process).collect()
}

fn open(path: &Path, flags: i32) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Writes the first byte of a program over itself, and cuts nothing off.
fn overwrite(path: &Path) -> Outcome {
    let mut first = [0x7f];
    if let Ok(mut file) = File::open(path) {
        file.read_exact(&mut first).map_err(error_of)?;
    }
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write(&first)).map_err(error_of)
}
