//! `driverOpts` of Docker volumes: a memory file system with a size.
//!
//! Docker's `local` driver takes what mount(8) does. Of that a volume in memory (`type=tmpfs`) is given, because it is
//! also the one kind that has a size on every machine. Everything else would mount what the host has.

use std::collections::BTreeMap;

use neargate_model::{ContainerDefinition, Tmpfs, TmpfsOptions, Volume};
use neargate_wire::ecs::EcsError;

use super::error::client;
use super::register::{MEMORY_FILES_MIB_MAX, bytes};
use super::volumes::tmpfs_option;

/// A volume in memory, by its name. Where it is mounted is for containers to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MemoryVolume {
    pub(super) name: String,
    size_mib: u32,
    read_only: bool,
    options: TmpfsOptions,
}

/// What the options of a volume ask for; `None` is nothing.
pub(super) fn memory_volume(
    name: &str,
    options: &BTreeMap<String, String>,
) -> Result<Option<MemoryVolume>, String> {
    if options.is_empty() {
        return Ok(None);
    }
    if options.contains_key("size") {
        return Err("driverOpts.size is not supported: Neargate sets no project quotas, which it takes to bound a \
                    directory; use type=tmpfs with o=size=… for a volume in memory, or ephemeralStorage, which bounds \
                    the volumes of a task together"
            .to_owned());
    }
    if let Some(unknown) = options.keys().find(|key| !["type", "device", "o"].contains(&key.as_str())) {
        return Err(format!("there is no driverOpts.{unknown:.32}; known are type, device and o"));
    }
    let option = |key: &str| options.get(key).map(String::as_str);
    if option("type") != Some("tmpfs") {
        let why = "driverOpts.type must be tmpfs; a directory of the host is a volume with host.sourcePath";
        return Err(why.to_owned());
    }
    if option("device").is_some_and(|device| device != "tmpfs") {
        return Err("driverOpts.device of a tmpfs must be tmpfs".to_owned());
    }
    let mut tmpfs = Tmpfs {
        container_path: String::new(),
        size_mib: 0,
        read_only: false,
        options: TmpfsOptions::default(),
    };
    for one in option("o").unwrap_or_default().split(',').filter(|one| !one.is_empty()) {
        match one.strip_prefix("size=") {
            Some(size) => tmpfs.size_mib = size_mib(size)?,
            None => tmpfs_option(&mut tmpfs, one)
                .map_err(|why| format!("driverOpts.o has {one:.64?}, which is not supported: {why}"))?,
        }
    }
    let Tmpfs { size_mib, read_only, options, .. } = tmpfs;
    if size_mib == 0 {
        return Err("a tmpfs needs a size: add size=64m, for example, to driverOpts.o".to_owned());
    }
    Ok(Some(MemoryVolume { name: name.to_owned(), size_mib, read_only, options }))
}

/// Whole MiB, rounded up, from `64m` and the like.
fn size_mib(text: &str) -> Result<u32, String> {
    let mib = bytes(text).map(|bytes| bytes.div_ceil(1 << 20));
    match mib.and_then(|mib| u32::try_from(mib).ok()) {
        Some(mib) if (1..=MEMORY_FILES_MIB_MAX).contains(&mib) => Ok(mib),
        _ => {
            Err(format!("driverOpts.o: size={text:.32} is no size between 1 and {MEMORY_FILES_MIB_MAX} MiB"))
        }
    }
}

