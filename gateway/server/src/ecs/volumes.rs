//! Volumes, mount points and memory file systems of `RegisterTaskDefinition`'s input.

use std::path::{Component, Path};

use neargate_model::{MountPoint, Tmpfs, TmpfsOptions, Volume};
use neargate_wire::ecs::{self, EcsError};

use super::TaskPolicy;
use super::error::client;
use super::register::{MEMORY_FILES_MIB_MAX, bounded};

fn container_path(path: &str, what: &str) -> Result<String, EcsError> {
    let forbidden = ["/", "/proc", "/sys", "/dev"];
    let is_plain = path.starts_with('/')
        && !path.contains('\0')
        && Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let normal: String = Path::new(path).components().collect::<std::path::PathBuf>().display().to_string();
    let is_below = |dir: &&str| normal == **dir || (**dir != *"/" && normal.starts_with(&format!("{dir}/")));
    if !is_plain || forbidden.iter().any(is_below) {
        return Err(client(format!("Invalid '{what}' setting: {path:.128?} cannot be mounted over.")));
    }
    Ok(normal)
}

pub(super) fn mount_point(input: &ecs::MountPoint) -> Result<MountPoint, EcsError> {
    let path = input.container_path.as_deref().unwrap_or_default();
    Ok(MountPoint {
        volume: input.source_volume.clone().unwrap_or_default(),
        container_path: container_path(path, "mountPoints.containerPath")?,
        read_only: input.read_only.unwrap_or(false),
    })
}

pub(super) fn tmpfs(input: &ecs::Tmpfs) -> Result<Tmpfs, EcsError> {
    let mut tmpfs = Tmpfs {
        container_path: container_path(&input.container_path, "tmpfs.containerPath")?,
        size_mib: bounded(Some(input.size), "tmpfs.size", 1, 1, MEMORY_FILES_MIB_MAX)?,
        read_only: false,
        options: TmpfsOptions::default(),
    };
    for option in input.mount_options.iter().flatten() {
        tmpfs_option(&mut tmpfs, option).map_err(|why| {
            client(format!("Invalid 'tmpfs.mountOptions' setting: {option:.64?} is not supported: {why}."))
        })?;
    }
    Ok(tmpfs)
}

/// One of the options that the API reference lists. The size is a field of its own; what concerns others than
/// the mount itself, or would let the container have devices or another user's rights, is refused.
fn tmpfs_option(tmpfs: &mut Tmpfs, option: &str) -> Result<(), &'static str> {
    let options = &mut tmpfs.options;
    match option.split_once('=').unwrap_or((option, "")) {
        ("ro", "") => tmpfs.read_only = true,
        ("rw", "") => tmpfs.read_only = false,
        ("exec", "") => options.exec = true,
        ("noexec", "") => options.exec = false,
        // As it is in any case; a file system in memory has nothing to synchronise.
        (
            "defaults" | "nosuid" | "nodev" | "nomand" | "sync" | "async" | "dirsync" | "private"
            | "rprivate",
            "",
        ) => {}
        ("suid" | "dev", "") => return Err("set-user-ID programs and devices never work in a volume"),
        ("mode", text) => options.mode = Some(mode(text).ok_or("octal digits up to 1777 are needed")?),
        ("uid", text) => options.uid = id(text).ok_or("a number up to 65535 is needed")?,
        ("gid", text) => options.gid = id(text).ok_or("a number up to 65535 is needed")?,
        ("nr_inodes", text) => {
            let count = text.parse().ok().filter(|count| *count > 0);
            options.inodes_max = Some(count.ok_or("a whole number above 0 is needed")?);
        }
        ("size", _) => return Err("say it in tmpfs.size"),
        _ => {
            return Err(
                "known are defaults, ro, rw, exec, noexec, nosuid, nodev, mode, uid, gid and nr_inodes",
            );
        }
    }
    Ok(())
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o1777)
}

/// A user or group of a container, which has 65,536 of each.
fn id(text: &str) -> Option<u32> {
    text.parse::<u16>().ok().map(u32::from)
}

pub(super) fn volumes(input: &[ecs::Volume], policy: &TaskPolicy) -> Result<Vec<Volume>, EcsError> {
    let mut volumes: Vec<Volume> = Vec::new();
    for volume in input {
        let name = volume.name.clone().unwrap_or_default();
        if name.is_empty() || volumes.iter().any(|earlier| earlier.name == name) {
            return Err(client("Invalid 'volumes' setting: every volume needs a name of its own."));
        }
        let is_foreign = volume.efs_volume_configuration.is_some()
            || volume.fsx_windows_file_server_volume_configuration.is_some()
            || volume.s3files_volume_configuration.is_some()
            || volume.docker_volume_configuration.is_some()
            || volume.configured_at_launch == Some(true);
        if is_foreign {
            let message =
                format!("Volume {name:.64} is of a kind that Neargate does not support; use a host volume.");
            return Err(client(message));
        }
        let source = volume.host.as_ref().and_then(|host| host.source_path.clone());
        let host_path = source.filter(|path| !path.is_empty());
        if let Some(path) = &host_path {
            check_host_path(path, policy)?;
        }
        volumes.push(Volume { name, host_path });
    }
    Ok(volumes)
}

/// A host path must lie below a directory that the operator allows, after links are resolved: a link that
/// points elsewhere later is caught when it is mounted.
fn check_host_path(path: &str, policy: &TaskPolicy) -> Result<(), EcsError> {
    let is_plain = Path::new(path).components().all(|part| !matches!(part, Component::ParentDir));
    let real = std::fs::canonicalize(path).ok();
    let allowed = |dir: &std::path::PathBuf| real.as_ref().is_some_and(|real| real.starts_with(dir));
    if path.starts_with('/') && is_plain && policy.host_paths.iter().any(allowed) {
        return Ok(());
    }
    Err(client(format!(
        "host.sourcePath {path:.128?} is refused: it is not an existing path below a directory that the operator \
         allows with --allow-host-path."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(container_path(path, "x").ok().as_deref(), expect, "{path}");
        };
        check("/data", Some("/data"));
        check("/data//x/", Some("/data/x"));
        check("data", None);
        check("/", None);
        check("/proc", None);
        check("/sys/fs", None);
        check("/device", Some("/device"));
        check("/a/../b", None);
    }

    #[test]
    fn options_of_tmpfs() {
        let read = |options: &[&str]| {
            let input = ecs::Tmpfs {
                container_path: "/t".to_owned(),
                size: 3,
                mount_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            };
            tmpfs(&input).map(|tmpfs| (tmpfs.read_only, tmpfs.options)).map_err(|error| format!("{error:?}"))
        };
        let plain = TmpfsOptions::default;
        assert_eq!(read(&[]), Ok((false, plain())));
        assert_eq!(read(&["defaults", "nosuid", "nodev", "noexec", "rw"]), Ok((false, plain())));
        assert_eq!(read(&["ro", "exec"]), Ok((true, TmpfsOptions { exec: true, ..plain() })));
        let owned = TmpfsOptions { exec: false, mode: Some(0o700), uid: 1000, gid: 7, inodes_max: Some(9) };
        assert_eq!(read(&["mode=700", "uid=1000", "gid=7", "nr_inodes=9"]), Ok((false, owned)));
        for bad in [
            "suid",
            "dev",
            "size=100%",
            "mode=4777",
            "mode=",
            "uid=65536",
            "gid=-1",
            "nr_inodes=0",
            "ro=1",
            "huge",
        ] {
            let error = read(&[bad]).unwrap_err();
            assert!(error.contains(&format!("{bad:?}").replace('"', "\\\"")), "{bad}: {error}");
        }
    }
}
