//! Volumes, mount points and memory file systems of `RegisterTaskDefinition`'s input.

use std::path::{Component, Path};

use neargate_model::policy::{Asked, Forbidden};
use neargate_model::validate::CONTAINERS_MAX;
use neargate_model::{ContainerDefinition, MountPoint, Policy, SharedVolume, Tmpfs, TmpfsOptions, Volume};
use neargate_wire::ecs::{self, EcsError};

use super::error::client;
use super::register::{MEMORY_FILES_MIB_MAX, bounded};
use super::volume_options::{MemoryVolume, memory_volume};

/// The longest name of a shared volume: that of a file (`NAME_MAX`).
const DOCKER_NAME_MAX: usize = 255;

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
pub(super) fn tmpfs_option(tmpfs: &mut Tmpfs, option: &str) -> Result<(), &'static str> {
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

pub(super) fn volumes(input: &[ecs::Volume], policy: &Policy) -> Result<Vec<Volume>, EcsError> {
    let mut volumes: Vec<Volume> = Vec::new();
    for volume in input {
        let name = volume.name.clone().unwrap_or_default();
        if name.is_empty() || volumes.iter().any(|earlier| earlier.name == name) {
            return Err(client("Invalid 'volumes' setting: every volume needs a name of its own."));
        }
        let is_foreign = volume.efs_volume_configuration.is_some()
            || volume.fsx_windows_file_server_volume_configuration.is_some()
            || volume.s3files_volume_configuration.is_some()
            || volume.configured_at_launch == Some(true);
        if is_foreign {
            let message = format!(
                "Volume {name:.64} is of a kind that Neargate does not support; use a host or Docker volume."
            );
            return Err(client(message));
        }
        let source = volume.host.as_ref().and_then(|host| host.source_path.clone());
        let host_path = source.filter(|path| !path.is_empty());
        let host_path = host_path.map(|path| real_host_path(&path, policy)).transpose()?;
        let shared = volume.docker_volume_configuration.as_ref().map(|docker| shared(&name, docker));
        let shared = shared.transpose()?.flatten();
        if host_path.is_some() && volume.docker_volume_configuration.is_some() {
            return Err(client(format!(
                "Volume {name:.64}: host and dockerVolumeConfiguration exclude each other."
            )));
        }
        volumes.push(Volume { name, host_path, shared });
    }
    Ok(volumes)
}

/// The volumes that are in memory.
pub(super) fn in_memory(input: &[ecs::Volume]) -> Result<Vec<MemoryVolume>, EcsError> {
    let memory = |volume: &ecs::Volume| {
        let name = volume.name.as_deref().unwrap_or_default();
        let options = volume.docker_volume_configuration.as_ref()?.driver_opts.as_ref()?;
        let refuse =
            |why| client(format!("Invalid 'dockerVolumeConfiguration' of volume {name:.64}: {why}."));
        memory_volume(name, options).map_err(refuse).transpose()
    };
    input.iter().filter_map(memory).collect()
}

/// A Docker volume of scope `shared`; one of scope `task` is like a volume that says nothing.
fn shared(name: &str, docker: &ecs::DockerVolumeConfiguration) -> Result<Option<SharedVolume>, EcsError> {
    let refuse =
        |why: &str| Err(client(format!("Invalid 'dockerVolumeConfiguration' of volume {name:.64}: {why}.")));
    if docker.driver.as_deref().is_some_and(|driver| driver != "local") {
        return refuse("the only driver is local");
    }
    if docker.driver_opts.as_ref().is_some_and(|options| !options.is_empty())
        && docker.scope == Some(ecs::Scope::Shared)
    {
        return refuse("driverOpts are for the scope task: what is in memory does not outlive tasks");
    }
    match &docker.scope {
        None | Some(ecs::Scope::Task) if docker.autoprovision == Some(true) => {
            refuse("autoprovision is for the scope shared")
        }
        None | Some(ecs::Scope::Task) => Ok(None),
        Some(ecs::Scope::Shared) if !is_docker_name(name) => refuse(
            "the name of a shared volume has letters, digits, '_', '.' and '-', and begins with a letter or digit",
        ),
        Some(ecs::Scope::Shared) => {
            Ok(Some(SharedVolume { autoprovision: docker.autoprovision.unwrap_or(false) }))
        }
        Some(ecs::Scope::Unlisted(_)) => refuse("known scopes are task and shared"),
    }
}

