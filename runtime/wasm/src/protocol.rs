//! What the server and a Wasm worker say to each other.
//!
//! One message is one datagram of [`neargate_ipc::channel`], with the descriptors that its description names.
//! Streams do not pass through here: a run has the descriptors of its own standard streams and sockets,
//! and the kernel's pipes hold back whoever is faster. The worker runs what users bring, so the server
//! trusts nothing that it says but about the worker's own runs.

use std::net::SocketAddr;

use neargate_ipc::{wire_enum, wire_struct};

/// Both sides must agree on this number.
pub const VERSION: u32 = 3;

wire_enum! {
    /// What the server tells a worker.
    pub enum ToWorker {
        /// Load compiled code. With one descriptor: the file of the code.
        0 => Load { image: u32, code: CodeInfo },
        /// Forget an image; its runs go on.
        1 => Unload { image: u32 },
        /// Start a run. Descriptors: standard input, output and error, the listening sockets of
        /// [`RunPlan::listeners`], and the `tasks` files of cgroups that a thread of its own joins
        /// ([`RunPlan::cgroups`]).
        2 => Start { run: u64, plan: RunPlan },
        /// Ask a run to end: see [`Stop`]. A run that has ended is not an error.
        3 => Stop { run: u64, stop: Stop },
        /// Tell what a run has used so far.
        4 => Stats { run: u64 },
        /// The answer to [`FromWorker::HostCall`]. With one descriptor if it is a [`HostReply::Socket`].
        5 => HostReply { call: u64, reply: HostReply },
    }
}

wire_enum! {
    /// What a worker tells the server.
    pub enum FromWorker {
        /// First message, once it is set up.
        0 => Ready { version: u32 },
        /// Code is ready to be run.
        1 => Loaded { image: u32 },
        /// Code cannot be used.
        2 => LoadFailed { image: u32, why: String },
        /// The run's program runs.
        3 => Started { run: u64 },
        /// The run could not be started.
        4 => StartFailed { run: u64, failure: StartFailure },
        /// The run has ended. Descriptors: a memfd for each of [`RunExit::attachments`], in order.
        5 => Exited { run: u64, exit: RunExit },
        /// The answer to [`ToWorker::Stats`].
        6 => Usage { run: u64, usage: Usage },
        /// A guest asks for something that the worker does not have.
        7 => HostCall { run: u64, call: u64, request: HostRequest },
        /// Something for the server's log.
        8 => Notice { text: String },
        /// What a run leaves while it goes on, once in its life: the core dump of a request's instance. With one
        /// descriptor, a memfd.
        9 => Left { run: u64, attachment: Attachment },
    }
}

wire_enum! {
    /// The two kinds of engine; code compiled for one cannot be run by the other.
    pub enum EngineKind {
        /// Modules of preview 1 and components of WASI 0.2.
        0 => Sync {},
        /// Components of WASI 0.3, which are concurrent.
        1 => Concurrent {},
    }
}

wire_enum! {
    /// The two kinds of Wasm binary.
    pub enum BinaryKind {
        /// A core module.
        0 => Module {},
        /// A component.
        1 => Component {},
    }
}

wire_struct! {
    /// What is known of compiled code.
    pub struct CodeInfo {
        /// Module or component.
        kind: BinaryKind,
        /// The engine that it was compiled for.
        engine: EngineKind,
    }
}

wire_struct! {
    /// What a worker process is told when it is started, as its role's input. Its only descriptor is its end
    /// of the `SOCK_SEQPACKET` pair over which messages go.
    pub struct WorkerSetup {
        /// Both sides must agree on it: [`VERSION`].
        version: u32,
        /// How many runs it may have at a time; its pools are sized by that.
        runs_max: u32,
        /// How many images it keeps loaded at most; the server unloads one before it loads another.
        images_max: u32,
        /// Whether its runs may be given the network.
        network: bool,
    }
}

wire_struct! {
    /// What the compile role is told as its input. Descriptors: the binary, read-only; an empty file for the
    /// compiled code; a pipe for the encoded [`CompileReply`], which ends with its closing.
    pub struct CompileOrder {
        /// `sha256:` and 64 hexadecimal digits, which the bytes that are compiled must have.
        digest: String,
        /// Most bytes that the binary may have.
        wasm_bytes_max: u64,
        /// Most bytes that the compiled code may have.
        code_bytes_max: u64,
    }
}

wire_enum! {
    /// What has become of a [`CompileOrder`].
    pub enum CompileReply {
        /// The code has been written.
        0 => Done { inspection: Inspection },
        /// There will never be code of this binary.
        1 => Refused { reason: CompileRefusal },
        /// It could not be done now.
        2 => Failed { step: String, errno: i32 },
    }
}

