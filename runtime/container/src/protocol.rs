//! The messages between the server and its supervisor, and their bytes.
//!
//! A message is one datagram: request id, tag, fields, in the form of `neargate-ipc`.

use neargate_driver::{Limits, Stats, Traffic, UsageDetails};
use neargate_ipc::{wire_enum, wire_struct};

use crate::bridge::BridgedPlan;
use crate::failure::Failure;
use crate::names::NamesPlan;

/// Both sides must agree on this number.
pub(crate) const VERSION: u32 = 10;

wire_struct! {
    /// What the supervisor is told once, before anything else.
    pub(crate) struct Setup {
        /// [`VERSION`] of the sender.
        version: u32,
        /// Names this server's cgroups; hexadecimal.
        instance: String,
        /// First host id of the ranges.
        id_base: u32,
        /// Content of `/etc/resolv.conf` in containers.
        resolv_conf: Vec<u8>,
        /// Whether overlay layers are always passed by path, as kernels before 6.15 need it.
        layers_by_path: bool,
        /// Whether devices are fenced by programs of cgroup v2 also where v1 could.
        devices_by_programs: bool,
        /// Whether containers run although there is no cgroup to enforce their limits.
        without_limits: bool,
        /// The most that its containers may have.
        allowed: Allowed,
    }
}

wire_struct! {
    /// What an operator allows containers beyond what all have. The server keeps to it; this is so that no mistake of
    /// it can give more.
    pub(crate) struct Allowed {
        /// Capability bits.
        capabilities: u64,
        /// Whether containers may be privileged.
        privileged: bool,
        /// Whether sandboxes may have the host's network.
        host_network: bool,
        /// Whether containers may have the host's IPC namespace.
        host_ipc: bool,
        /// Whether containers may have the host's PID namespace.
        host_pid: bool,
        /// Device nodes of the host.
        devices: Vec<Vec<u8>>,
        /// Directories of the host beneath which a server that is not root may mount; the longest that fits decides.
        host_paths: Vec<AllowedPath>,
    }
}

wire_struct! {
    /// A directory of the host.
    pub(crate) struct AllowedPath {
        /// A real path, without links.
        path: Vec<u8>,
        /// Whether what is mounted from it must be read-only.
        read_only: bool,
    }
}

wire_struct! {
    /// A device of the host in a container.
    pub(crate) struct DevicePlan {
        /// The device node on the host.
        source: Vec<u8>,
        /// Absolute path in the container, below `/dev`.
        target: Vec<u8>,
        /// Whether it may be read.
        read: bool,
        /// Whether it may be written to.
        write: bool,
    }
}

wire_enum! {
    /// Which network a sandbox has; see [`neargate_driver::SandboxNetwork`].
    pub(crate) enum NetworkPlan {
        /// Its own, which belongs to the host's user namespace.
        0 => Own {},
        /// Its own, which belongs to the task's user namespace.
        1 => Managed {},
        /// The host's.
        2 => Host {},
        /// Its own, with an interface in a VPC; `managed` if it belongs to the task's user namespace.
        3 => Vpc { interface: InterfacePlan, managed: bool },
        /// One of its own for each container, with an interface in this block; `managed` as above.
        4 => Bridge { containers: Vec<BridgedPlan>, block: BlockPlan, managed: bool },
    }
}

wire_struct! {
    /// An interface in a VPC; see [`neargate_model::TaskNetwork`].
    pub(crate) struct InterfacePlan {
        /// The IPv4 address.
        address: u32,
        /// The IPv6 address, if there is one.
        address_v6: Option<u128>,
        /// The hardware address, in the lower 48 bits.
        mac: u64,
        /// Security groups, sorted.
        groups: Vec<String>,
        /// The IPv4 addresses of its VPC.
        vpc: BlockPlan,
        /// The IPv6 addresses of its VPC, if it has one of them.
        vpc_v6: Option<BlockPlan>,
        /// Megabits a second each way; `None` is no limit.
        mbps: Option<u32>,
    }
}

