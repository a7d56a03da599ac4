//! What the machine boots from: an initramfs that finds the disk, and the disk, whose first program runs the
//! suites.
//!
//! The root directory is ext4 because layers are id-mapped mounts, which tmpfs knows only since Linux 6.3.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::kernel::Kernel;
use super::programs::Programs;
use crate::shell::{command, run};

/// What the machine's own lines on the console begin with.
pub(crate) const MARK: &str = "vm: ";
/// What its last line begins with.
pub(crate) const RESULT: &str = "vm: result: ";

/// The size of the disk, of which only what is written takes room: the suites write up to 2 GiB.
const DISK_SIZE: &str = "6G";
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Loads the modules, mounts the disk, and goes on there.
const FIRST_INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module || echo \"vm: insmod $module failed\"; done
/bin/busybox mount -t ext4 /dev/vda /disk
/bin/busybox mount --move /dev /disk/dev
exec /bin/busybox switch_root /disk /init
";

/// Makes a system like one that systemd has started: all controllers in v2, with the options that it mounts them
/// with, and itself in a group beside which others can be made.
const INIT_HEAD: &str = "\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/bin HOME=/root TMPDIR=/tmp
export CARGO_TARGET_DIR=/target NEARGATE_BIN=/usr/bin/neargate
/bin/busybox --install -s /bin
# Whoever has made the disk is the owner of its files.
chown -hR 0:0 /bin /etc /init /lib* /root /suites /target /tmp /usr
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /sys/fs/cgroup/init.scope
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
echo 1 > /sys/fs/cgroup/init.scope/cgroup.procs
chmod 1777 /tmp /dev/shm
ip link set lo up
echo \"vm: Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)\"
programs=0
failed=0
run() {
    name=$1
    shift
    echo \"vm: run $name\"
    \"$@\" < /dev/null 2>&1
    code=$?
    echo \"vm: $name ended with $code after $(cut -d. -f1 /proc/uptime) s\"
    programs=$((programs + 1))
    [ $code = 0 ] || failed=$((failed + 1))
}
";

const INIT_TAIL: &str = "\
echo \"vm: result: $programs programs, $failed failed\"
sync
poweroff -f
";

/// A directory with two files for qemu.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) directory: PathBuf,
}

impl Images {
    pub(crate) const INITRAMFS: &str = "initramfs";
    pub(crate) const DISK: &str = "disk";

    /// Makes both in `directory`, anew.
    pub(crate) fn make(
        directory: &Path,
        kernel: &Kernel,
        programs: &Programs,
        filters: &[&str],
    ) -> Result<Self> {
        let disk = directory.join(Self::DISK);
        let tree = tempfile::tempdir_in(directory).context("make a directory for the images")?;
        let first = tree.path().join("initramfs");
        fill_initramfs(&first, kernel)?;
        pack(&first, &directory.join(Self::INITRAMFS))?;
        let root = tree.path().join("disk");
        fill_disk(&root, programs, &init(programs, filters)?)?;
        // What the last run has written is not of use to this one.
        let _ = fs::remove_file(&disk);
        let mut format = command("mkfs.ext4", &["-q", "-F", "-E", "root_owner=0:0", "-d"]);
        run(format.arg(&root).arg(&disk).arg(DISK_SIZE).env("PATH", path_with_sbin()?))?;
        Ok(Self { directory: directory.to_owned() })
    }
}

/// The programs of file systems are where only root's PATH leads.
fn path_with_sbin() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(more)).context("make a PATH with mkfs.ext4")
}

fn fill_initramfs(root: &Path, kernel: &Kernel) -> Result<()> {
    make_directories(root, &["bin", "dev", "disk", "modules"])?;
    copy(&busybox()?, &root.join("bin/busybox"))?;
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        copy(module, &root.join(format!("modules/{number:02}-{name}")))?;
    }
    write_script(&root.join("init"), FIRST_INIT)
}

fn fill_disk(root: &Path, programs: &Programs, init: &str) -> Result<()> {
    make_directories(
        root,
        &["bin", "dev", "etc", "proc", "root", "suites", "sys", "target", "tmp", "usr/bin"],
    )?;
    copy(&busybox()?, &root.join("bin/busybox"))?;
    if let Some(binary) = &programs.binary {
        copy(binary, &root.join("usr/bin/neargate"))?;
    }
    for (name, file) in &programs.suites {
        copy(file, &root.join("suites").join(name))?;
    }
    for file in &programs.same {
        let inside = root.join(file.strip_prefix("/").unwrap_or(file));
        make_directories(inside.parent().unwrap_or(root), &[""])?;
        copy(file, &inside)?;
    }
    run(command("cp", &["-a"]).arg(&programs.fixtures).arg(root.join("target/fixtures")))?;
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    fs::write(root.join("etc/passwd"), users).context("write the machine's users")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").context("write its groups")?;
    write_script(&root.join("init"), init)
}

/// The first program of the disk.
fn init(programs: &Programs, filters: &[&str]) -> Result<String> {
    for filter in filters {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-/:".contains(c);
        ensure!(filter.chars().all(is_plain), "the filter {filter:?} is no part of a case's name");
    }
    let mut script = INIT_HEAD.to_owned();
    for (name, _) in &programs.suites {
        writeln!(script, "run {name} /suites/{name} {}", filters.join(" ")).context("write init")?;
    }
    script.push_str(INIT_TAIL);
    Ok(script)
}

fn busybox() -> Result<PathBuf> {
    let found = BUSYBOX.iter().map(PathBuf::from).find(|path| path.exists());
    found.context("find busybox; install the package busybox-static")
}

fn make_directories(root: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make init executable")
}

/// Writes a directory as an archive that the kernel unpacks.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut names = String::new();
    list(root, Path::new(""), &mut names)?;
    let file = fs::File::create(archive).with_context(|| format!("create {}", archive.display()))?;
    let mut cpio = command(busybox()?, &["cpio", "-o", "-H", "newc"]);
    let cpio = cpio.current_dir(root).stdin(Stdio::piped()).stdout(file).stderr(Stdio::null());
    let mut cpio = cpio.spawn().context("start busybox cpio")?;
    let mut input = cpio.stdin.take().context("stdin is piped")?;
    input.write_all(names.as_bytes()).context("tell cpio the files")?;
    drop(input);
    let status = cpio.wait().context("wait for cpio")?;
    ensure!(status.success(), "busybox cpio ended with {status}");
    Ok(())
}

/// Lists what is in a directory, each directory before what is in it.
fn list(root: &Path, below: &Path, names: &mut String) -> Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let mut entries: Vec<_> = entries.flatten().map(|entry| below.join(entry.file_name())).collect();
    entries.sort();
    for path in entries {
        writeln!(names, "{}", path.display()).context("list files")?;
        if root.join(&path).is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
