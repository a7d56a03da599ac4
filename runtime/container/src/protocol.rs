//! The messages between the server and its supervisor, and their bytes.
//!
//! A message is one datagram: request id, tag, fields; numbers little-endian, texts and lists with a
//! 32-bit length before them. Decoding checks every length against what is there, allocates no more than
//! the message is long, refuses trailing bytes, and never panics. Both ends are the same executable, so
//! there is no evolution, only a version that both must share.

use neargate_driver::{Limits, Stats};

use crate::failure::Failure;

/// Both sides must agree on this number.
pub(crate) const VERSION: u32 = 1;

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed supervisor message")]
pub(crate) struct Malformed;

/// What is left of a message that is being read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }
}

/// A value that has a form on the wire.
pub(crate) trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the value.
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Encodes one value.
pub(crate) fn encode(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    value.put(&mut out);
    out
}

/// Decodes one value that fills `bytes` exactly.
pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut reader = Reader(bytes);
    let value = T::get(&mut reader)?;
    if reader.0.is_empty() { Ok(value) } else { Err(Malformed) }
}

macro_rules! wire_integer {
    ($($name:ty),*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                let bytes = input.take(size_of::<$name>())?;
                Ok(<$name>::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
        }
    )*};
}
wire_integer!(u8, u32, u64, i32);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::get(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    // A longer field cannot be framed: the frame is bounded far below 4 GiB by `channel`.
    u32::try_from(length).unwrap_or(u32::MAX).put(out);
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = u32::get(input)? as usize;
        std::str::from_utf8(input.take(length)?).map(str::to_owned).map_err(|_| Malformed)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = u32::get(input)? as usize;
        // Every item takes a byte at least, so a length beyond the rest is a lie.
        if length > input.0.len() {
            return Err(Malformed);
        }
        (0..length).map(|_| T::get(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        if bool::get(input)? { T::get(input).map(Some) } else { Ok(None) }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::get(input)?, B::get(input)?))
    }
}

macro_rules! wire_fields {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::protocol::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::protocol::Wire::put(&self.$field, out);)*
            }
            fn get(input: &mut $crate::protocol::Reader<'_>) -> Result<Self, $crate::protocol::Malformed> {
                Ok(Self { $($field: $crate::protocol::Wire::get(input)?,)* })
            }
        }
    };
}

macro_rules! wire_struct {
    ($(#[$doc:meta])* pub(crate) struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: $kind),* }
        wire_fields!($name { $($field),* });
    };
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* pub(crate) enum $name:ident {
        $($(#[$case_doc:meta])* $tag:literal => $case:ident { $($field:ident: $kind:ty),* $(,)? }),* $(,)?
    }) => {
        $(#[$doc])*
        // A message is decoded where it is used and moved once or twice; a box would cost as much.
        #[allow(clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$case_doc])* $case { $(#[allow(missing_docs)] $field: $kind),* }),* }
        impl $crate::protocol::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$case { $($field),* } => {
                        out.push($tag);
                        $($crate::protocol::Wire::put($field, out);)*
                    })*
                }
            }
            fn get(input: &mut $crate::protocol::Reader<'_>) -> Result<Self, $crate::protocol::Malformed> {
                match <u8 as $crate::protocol::Wire>::get(input)? {
                    $($tag => Ok(Self::$case { $($field: $crate::protocol::Wire::get(input)?),* }),)*
                    _ => Err($crate::protocol::Malformed),
                }
            }
        }
    };
}
pub(crate) use wire_enum;

wire_fields!(Limits { cpu_millis, cpu_shares, memory_bytes, memory_reservation_bytes, pids_max });
wire_fields!(Stats { cpu_ns, memory_bytes, memory_peak_bytes, pids });

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
    }
}