wire_struct! {
    /// A block of addresses, of 4 or 16 bytes.
    pub(crate) struct BlockPlan {
        /// The first address.
        first: Vec<u8>,
        /// Bits that all addresses share.
        prefix: u32,
    }
}

wire_struct! {
    /// The hosts that share VPCs; see [`neargate_model::Hosts`].
    pub(crate) struct HostsPlan {
        /// This host.
        own: HostEndPlan,
        /// The others.
        others: Vec<OtherHostPlan>,
    }
}

wire_struct! {
    /// A host, as others reach it.
    pub(crate) struct HostEndPlan {
        /// Its number.
        number: u16,
        /// Its IPv4 address.
        address: u32,
    }
}

wire_struct! {
    /// Another host.
    pub(crate) struct OtherHostPlan {
        /// How it is reached.
        end: HostEndPlan,
        /// The blocks of its tasks' addresses.
        blocks: Vec<BlockPlan>,
        /// Its tasks.
        tasks: Vec<RemoteTaskPlan>,
    }
}

wire_struct! {
    /// A task on another host.
    pub(crate) struct RemoteTaskPlan {
        /// Its IPv4 address.
        address: u32,
        /// Its security groups.
        groups: Vec<String>,
    }
}

wire_struct! {
    /// The rules of a security group.
    pub(crate) struct GroupPlan {
        /// Its id.
        group: String,
        /// What may come in.
        ingress: Vec<RulePlan>,
        /// What may go out.
        egress: Vec<RulePlan>,
    }
}

wire_struct! {
    /// One rule of a security group.
    pub(crate) struct RulePlan {
        /// What is let through.
        traffic: TrafficPlan,
        /// From or to whom.
        peer: PeerPlan,
    }
}

wire_enum! {
    /// See [`neargate_model::Traffic`].
    pub(crate) enum TrafficPlan {
        0 => All {},
        1 => Tcp { first: u32, last: u32 },
        2 => Udp { first: u32, last: u32 },
        3 => Icmp { kind: Option<u32>, code: Option<u32> },
        4 => IcmpV6 { kind: Option<u32>, code: Option<u32> },
        5 => Protocol { number: u32 },
    }
}

wire_enum! {
    /// See [`neargate_model::Peer`].
    pub(crate) enum PeerPlan {
        0 => Block { block: BlockPlan },
        1 => Group { group: String },
    }
}

wire_enum! {
    /// Which PID namespace the containers of a sandbox have; see [`neargate_model::PidMode`].
    pub(crate) enum PidPlan {
        /// Each its own.
        0 => Own {},
        /// The sandbox's.
        1 => Task {},
        /// The host's.
        2 => Host {},
    }
}

wire_enum! {
    /// Which IPC namespace and `/dev/shm` the containers of a sandbox have; see [`neargate_model::IpcMode`].
    pub(crate) enum IpcPlan {
        /// Each its own.
        0 => Own {},
        /// Each its own, without a `/dev/shm`.
        1 => OwnWithoutShm {},
        /// The sandbox's, with a `/dev/shm` of this size.
        2 => Task { shm_bytes: u64 },
        /// The host's.
        3 => Host {},
    }
}

wire_struct! {
    /// What the containers of a sandbox share besides the network.
    pub(crate) struct SharingPlan {
        /// The PID namespace.
        pids: PidPlan,
        /// The IPC namespace.
        ipc: IpcPlan,
    }
}

impl SharingPlan {
    /// Of a sandbox whose containers share nothing more, as most do.
    pub(crate) const NONE: Self = Self { pids: PidPlan::Own {}, ipc: IpcPlan::Own {} };
}

wire_struct! {
    /// How an empty tmpfs is made; ids are the container's.
    pub(crate) struct TmpfsPlan {
        /// Size limit.
        size_bytes: u64,
        /// Whether programs in it may be executed.
        exec: bool,
        /// Permission bits of its root.
        mode: u32,
        /// Owner of its root.
        uid: u32,
        /// Group of its root.
        gid: u32,
        /// How many files and directories it may hold.
        inodes_max: Option<u64>,
    }
}