fn is_docker_name(name: &str) -> bool {
    name.len() <= DOCKER_NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Gives containers the mount points of those that their `volumesFrom` names: what these mount themselves, and
/// what they have from others. A container's own mount point at the same path stays.
pub(super) fn inherit(
    inputs: &[ecs::ContainerDefinition],
    containers: &mut [ContainerDefinition],
) -> Result<(), EcsError> {
    // More are refused later; they need not be followed.
    if containers.len() > CONTAINERS_MAX {
        return Ok(());
    }
    let mut found = Inherited {
        inputs,
        own: containers.iter().map(|container| container.mount_points.clone()).collect(),
        whole: vec![None; containers.len()],
    };
    for (index, container) in containers.iter_mut().enumerate() {
        container.mount_points = found.mounts_of(index, &mut Vec::new())?;
    }
    Ok(())
}

/// The mount points of containers, by their index.
struct Inherited<'a> {
    inputs: &'a [ecs::ContainerDefinition],
    /// Without those of others.
    own: Vec<Vec<MountPoint>>,
    /// With them, where that is known; each is worked out once.
    whole: Vec<Option<Vec<MountPoint>>>,
}

impl Inherited<'_> {
    fn mounts_of(&mut self, index: usize, asking: &mut Vec<usize>) -> Result<Vec<MountPoint>, EcsError> {
        if let Some(mounts) = &self.whole[index] {
            return Ok(mounts.clone());
        }
        let inputs = self.inputs;
        let name = inputs[index].name.as_deref().unwrap_or_default();
        let refuse =
            |why: String| Err(client(format!("Invalid 'volumesFrom' of container '{name}': {why}.")));
        if asking.contains(&index) {
            return refuse("it would get its own volumes".to_owned());
        }
        asking.push(index);
        let mut mounts = self.own[index].clone();
        for from in inputs[index].volumes_from.iter().flatten() {
            let source = from.source_container.as_deref().unwrap_or_default();
            let Some(source) = inputs.iter().position(|input| input.name.as_deref() == Some(source)) else {
                return refuse(format!("there is no container {source:.64?}"));
            };
            for mount in self.mounts_of(source, asking)? {
                if !mounts.iter().any(|earlier| earlier.container_path == mount.container_path) {
                    let read_only = mount.read_only || from.read_only == Some(true);
                    mounts.push(MountPoint { read_only, ..mount });
                }
            }
        }
        asking.pop();
        self.whole[index] = Some(mounts.clone());
        Ok(mounts)
    }
}

/// The path that a host path leads to, which must lie below a directory that the operator allows.
///
/// It is kept without links, and the driver refuses to mount through any: whoever may write to a directory on the
/// way, as a task with a volume may, could otherwise put a link there after this check.
fn real_host_path(path: &str, policy: &Policy) -> Result<String, EcsError> {
    let is_plain = path.starts_with('/')
        && Path::new(path).components().all(|part| !matches!(part, Component::ParentDir));
    let real = std::fs::canonicalize(path).ok().filter(|_| is_plain);
    let is_allowed = |real: &std::path::PathBuf| policy.host_path(real).is_some();
    let real = real.filter(is_allowed).and_then(|real| real.into_os_string().into_string().ok());
    real.ok_or_else(|| {
        client(format!(
            "{}. The path must exist, too, and the user whom the server runs as must be let through to it.",
            Forbidden(Asked::HostPath(path.to_owned()))
        ))
    })
}

