//! Devices of the host: `linuxParameters.devices`.

use std::path::{Component, Path, PathBuf};

use neargate_model::{ContainerName, DeviceMapping};
use neargate_wire::ecs::{self, DeviceCgroupPermission, EcsError};

use super::error::client;

/// At most this many for a container; more than any program opens, and a bound for the rules of its cgroup.
const DEVICES_MAX: usize = 32;

/// The devices that a container asks for. Whether it may have them is the policy's to say.
pub(super) fn devices(
    linux: Option<&ecs::LinuxParameters>,
    name: &ContainerName,
) -> Result<Vec<DeviceMapping>, EcsError> {
    let refuse =
        |why: &str| client(format!("Invalid 'linuxParameters.devices' of container '{name}': {why}."));
    let input = linux.and_then(|linux| linux.devices.as_deref()).unwrap_or_default();
    if input.len() > DEVICES_MAX {
        return Err(refuse(&format!("there are more than {DEVICES_MAX}")));
    }
    input.iter().map(|one| device(one).map_err(|why| refuse(&why))).collect()
}

fn device(input: &ecs::Device) -> Result<DeviceMapping, String> {
    let host = Path::new(&input.host_path);
    let is_plain = |path: &Path| {
        path.is_absolute() && path.components().all(|part| !matches!(part, Component::ParentDir))
    };
    if !is_plain(host) {
        return Err(format!("hostPath {:.128?} is not an absolute path", input.host_path));
    }
    let container_path = input.container_path.as_deref().filter(|path| !path.is_empty());
    let target = Path::new(container_path.unwrap_or(&input.host_path));
    let target: PathBuf = target.components().collect();
    if !is_plain(&target) || !target.starts_with("/dev") || target == Path::new("/dev") {
        return Err(format!("containerPath {:.128?} is not below /dev", target.display().to_string()));
    }
    let (read, write) = permissions(input.permissions.as_deref())?;
    Ok(DeviceMapping {
        // A path that leads nowhere is not one that the policy has.
        host_path: std::fs::canonicalize(host).unwrap_or_else(|_| host.to_owned()),
        container_path: target.to_string_lossy().into_owned(),
        read,
        write,
    })
}

/// Reading and writing unless something is named (API reference, Device.permissions). Making nodes is never possible:
/// the kernel lets nobody do that in a user namespace, so who asks for it is told.
fn permissions(input: Option<&[DeviceCgroupPermission]>) -> Result<(bool, bool), String> {
    let Some(named) = input.filter(|named| !named.is_empty()) else { return Ok((true, true)) };
    for permission in named {
        match permission {
            DeviceCgroupPermission::Read | DeviceCgroupPermission::Write => {}
            DeviceCgroupPermission::Mknod => {
                return Err(
                    "the permission mknod cannot be given; a container finds its nodes made".to_owned()
                );
            }
            DeviceCgroupPermission::Unlisted(text) => {
                return Err(format!("there is no permission {text:.32?}"));
            }
        }
    }
    Ok((named.contains(&DeviceCgroupPermission::Read), named.contains(&DeviceCgroupPermission::Write)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        host: &str,
        container: Option<&str>,
        permissions: &[&str],
        expect: Result<(&str, bool, bool), &str>,
    ) {
        let permissions = permissions.iter().map(|&one| DeviceCgroupPermission::from(one)).collect();
        let input = ecs::Device {
            host_path: host.to_owned(),
            container_path: container.map(str::to_owned),
            permissions: Some(permissions),
        };
        let found = device(&input).map(|device| (device.container_path, device.read, device.write));
        match (found, expect) {
            (Ok(found), Ok((path, read, write))) => assert_eq!(found, (path.to_owned(), read, write)),
            (Err(why), Err(part)) => assert!(why.contains(part), "{part:?} is not in {why:?}"),
            (found, _) => panic!("{host} {container:?} gave {found:?}"),
        }
    }

    #[test]
    fn paths_and_permissions() {
        check("/dev/null", None, &[], Ok(("/dev/null", true, true)));
        check("/dev/null", Some(""), &["read"], Ok(("/dev/null", true, false)));
        check("/dev/null", Some("/dev/net//tun"), &["write", "read"], Ok(("/dev/net/tun", true, true)));
        check("/dev/null", Some("/data"), &[], Err("below /dev"));
        check("/dev/null", Some("/dev/../etc/x"), &[], Err("below /dev"));
        check("/dev/null", Some("/dev"), &[], Err("below /dev"));
        check("null", Some("/dev/null"), &[], Err("absolute"));
        check("/dev/null", None, &["read", "mknod"], Err("mknod"));
        check("/dev/null", None, &["all"], Err("\"all\""));
    }
}