wire_enum! {
    /// What is mounted.
    pub(crate) enum SourcePlan {
        /// A path of the host.
        0 => Host { path: Vec<u8> },
        /// An empty file system in memory.
        1 => Tmpfs { tmpfs: TmpfsPlan },
    }
}

wire_struct! {
    /// One mount of a container.
    pub(crate) struct MountPlan {
        /// What is mounted.
        source: SourcePlan,
        /// Absolute path in the container.
        target: Vec<u8>,
        /// Whether writing is refused.
        read_only: bool,
    }
}

wire_struct! {
    /// Everything needed to start one container; the standard streams travel beside it.
    pub(crate) struct StartPlan {
        /// The container's id.
        container: String,
        /// The task's id.
        task: String,
        /// Lower directories, lowest first.
        layers: Vec<Vec<u8>>,
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment, in order.
        env: Vec<(String, String)>,
        /// Working directory.
        working_dir: Vec<u8>,
        /// `user[:group]`.
        user: Option<String>,
        /// The container's own limits.
        limits: Limits,
        /// `RLIMIT_*` number, soft and hard limit.
        ulimits: Vec<(u32, (u64, u64))>,
        /// Whether the root is mounted read-only.
        read_only_root: bool,
        /// Volumes, in order.
        mounts: Vec<MountPlan>,
        /// Size of a `/dev/shm` of its own.
        shm_bytes: u64,
        /// Capability bits of the container.
        capabilities: u64,
        /// Whether nothing of proc and sysfs is hidden or protected, and the filter of system calls lets mounts and
        /// namespaces be made.
        privileged: bool,
        /// Devices of the host.
        devices: Vec<DevicePlan>,
        /// Whether a reaper runs as PID 1.
        init: bool,
        /// Directory for the overlay's upper and work directories.
        scratch: Vec<u8>,
        /// Its own name, and those of others.
        names: NamesPlan,
    }
}

wire_struct! {
    /// A second command in a running container.
    pub(crate) struct ExecPlan {
        /// The container's id.
        container: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Variables added to the container's.
        env: Vec<(String, String)>,
        /// Killed after this long.
        timeout_ms: u64,
        /// Whether three streams travel beside the message.
        has_stdio: bool,
        /// `user[:group]` in place of the container's.
        user: Option<String>,
        /// Whether its start is answered, too.
        attended: bool,
        /// Rows and columns of its terminal, if it gets one instead of streams.
        window: Option<(u16, u16)>,
    }
}

wire_struct! {
    /// A group, and other things of a sandbox, for a process or a thread that somebody else starts.
    pub(crate) struct LendPlan {
        /// The task's id.
        task: String,
        /// For people; letters, digits and `-`.
        name: String,
        /// Limits of the group.
        limits: Limits,
        /// Whether a thread will be in it; else a process.
        thread: bool,
    }
}

wire_enum! {
    /// A socket in the network of a task.
    pub(crate) enum SocketPlan {
        /// TCP, neither bound nor connected.
        0 => Stream { is_v6: bool },
        /// UDP, neither bound nor connected.
        1 => Datagram { is_v6: bool },
        /// TCP, which listens at this port of all its addresses.
        2 => Listener { port: u32 },
    }
}