#[cfg(test)]
mod tests {
    use neargate_model::policy::HostPath;

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
    fn host_paths_are_kept_without_links() {
        let directory = tempfile::tempdir().unwrap();
        let allowed = directory.path().canonicalize().unwrap().join("allowed");
        std::fs::create_dir_all(allowed.join("data")).unwrap();
        std::os::unix::fs::symlink("data", allowed.join("inside")).unwrap();
        std::os::unix::fs::symlink(directory.path(), allowed.join("outside")).unwrap();
        let host_path = HostPath { path: allowed.clone(), read_only: false };
        let policy = Policy { host_paths: vec![host_path], ..Policy::default() };
        let check = |path: &str, expect: Option<&str>| {
            let given = format!("{}{path}", allowed.display());
            let expect = expect.map(|path| format!("{}{path}", allowed.display()));
            assert_eq!(real_host_path(&given, &policy).ok(), expect, "{path}");
        };
        check("", Some(""));
        check("/data", Some("/data"));
        check("/inside", Some("/data"));
        check("/outside", None);
        check("/absent", None);
        check("/data/..", None);
        check("-beside", None);
        assert!(real_host_path("data", &policy).is_err());
    }

    fn mount(volume: &str, path: &str) -> MountPoint {
        MountPoint { volume: volume.to_owned(), container_path: path.to_owned(), read_only: false }
    }

    /// The mount points of containers a, b, … that mount `/NAME` of volume NAME and whose volumesFrom are given.
    fn inherited(from: &[&[(&str, bool)]]) -> Result<Vec<Vec<MountPoint>>, EcsError> {
        let names = ["a", "b", "c", "d"];
        let volumes_from = |from: &[(&str, bool)]| {
            let entry = |(source, read_only): &(&str, bool)| ecs::VolumeFrom {
                source_container: Some((*source).to_owned()),
                read_only: Some(*read_only),
            };
            from.iter().map(entry).collect()
        };
        let input = |(name, from): (&&str, &&[(&str, bool)])| ecs::ContainerDefinition {
            name: Some((*name).to_owned()),
            volumes_from: Some(volumes_from(from)),
            ..Default::default()
        };
        let inputs: Vec<_> = names.iter().zip(from).map(input).collect();
        let container = |name: &&str| ContainerDefinition {
            mount_points: vec![mount(name, &format!("/{name}")), mount(name, "/own")],
            ..neargate_model::lifecycle::testing::container(name)
        };
        let mut containers: Vec<_> = names.iter().take(from.len()).map(container).collect();
        inherit(&inputs, &mut containers)?;
        Ok(containers.into_iter().map(|container| container.mount_points).collect())
    }

    #[test]
    fn volumes_come_from_other_containers() {
        let found = inherited(&[&[("b", true)], &[("c", false)], &[]]).unwrap();
        let read_only = |volume, path| MountPoint { read_only: true, ..mount(volume, path) };
        assert_eq!(
            found[0],
            [mount("a", "/a"), mount("a", "/own"), read_only("b", "/b"), read_only("c", "/c")]
        );
        assert_eq!(found[1], [mount("b", "/b"), mount("b", "/own"), mount("c", "/c")]);
        assert_eq!(found[2], [mount("c", "/c"), mount("c", "/own")]);
        let diamond =
            inherited(&[&[("b", false), ("c", false)], &[("d", false)], &[("d", true)], &[]]).unwrap();
        assert_eq!(diamond[0].iter().filter(|mount| mount.container_path == "/d").count(), 1);
        let error = |from| format!("{:?}", inherited(from).unwrap_err());
        assert!(error(&[&[("a", false)]]).contains("its own volumes"));
        assert!(error(&[&[("b", false)], &[("a", false)]]).contains("its own volumes"));
        assert!(error(&[&[("x", false)]]).contains("there is no container"));
    }

    #[test]
    fn docker_volumes() {
        let read = |name: &str, scope, autoprovision| {
            let docker = ecs::DockerVolumeConfiguration { scope, autoprovision, ..Default::default() };
            shared(name, &docker).map(|shared| shared.map(|shared| shared.autoprovision))
        };
        assert_eq!(read("v", None, None), Ok(None));
        assert_eq!(read("any name", Some(ecs::Scope::Task), None), Ok(None));
        assert_eq!(read("v.1", Some(ecs::Scope::Shared), None), Ok(Some(false)));
        assert_eq!(read("v", Some(ecs::Scope::Shared), Some(true)), Ok(Some(true)));
        assert!(read("v", Some(ecs::Scope::Task), Some(true)).is_err());
        assert!(read("../v", Some(ecs::Scope::Shared), Some(true)).is_err());
        assert!(read(".v", Some(ecs::Scope::Shared), Some(true)).is_err());
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
