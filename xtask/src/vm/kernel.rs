//! The machine's kernel: Debian's for clouds, out of its package. It is not installed on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use neargate_tests::is_root;

use crate::shell::{command, output, run};

/// The package that depends on the newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// The drivers of the disk, overlay and what the network of tasks is made of, each behind those that it needs: nothing in
/// the machine loads one when it is wanted. ext4 is a part of the kernel.
const MODULES: [&str; 32] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "crc32c_generic",
    "libcrc32c",
    "nfnetlink",
    "nf_tables",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_chain_nat",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nft_objref",
    "nft_limit",
    "nf_conncount",
    "nft_connlimit",
    "nf_conntrack_netlink",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "vxlan",
];

/// A kernel and what the machine loads into it.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What qemu starts.
    pub(crate) image: PathBuf,
    /// Files of modules, in the order in which they are loaded.
    pub(crate) modules: Vec<PathBuf>,
}

/// The newest kernel of this machine's Debian, downloaded into `directory` unless it is there.
pub(crate) fn get(directory: &Path) -> Result<Kernel> {
    let package = newest()?;
    let unpacked = directory.join(&package);
    if !unpacked.exists() {
        download(directory, &package)?;
    }
    let modules = unpacked.join("lib/modules");
    let version = package.trim_start_matches("linux-image-");
    let builtin = modules.join(version).join("modules.builtin");
    let builtin = fs::read_to_string(&builtin).with_context(|| format!("read {}", builtin.display()))?;
    let is_file = |name: &&str| !builtin.contains(&format!("/{name}.ko"));
    let modules = MODULES.iter().copied().filter(is_file).map(|name| find(&modules, name));
    let image = unpacked.join(format!("boot/vmlinuz-{version}"));
    ensure!(image.exists(), "{package} has no {}", image.display());
    Ok(Kernel { image, modules: modules.collect::<Result<_>>()? })
}

/// The package with the kernel that `PACKAGE` depends on.
fn newest() -> Result<String> {
    let ask = || output(&mut command("apt-cache", &["depends", PACKAGE]));
    let depends = ask().or_else(|error| {
        // Package lists are absent on a new machine, and only root can get them.
        ensure!(is_root(), "{error:#}; as root, run: apt-get update");
        run(&mut command("apt-get", &["update", "--quiet"]))?;
        ask()
    })?;
    let kernel = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let kernel = kernel.with_context(|| format!("{PACKAGE} depends on no kernel: {depends:?}"))?;
    Ok(format!("linux-image-{kernel}"))
}

fn download(directory: &Path, package: &str) -> Result<()> {
    let unfinished = directory.join(format!("{package}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("remove {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    run(command("apt-get", &["download", "--quiet", package]).current_dir(&unfinished))?;
    let mut entries = fs::read_dir(&unfinished).context("look for the kernel's package")?.flatten();
    let file = entries.next().with_context(|| format!("apt-get download {package} left no file"))?.path();
    run(command("dpkg-deb", &["--extract"]).arg(&file).arg(&unfinished))?;
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    let done = directory.join(package);
    fs::rename(&unfinished, &done).with_context(|| format!("rename {}", unfinished.display()))
}

/// The file of a module, compressed or not.
fn find(directory: &Path, name: &str) -> Result<PathBuf> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko")) {
                return Ok(path);
            }
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
    anyhow::bail!("the kernel has no module {name} below {}", directory.display())
}