wire_enum! {
    /// What the server asks for.
    pub(crate) enum Request {
        /// First message.
        0 => Setup { setup: Setup },
        /// Make a sandbox.
        1 => Prepare {
            task: String,
            hostname: String,
            limits: Limits,
            network: NetworkPlan,
            sharing: SharingPlan,
        },
        /// Kill and remove a sandbox.
        2 => Release { task: String },
        /// Start a container.
        3 => Start { plan: StartPlan },
        /// Signal a container's first process; 0 kills all its processes.
        4 => Signal { container: String, signal: i32 },
        /// Read usage.
        5 => Stats { container: String },
        /// Run a second command.
        6 => Exec { plan: ExecPlan },
        /// Make a group in a sandbox and lend it; the request's id names it.
        7 => Lend { plan: LendPlan },
        /// Take a lent group back and remove it once it is empty.
        8 => GiveBack { lending: u64 },
        /// Tell whether something in a lent group was killed for going over the memory limit.
        9 => LentOom { lending: u64 },
        /// Signal the process group of a second command, which its request names; 0 kills its whole session.
        10 => SignalCommand { command: u64, signal: i32 },
        /// Kill and remove everything and end. Without it, a supervisor that serves a path outlives the server.
        11 => Farewell {},
        /// Execute the program beside this message in place of the own one and find everything again. Every
        /// version understands this one: it is how a newer server replaces an older supervisor.
        12 => Renew { build: String },
        /// This server, which is root, becomes another user's: from now on it reaches no further than that one may, and
        /// mounts of the host's directories no others than these, and no set-up allows more than this.
        13 => Resign { server_uid: u32, allowed: Allowed },
        /// Enforce these security groups from now on, in the place of all before, and route these VPCs. They come in
        /// parts, the first of which is 0; nothing is done before one without `more` has come.
        14 => Groups { part: u32, groups: Vec<GroupPlan>, vpcs: Vec<BlockPlan>, more: bool },
        /// Make sockets of the link-local addresses in the network with the VPCs, and hand them over.
        15 => LinkLocal {},
        /// Read what has passed the interface of a task.
        16 => Traffic { task: String },
        /// Read what a container uses in detail.
        17 => UsageDetails { container: String },
        /// Make a socket in the network of a task with an interface, and hand it over.
        18 => Socket { task: String, socket: SocketPlan },
        /// Share VPCs with these hosts from now on, or with none, in the place of all before.
        20 => Hosts { hosts: Option<HostsPlan> },
    }
}

wire_struct! {
    /// How a container ended.
    pub(crate) struct End {
        /// Exit code, or 128 and the signal's number; none when nobody can tell it.
        code: Option<i32>,
        /// Whether something of it was killed for going over the memory limit.
        oom: bool,
        /// What it had used.
        stats: Stats,
    }
}