/// Gives each volume in memory to the container that mounts it. Docker, too, empties such a volume when nothing uses
/// it; one that several containers shared would have to be made before all of them, which is not done.
pub(super) fn place(
    memory: Vec<MemoryVolume>,
    volumes: &mut Vec<Volume>,
    containers: &mut [ContainerDefinition],
) -> Result<(), EcsError> {
    for volume in memory {
        volumes.retain(|one| one.name != volume.name);
        let mounts = |container: &ContainerDefinition| {
            container.mount_points.iter().filter(|mount| mount.volume == volume.name).count()
        };
        if containers.iter().map(mounts).sum::<usize>() > 1 {
            return Err(client(format!(
                "Invalid 'dockerVolumeConfiguration' of volume {:.64}: a volume in memory can be mounted once; give \
                 each container its own, or leave driverOpts away for one that they share.",
                volume.name
            )));
        }
        for container in &mut *containers {
            let found = container.mount_points.iter().position(|mount| mount.volume == volume.name);
            let Some(mount) = found.map(|index| container.mount_points.remove(index)) else { continue };
            container.tmpfs.push(Tmpfs {
                container_path: mount.container_path,
                size_mib: volume.size_mib,
                read_only: volume.read_only || mount.read_only,
                options: volume.options.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use neargate_model::MountPoint;
    use neargate_model::lifecycle::testing::container;

    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Option<MemoryVolume>, String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        memory_volume("v", &options)
    }

    #[test]
    fn options() {
        let tmpfs = |o: &str| read(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", o)]);
        assert_eq!(read(&[]), Ok(None));
        let plain = MemoryVolume {
            name: "v".to_owned(),
            size_mib: 64,
            read_only: false,
            options: TmpfsOptions::default(),
        };
        assert_eq!(tmpfs("size=64m"), Ok(Some(plain.clone())));
        let options = TmpfsOptions { mode: Some(0o700), uid: 1000, ..TmpfsOptions::default() };
        let owned = MemoryVolume { size_mib: 1024, read_only: true, options, ..plain };
        assert_eq!(tmpfs("size=1g,uid=1000,mode=700,ro"), Ok(Some(owned)));
        assert_eq!(tmpfs("size=1").unwrap().unwrap().size_mib, 1);
        for (o, part) in [
            ("", "needs a size"),
            ("uid=1", "needs a size"),
            ("size=0", "size=0"),
            ("size=100%", "size=100%"),
            ("size=2000g", "size=2000g"),
            ("size=1m,suid", "suid"),
            ("size=1m,uid=70000", "uid=70000"),
        ] {
            let error = tmpfs(o).unwrap_err();
            assert!(error.contains(part), "{o}: {error}");
        }
        let refused = |options: &[(&str, &str)]| read(options).unwrap_err();
        assert!(refused(&[("size", "10G")]).contains("quotas"));
        assert!(refused(&[("type", "nfs"), ("o", "addr=x")]).contains("tmpfs"));
        assert!(refused(&[("type", "none"), ("o", "bind"), ("device", "/etc")]).contains("host.sourcePath"));
        assert!(refused(&[("type", "tmpfs"), ("device", "/dev/vda"), ("o", "size=1m")]).contains("device"));
        assert!(refused(&[("colour", "red")]).contains("colour"));
    }

    #[test]
    fn one_container_has_it() {
        let volume = |name: &str| Volume { name: name.to_owned(), host_path: None, shared: None };
        let mount = |volume: &str| MountPoint {
            volume: volume.to_owned(),
            container_path: format!("/{volume}"),
            read_only: true,
        };
        let memory = memory_volume(
            "m",
            &[("type".to_owned(), "tmpfs".to_owned()), ("o".to_owned(), "size=3m".to_owned())].into(),
        );
        let memory = vec![memory.unwrap().unwrap()];
        let (mut volumes, mut containers) =
            (vec![volume("m"), volume("d")], vec![container("a"), container("b")]);
        containers[1].mount_points = vec![mount("d"), mount("m")];
        place(memory.clone(), &mut volumes, &mut containers).unwrap();
        assert_eq!(volumes, [volume("d")]);
        assert_eq!(containers[1].mount_points, [mount("d")]);
        let found = &containers[1].tmpfs[0];
        assert_eq!((found.container_path.as_str(), found.size_mib, found.read_only), ("/m", 3, true));
        containers[0].mount_points = vec![mount("m")];
        containers[1].mount_points = vec![mount("m")];
        assert!(place(memory, &mut volumes, &mut containers).is_err());
    }
}