wire_enum! {
    /// Why a binary is not compiled.
    pub enum CompileRefusal {
        /// It is something else: "an ELF executable", "text".
        0 => NotWasm { what: String },
        /// It does not have the digest of the order.
        1 => Digest { found: String },
        /// It is malformed, or uses what the engine does not have.
        2 => Invalid { why: String },
        /// It has more bytes than the order allows, or its code would.
        3 => TooLarge { bytes: u64, bytes_max: u64 },
        /// It imports what no grant gives; `seen` has these imports too.
        4 => Import { name: String, why: String, seen: Box<Inspection> },
        /// It exports nothing that can be run.
        5 => NoEntry { why: String, seen: Box<Inspection> },
    }
}

wire_struct! {
    /// What the compiler has seen of a binary. It is kept beside the code.
    pub struct Inspection {
        /// Module or component.
        kind: BinaryKind,
        /// The engine that it was compiled for.
        engine: EngineKind,
        /// The ways in which it can be run without naming a function, in no order.
        entries: Vec<EntryKind>,
        /// The functions that can be called by name with JSON arguments; an instance's as `INSTANCE#NAME`.
        exports: Vec<ExportInfo>,
        /// The interfaces that it imports, as it names them, for example `wasi:keyvalue/store@0.2.0-draft`. What a
        /// module imports from elsewhere than WASI, and is refused for, is told as `MODULE.NAME`.
        imports: Vec<String>,
        /// What compiled it: `neargate_wasm_worker::compiler_id`.
        compiler: String,
    }
}

wire_enum! {
    /// A way in which a binary can be run: see [`Entry`].
    pub enum EntryKind {
        /// `_start` or `wasi:cli/run`.
        0 => Command {},
        /// `wasi:http/incoming-handler`, or `wasi:http/handler` of WASI 0.3.
        1 => Http {},
        /// `neargate:task/handler`.
        2 => Handler {},
    }
}

wire_struct! {
    /// A function that can be called by name.
    pub struct ExportInfo {
        /// Its name.
        name: String,
        /// Its type for people, for example `func(name: string) -> u32`.
        signature: String,
    }
}

wire_enum! {
    /// What of an image is run.
    pub enum Entry {
        /// Its program: `_start` or `wasi:cli/run`, with standard streams and an exit code.
        0 => Command {},
        /// Its HTTP handler: every request that arrives at a listener gets a fresh instance.
        1 => Http { reuse: Option<u32> },
        /// `neargate:task/handler`: standard input is the input, standard output takes the output.
        2 => Handler {},
        /// The function of this name, with the arguments after the program's name as JSON values; its
        /// result is written to standard output as JSON.
        3 => Export { name: String },
    }
}

wire_struct! {
    /// All that a run is given.
    pub struct RunPlan {
        /// The image, loaded before.
        image: u32,
        /// What of it is run.
        entry: Entry,
        /// The task, whose runs share [`RunPlan::task_limits`].
        task: String,
        /// The task attempt's number and such for `neargate:task`: id, attempt, deadline in Unix milliseconds.
        attempt: u32,
        /// When the task will be stopped, in Unix milliseconds.
        deadline_ms: Option<u64>,
        /// Program name and arguments.
        argv: Vec<String>,
        /// Environment, in order; later names win.
        env: Vec<(String, String)>,
        /// Directories, as names below the worker's root.
        preopens: Vec<Preopen>,
        /// The container's own limits.
        limits: RunLimits,
        /// Limits over all runs of the task.
        task_limits: RunLimits,
        /// Interfaces beyond the usual that the task may use: `wasi:config`, `wasi:keyvalue`, `wasi:logging`.
        grants: Vec<String>,
        /// What `wasi:config` tells.
        config: Vec<(String, String)>,
        /// Which sockets, name look-ups and outgoing HTTP are allowed.
        network: Network,
        /// Whether it runs on a thread of its own.
        own_thread: bool,
        /// How many listening sockets come with the message.
        listeners: u32,
        /// How many cgroup `tasks` files come with the message.
        cgroups: u32,
        /// Whether a trap's core dump is wanted.
        core_dump: bool,
        /// Whether a profile of the guest is wanted.
        profile: bool,
    }
}

wire_enum! {
    /// What a run may reach.
    pub enum Network {
        /// Nothing: no sockets, no names, no requests.
        0 => None {},
        /// What the host reaches, but for its metadata services and the addresses at which the server itself
        /// listens. An unspecified address among these stands for its port on every address.
        1 => Host { control: Vec<SocketAddr> },
        /// What the task's own network reaches, by sockets that the server makes there. What is in that network decides;
        /// metadata services are denied as with the host's.
        2 => Own {},
    }
}

wire_struct! {
    /// A directory that a guest sees.
    pub struct Preopen {
        /// Its name below the worker's root.
        name: String,
        /// Its path in the guest.
        guest: String,
        /// Whether writing is refused.
        read_only: bool,
    }
}

wire_struct! {
    /// Limits of a run or a task; `None` is no limit of its own.
    #[derive(Default)]
    pub struct RunLimits {
        /// Share of a core in thousandths, throttled over periods of 100 ms.
        cpu_millis: Option<u32>,
        /// CPU time in nanoseconds; it is ended when it has used that.
        cpu_budget_ns: Option<u64>,
        /// Memory in bytes, summed over memories, tables and host buffers.
        memory_bytes: Option<u64>,
    }
}