wire_struct! {
    /// One mount of a container.
    pub(crate) struct MountPlan {
        /// Host path; `None` is a tmpfs.
        source_path: Option<Vec<u8>>,
        /// Size limit of the tmpfs.
        size_bytes: u64,
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
        /// Capability bits of the container.
        capabilities: u64,
        /// Whether a reaper runs as PID 1.
        init: bool,
        /// Directory for the overlay's upper and work directories.
        scratch: Vec<u8>,
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
    }
}

wire_enum! {
    /// What the server asks for.
    pub(crate) enum Request {
        /// First message.
        0 => Setup { setup: Setup },
        /// Make a sandbox.
        1 => Prepare { task: String, hostname: String, limits: Limits },
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
    }
}

wire_enum! {
    /// What the supervisor tells.
    pub(crate) enum Response {
        /// Done, nothing to tell.
        0 => Done {},
        /// The program of the container runs.
        1 => Started {},
        /// Usage.
        2 => Usage { stats: Stats },
        /// The second command ended; no code when it was killed at its timeout.
        3 => Executed { code: Option<i32> },
        /// The request failed.
        4 => Failed { failure: Failure },
        /// Unasked: a container ended. Request id 0.
        5 => Exited { container: String, code: i32, oom: bool, stats: Stats },
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn limits() -> impl Strategy<Value = Limits> {
        let n = || proptest::option::of(any::<u32>());
        let m = || proptest::option::of(any::<u64>());
        (n(), n(), m(), m(), n()).prop_map(|(cpu_millis, cpu_shares, memory_bytes, reservation, pids_max)| {
            Limits { cpu_millis, cpu_shares, memory_bytes, memory_reservation_bytes: reservation, pids_max }
        })
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..40)
    }

    fn mount() -> impl Strategy<Value = MountPlan> {
        (proptest::option::of(bytes()), any::<u64>(), bytes(), any::<bool>()).prop_map(
            |(source_path, size_bytes, target, read_only)| MountPlan {
                source_path,
                size_bytes,
                target,
                read_only,
            },
        )
    }

    fn start() -> impl Strategy<Value = Request> {
        let texts = (any::<String>(), any::<String>(), vec(any::<String>(), 0..5));
        let lists = (vec(bytes(), 0..4), vec(any::<(String, String)>(), 0..5), vec(mount(), 0..4));
        let rest = (
            bytes(),
            proptest::option::of(any::<String>()),
            limits(),
            vec(any::<(u32, (u64, u64))>(), 0..3),
            any::<(bool, u64, bool)>(),
            bytes(),
        );
        (texts, lists, rest).prop_map(|((container, task, argv), (layers, env, mounts), rest)| {
            let (working_dir, user, limits, ulimits, (read_only_root, capabilities, init), scratch) = rest;
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
                capabilities,
                init,
                scratch,
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
                limits
            }),
            text().prop_map(|task| Request::Release { task }),
            (text(), any::<i32>()).prop_map(|(container, signal)| Request::Signal { container, signal }),
            (text(), vec(text(), 0..4), any::<u64>(), any::<bool>()).prop_map(
                |(container, argv, timeout_ms, has_stdio)| Request::Exec {
                    plan: ExecPlan { container, argv, env: vec![], timeout_ms, has_stdio }
                }
            ),
        ]
    }

    fn response() -> impl Strategy<Value = Response> {
        let text = any::<String>;
        prop_oneof![
            Just(Response::Done {}),
            proptest::option::of(any::<i32>()).prop_map(|code| Response::Executed { code }),
            (text(), any::<i32>())
                .prop_map(|(step, errno)| Response::Failed { failure: Failure::System { step, errno } }),
            (text(), text()).prop_map(|(program, why)| Response::Failed {
                failure: Failure::NotExecutable { program, why }
            }),
            (text(), any::<(i32, bool, u64, u64, u64, u32)>()).prop_map(
                |(container, (code, oom, cpu_ns, memory_bytes, memory_peak_bytes, pids))| Response::Exited {
                    container,
                    code,
                    oom,
                    stats: Stats { cpu_ns, memory_bytes, memory_peak_bytes, pids }
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
