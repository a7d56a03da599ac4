//! What the supervisor is told of a container, from its spec.

use std::os::unix::ffi::OsStrExt;

use neargate_driver::{ContainerSpec, Device, MountSource, Rootfs, Sharing, StartError, Ulimit};
use neargate_model::{IpcMode, PidMode};

use crate::capabilities;
use crate::init::NO_CORE;
use crate::names::NamesPlan;
use crate::protocol::{
    DevicePlan, IpcPlan, MountPlan, PidPlan, SharingPlan, SourcePlan, StartPlan, TmpfsPlan,
};

/// `setrlimit(2)` numbers by ECS's names.
const ULIMITS: [(&str, u32); 15] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Size of `/dev/shm` unless a spec says otherwise (Docker's default).
const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Permission bits of a tmpfs unless a spec says otherwise (Docker's default).
const TMPFS_MODE_DEFAULT: u32 = 0o1777;

fn source_of(source: &MountSource) -> SourcePlan {
    match source {
        MountSource::Host(path) => SourcePlan::Host { path: path.as_os_str().as_bytes().to_vec() },
        MountSource::Tmpfs { size_bytes, options } => SourcePlan::Tmpfs {
            tmpfs: TmpfsPlan {
                size_bytes: *size_bytes,
                exec: options.exec,
                mode: options.mode.unwrap_or(TMPFS_MODE_DEFAULT),
                uid: options.uid,
                gid: options.gid,
                inodes_max: options.inodes_max,
            },
        },
    }
}

/// Number, soft and hard limit.
fn ulimit_of(limit: &Ulimit) -> Result<(u32, (u64, u64)), StartError> {
    let refuse = |why: &str| {
        Err(StartError::Unsupported { what: format!("ulimit {:?}", limit.name), why: why.to_owned() })
    };
    match ULIMITS.iter().find(|(name, _)| *name == limit.name) {
        Some(_) if limit.soft > limit.hard => refuse("its soft limit is above its hard limit"),
        // Real-time processes are not bounded by the CPU limit of a cgroup (sched(7)).
        Some((_, libc::RLIMIT_RTPRIO)) if limit.hard > 0 => {
            refuse("a task has no real-time priority, which would get around CPU limits")
        }
        // Who wants no core dumps gets none, wherever the host sends them.
        Some((_, libc::RLIMIT_CORE)) if limit.hard <= NO_CORE => Ok((libc::RLIMIT_CORE, (NO_CORE, NO_CORE))),
        Some((_, number)) => Ok((*number, (limit.soft, limit.hard))),
        None => refuse("there is no limit of that name"),
    }
}

fn device_of(device: &Device) -> Result<DevicePlan, StartError> {
    let is_below_dev = device.target.starts_with("/dev")
        && device.target != std::path::Path::new("/dev")
        && !device.target.components().any(|part| part == std::path::Component::ParentDir);
    if !is_below_dev {
        let what = format!("a device at {}", device.target.display());
        return Err(StartError::Unsupported { what, why: "it must be below /dev".to_owned() });
    }
    Ok(DevicePlan {
        source: device.source.as_os_str().as_bytes().to_vec(),
        target: device.target.as_os_str().as_bytes().to_vec(),
        read: device.read,
        write: device.write,
    })
}

/// What the containers of a sandbox share, as the supervisor is told.
pub(super) fn sharing_of(sharing: &Sharing) -> SharingPlan {
    let pids = match sharing.pids {
        PidMode::Container => PidPlan::Own {},
        PidMode::Task => PidPlan::Task {},
        PidMode::Host => PidPlan::Host {},
    };
    let ipc = match sharing.ipc {
        IpcMode::Container => IpcPlan::Own {},
        IpcMode::None => IpcPlan::OwnWithoutShm {},
        IpcMode::Task => IpcPlan::Task { shm_bytes: sharing.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT) },
        IpcMode::Host => IpcPlan::Host {},
    };
    SharingPlan { pids, ipc }
}

/// Checks a spec and turns it into what the supervisor is told.
pub(super) fn of(spec: &ContainerSpec) -> Result<StartPlan, StartError> {
    let unsupported = |what: String, why: &str| StartError::Unsupported { what, why: why.to_owned() };
    let Rootfs::Layers(layers) = &spec.rootfs else {
        return Err(unsupported("a Wasm image".to_owned(), "this driver runs Linux containers"));
    };
    let ulimits: Result<Vec<_>, StartError> = spec.ulimits.iter().map(ulimit_of).collect();
    let mounts: Result<Vec<_>, StartError> = spec
        .mounts
        .iter()
        .map(|mount| {
            if !mount.target.is_absolute() {
                let what = format!("a mount at {}", mount.target.display());
                return Err(unsupported(what, "its path in the container must be absolute"));
            }
            let target = mount.target.as_os_str().as_bytes().to_vec();
            Ok(MountPlan { source: source_of(&mount.source), target, read_only: mount.read_only })
        })
        .collect();
    Ok(StartPlan {
        container: spec.id.to_string(),
        task: spec.task.to_string(),
        layers: layers.iter().map(|layer| layer.as_os_str().as_bytes().to_vec()).collect(),
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.as_os_str().as_bytes().to_vec(),
        user: spec.user.clone(),
        limits: spec.limits.clone(),
        ulimits: ulimits?,
        read_only_root: spec.read_only_root,
        mounts: mounts?,
        shm_bytes: spec.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT),
        capabilities: capabilities::resolve(
            &spec.capabilities_add,
            &spec.capabilities_drop,
            spec.privileges.privileged,
        )?,
        privileged: spec.privileges.privileged,
        devices: spec.privileges.devices.iter().map(device_of).collect::<Result<_, _>>()?,
        init: spec.init,
        scratch: spec.scratch.as_os_str().as_bytes().to_vec(),
        names: NamesPlan::of(&spec.names),
    })
}