wire_struct! {
    /// What a run has used.
    #[derive(Default)]
    pub struct Usage {
        /// CPU time in nanoseconds.
        cpu_ns: u64,
        /// Memory in use, in bytes.
        memory_bytes: u64,
        /// Highest memory use, in bytes.
        memory_peak_bytes: u64,
        /// Nanoseconds from the start's arrival to the instance's being ready; of the last one for HTTP.
        instantiate_ns: u64,
        /// Nanoseconds that the program has been running.
        run_ns: u64,
        /// Requests answered, for HTTP.
        requests: u64,
    }
}

wire_enum! {
    /// How a run is asked to end.
    pub enum Stop {
        /// Tell the guest, which may end by itself: `neargate:task/context` says so, an HTTP handler gets no
        /// new requests. One that cannot know is ended at once, with this exit code.
        0 => Ask { code: i32 },
        /// End it now.
        1 => Kill { code: i32 },
    }
}

wire_enum! {
    /// Why a run ended other than by itself.
    pub enum Cause {
        /// It ended by itself.
        0 => Exit {},
        /// It trapped.
        1 => Trap {},
        /// It went over its memory limit.
        2 => OutOfMemory {},
        /// It has used up its CPU time.
        3 => CpuBudget {},
        /// It was asked to end.
        4 => Stopped {},
        /// It asked for an interface that its task definition does not grant.
        5 => Denied {},
    }
}

wire_struct! {
    /// How a run ended.
    pub struct RunExit {
        /// The exit code.
        code: i32,
        /// Why.
        cause: Cause,
        /// For people: the trap and where it happened.
        reason: Option<String>,
        /// What it has used.
        usage: Usage,
        /// What comes with it.
        attachments: Vec<Attachment>,
    }
}

wire_enum! {
    /// What a run may leave.
    pub enum Attachment {
        /// A core dump in the tool-conventions format.
        0 => CoreDump {},
        /// A profile in the format of the Firefox Profiler.
        1 => Profile {},
    }
}

wire_enum! {
    /// Why a run did not start.
    pub enum StartFailure {
        /// The image has nothing like that to run.
        0 => NoEntry { why: String },
        /// It imports what is not there or not granted.
        1 => Import { why: String },
        /// A directory cannot be opened.
        2 => Preopen { name: String, errno: i32 },
        /// All places are taken.
        3 => Full {},
        /// Something else.
        4 => System { step: String, errno: i32 },
    }
}

wire_enum! {
    /// What a guest wants of the server.
    pub enum HostRequest {
        /// Look up a name: the answer is addresses.
        0 => Resolve { name: String },
        /// Operations of `wasi:keyvalue`. A bucket belongs to the tenant of the worker.
        1 => KvGet { bucket: String, key: String },
        /// Sets a value.
        2 => KvSet { bucket: String, key: String, value: Vec<u8> },
        /// Removes a value.
        3 => KvDelete { bucket: String, key: String },
        /// Asks for a key.
        4 => KvExists { bucket: String, key: String },
        /// Lists keys.
        5 => KvList { bucket: String, cursor: Option<String> },
        /// Adds to a number.
        6 => KvIncrement { bucket: String, key: String, delta: i64 },
        /// Sets a value if it is the old one.
        7 => KvSwap { bucket: String, key: String, old: Option<Vec<u8>>, new: Vec<u8> },
        /// A socket in the network of its task, for a run with [`Network::Own`].
        8 => Socket { socket: SocketPlan },
    }
}

wire_enum! {
    /// A socket, neither bound nor connected.
    pub enum SocketPlan {
        /// TCP.
        0 => Stream { is_v6: bool },
        /// UDP.
        1 => Datagram { is_v6: bool },
    }
}

wire_enum! {
    /// The answer.
    pub enum HostReply {
        /// Addresses in text form.
        0 => Addresses { addresses: Vec<String> },
        /// A value, or that there is none.
        1 => Value { value: Option<Vec<u8>> },
        /// Done.
        2 => Done {},
        /// Yes or no.
        3 => Is { is: bool },
        /// Keys, and where to go on.
        4 => Keys { keys: Vec<String>, cursor: Option<String> },
        /// A number.
        5 => Number { number: i64 },
        /// It did not work.
        6 => Failed { why: String },
        /// The socket is beside it.
        7 => Socket {},
    }
}

/// Largest encoded [`CompileReply`], in bytes.
pub const COMPILE_REPLY_BYTES_MAX: usize = 1 << 20;
/// Most descriptors that a message of [`ToWorker`] or [`FromWorker`] brings: three streams, listening sockets
/// and cgroup files.
pub const FDS_MAX: usize = neargate_ipc::channel::FDS_MAX;
/// Largest core dump or profile that is kept, in bytes.
pub const ATTACHMENT_BYTES_MAX: usize = 64 << 20;
/// Largest value of `wasi:keyvalue`, in bytes.
pub const KEY_VALUE_BYTES_MAX: usize = 1 << 20;