wire_enum! {
    /// What the supervisor tells.
    pub(crate) enum Response {
        /// Done, nothing to tell.
        0 => Done {},
        /// The program of the container runs; its pidfd is beside it.
        1 => Started {},
        /// Usage.
        2 => Usage { stats: Stats },
        /// The second command ended; no code when it was killed at its timeout.
        3 => Executed { code: Option<i32> },
        /// The request failed.
        4 => Failed { failure: Failure },
        /// Unasked: a container ended; no code when nobody can tell it. Request id 0.
        5 => Exited { container: String, code: Option<i32>, oom: bool, stats: Stats },
        /// The group was made. Descriptors beside it: the network namespace, then the v2 directory if
        /// `unified`, then v1 `tasks` files; for a thread only the latter.
        6 => Lent { unified: bool },
        /// Whether something in the group was killed for going over the memory limit.
        7 => Oom { oom: bool },
        /// An attended command runs; its end is told under the same id. Our end of its terminal, if it has
        /// one, is beside it.
        8 => Attended {},
        /// A sandbox that was there before this server; told before `Attached`.
        9 => Sandbox { task: String },
        /// A container of it; told after its sandbox. Beside it, if `readers`, the reading ends of its standard
        /// output and error, and last, unless it has ended, its pidfd.
        10 => Found { container: String, task: String, end: Option<End>, readers: bool },
        /// All that was there has been told. `build` names the program that the supervisor executes.
        11 => Attached { build: String },
        /// The sockets were made. Beside it: the listener of the metadata, then the resolver's UDP socket and listener.
        12 => LinkLocal {},
        /// What has passed the interface, if there is one.
        13 => Traffic { traffic: Option<Traffic> },
        /// What a container uses in detail.
        14 => UsageDetails { details: UsageDetails },
        /// The socket was made; it is beside it.
        15 => Socket {},
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use neargate_driver::{BlockUse, ContainerNames, CpuSplit, Throttling, TrafficCounters};
    use neargate_ipc::wire::{Malformed, decode, encode};

    use super::*;

    fn limits() -> impl Strategy<Value = Limits> {
        let n = || proptest::option::of(any::<u32>());
        let m = || proptest::option::of(any::<u64>());
        ((n(), n()), (m(), m(), m()), (n(), n())).prop_map(|(cpu, memory, (swappiness, pids_max))| Limits {
            cpu_millis: cpu.0,
            cpu_shares: cpu.1,
            memory_bytes: memory.0,
            memory_reservation_bytes: memory.1,
            swap_bytes: memory.2,
            swappiness,
            pids_max,
        })
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..40)
    }

    fn mount() -> impl Strategy<Value = MountPlan> {
        let tmpfs = any::<(u64, bool, u32, u32, u32, Option<u64>)>().prop_map(
            |(size_bytes, exec, mode, uid, gid, inodes_max)| SourcePlan::Tmpfs {
                tmpfs: TmpfsPlan { size_bytes, exec, mode, uid, gid, inodes_max },
            },
        );
        let source = prop_oneof![bytes().prop_map(|path| SourcePlan::Host { path }), tmpfs];
        (source, bytes(), any::<bool>()).prop_map(|(source, target, read_only)| MountPlan {
            source,
            target,
            read_only,
        })
    }

    fn device() -> impl Strategy<Value = DevicePlan> {
        (bytes(), bytes(), any::<(bool, bool)>()).prop_map(|(source, target, (read, write))| DevicePlan {
            source,
            target,
            read,
            write,
        })
    }

    fn start() -> impl Strategy<Value = Request> {
        let texts = (any::<String>(), any::<String>(), vec(any::<String>(), 0..5));
        let lists = (vec(bytes(), 0..4), vec(any::<(String, String)>(), 0..5), vec(mount(), 0..4));
        let rest = (
            bytes(),
            proptest::option::of(any::<String>()),
            limits(),
            vec(any::<(u32, (u64, u64))>(), 0..3),
            (any::<(bool, u64, bool, u64, bool)>(), vec(device(), 0..3)),
            bytes(),
        );
        (texts, lists, rest).prop_map(|((container, task, argv), (layers, env, mounts), rest)| {
            let (working_dir, user, limits, ulimits, flags, scratch) = rest;
            let ((read_only_root, capabilities, init, shm_bytes, privileged), devices) = flags;
            let plan = StartPlan {
                container,
                task,
                layers,
                argv,
                env,
                working_dir,
                user,
                limits,
                ulimits,
                read_only_root,
                mounts,
                shm_bytes,
                capabilities,
                privileged,
                devices,
                init,
                scratch,
                names: NamesPlan::of(&ContainerNames {
                    dns_search_domains: vec!["a.test".to_owned()],
                    ..ContainerNames::default()
                }),
            };
            Request::Start { plan }
        })
    }

    fn request() -> impl Strategy<Value = Request> {
        let text = any::<String>;
        prop_oneof![
            start(),
            (text(), text(), limits()).prop_map(|(task, hostname, limits)| Request::Prepare {
                task,
                hostname,
                limits,
                network: NetworkPlan::Managed {},
                sharing: SharingPlan { pids: PidPlan::Task {}, ipc: IpcPlan::Task { shm_bytes: 7 } },
            }),
            text().prop_map(|task| Request::Release { task }),
            (text(), any::<i32>()).prop_map(|(container, signal)| Request::Signal { container, signal }),
            (text(), vec(text(), 0..4), any::<u64>(), any::<bool>()).prop_map(
                |(container, argv, timeout_ms, has_stdio)| Request::Exec {
                    plan: ExecPlan {
                        user: (!has_stdio).then(|| container.clone()),
                        attended: !has_stdio,
                        window: has_stdio.then_some((24, u16::MAX)),
                        container,
                        argv,
                        env: vec![],
                        timeout_ms,
                        has_stdio,
                    }
                }
            ),
            any::<(u64, i32)>().prop_map(|(command, signal)| Request::SignalCommand { command, signal }),
            Just(Request::Farewell {}),
            Just(Request::LinkLocal {}),
            text().prop_map(|task| Request::Traffic { task }),
            text().prop_map(|container| Request::UsageDetails { container }),
            (text(), any::<(bool, Option<u16>)>()).prop_map(|(task, (is_v6, port))| Request::Socket {
                task,
                socket: match port {
                    Some(port) => SocketPlan::Listener { port: port.into() },
                    None if is_v6 => SocketPlan::Stream { is_v6 },
                    None => SocketPlan::Datagram { is_v6 },
                },
            }),
            text().prop_map(|build| Request::Renew { build }),
        ]
    }

    fn response() -> impl Strategy<Value = Response> {
        let text = any::<String>;
        prop_oneof![
            Just(Response::Done {}),
            Just(Response::LinkLocal {}),
            (text(), any::<u64>(), any::<u32>()).prop_map(|(name, number, major)| {
                let block = vec![BlockUse { major, read_bytes: number, ..BlockUse::default() }];
                let cpu = Some(CpuSplit { user_ns: number, kernel_ns: 1 });
                let throttling = Some(Throttling { periods: 2, throttled_periods: 1, throttled_ns: number });
                let details = UsageDetails { cpu, throttling, memory: vec![(name, number)], block };
                Response::UsageDetails { details }
            }),
            Just(Response::Socket {}),
            any::<Option<u64>>().prop_map(|bytes| {
                let counters = |bytes| TrafficCounters { bytes, packets: 1, errors: 2, dropped: 3 };
                let of = |bytes| Traffic { received: counters(bytes), sent: counters(7) };
                Response::Traffic { traffic: bytes.map(of) }
            }),
            Just(Response::Attended {}),
            proptest::option::of(any::<i32>()).prop_map(|code| Response::Executed { code }),
            (text(), any::<i32>())
                .prop_map(|(step, errno)| Response::Failed { failure: Failure::System { step, errno } }),
            (text(), text()).prop_map(|(program, why)| Response::Failed {
                failure: Failure::NotExecutable { program, why }
            }),
            text().prop_map(|task| Response::Sandbox { task }),
            (text(), text(), any::<bool>(), any::<Option<i32>>()).prop_map(
                |(container, task, readers, code)| {
                    let end =
                        code.map(|code| End { code: Some(code), oom: readers, stats: Stats::default() });
                    Response::Found { container, task, end, readers }
                }
            ),
            (text(), any::<(Option<i32>, bool, u64, u64, u64, u32)>()).prop_map(
                |(container, (code, oom, cpu_ns, memory_bytes, memory_peak_bytes, pids))| Response::Exited {
                    container,
                    code,
                    oom,
                    stats: Stats { cpu_ns, memory_bytes, memory_peak_bytes, pids, wasm: None }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in request()) {
            prop_assert_eq!(decode::<Request>(&encode(&request)), Ok(request));
        }

        #[test]
        fn responses_round_trip(response in response()) {
            prop_assert_eq!(decode::<Response>(&encode(&response)), Ok(response));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
            // Whatever decodes must be the one encoding of its value.
            if let Ok(request) = decode::<Request>(&bytes) {
                prop_assert_eq!(encode(&request), bytes.clone());
            }
            if let Ok(response) = decode::<Response>(&bytes) {
                prop_assert_eq!(encode(&response), bytes);
            }
        }

        #[test]
        fn damaged_messages_never_panic(request in request(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = encode(&request);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = decode::<Request>(&bytes) {
                prop_assert_ne!(other, request);
            }
        }

        #[test]
        fn cut_messages_are_refused(request in request(), at in any::<prop::sample::Index>()) {
            let bytes = encode(&request);
            let cut = at.index(bytes.len());
            prop_assert_eq!(decode::<Request>(&bytes[..cut]), Err(Malformed));
        }
    }
}
