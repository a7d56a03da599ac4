//! Files of foreign owners, in the hands of processes that do nothing else.
//!
//! ```text
//!  image store, node ──▶ Keeper ──sockets──▶ file keeper   lasting: removes, moves, measures, gives away
//!                          └────a descriptor─▶ unpacker     one for each layer; sees that layer's directory alone
//! ```
//!
//! What containers write and what layers hold belongs to many users, and to remove or to make it takes rights that a
//! process which reads requests should not have. Both kinds of process are fenced by the launcher: no network, the
//! capabilities over files and no others, and in sight nothing but the directories that they are about. What they do
//! there is what the image store and the node would do themselves.

mod connections;
mod protocol;
mod role;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use neargate_driver::{ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser};
use neargate_image::{LayerFiles, Limits, Options, Ownership, UnpackError, Unpacked};
use neargate_ipc::channel;
use neargate_ipc::wire::encode;
use neargate_model::image::Digest;
use neargate_node::{OwnTaskFiles, TaskFiles, UsageError};

use self::connections::{Connections, blocking, receive};
use self::protocol::{Request, Response, UnpackOrder, Unpacking};
use crate::data_dir::DataDir;

pub(crate) use self::role::{keeper_main, unpacker_main};

/// The most memory of a process that unpacks: zstd's largest window, the paths of a layer's directories, and the pages
/// that it has written and the disk has not taken yet.
const UNPACK_MEMORY_BYTES: u64 = 1 << 30;
/// The most CPU time, in seconds, for one layer: several times what the largest one that is allowed takes.
const UNPACK_CPU_SECONDS: u64 = 1800;
/// What an unpacker calls the directory that it unpacks into.
const LAYER: &str = "layer";

/// Looks after a data directory's files by processes that may. Clones share them.
#[derive(Clone)]
pub(crate) struct Keeper {
    processes: Arc<dyn ProcessHost>,
    connections: Arc<Connections>,
    trees: Arc<[Tree]>,
}

/// A directory that the keeper sees.
struct Tree {
    name: &'static str,
    /// As the callers name it, and without links.
    given: PathBuf,
    real: PathBuf,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// A keeper of some directories, under their names. Its process is started when it is needed.
    fn new(trees: Vec<(&'static str, PathBuf)>, processes: Arc<dyn ProcessHost>) -> Result<Self> {
        let trees = trees.into_iter().map(|(name, given)| Tree::new(name, given));
        let trees: Arc<[Tree]> = trees.collect::<Result<_>>()?;
        let mount = |tree: &Tree| ProcessMount {
            source: tree.real.clone(),
            name: tree.name.to_owned(),
            read_only: false,
        };
        let mounts = trees.iter().map(mount).collect();
        let connections = Arc::new(Connections::new(processes.clone(), mounts));
        Ok(Self { processes, connections, trees })
    }

    fn image_options(&self) -> Options {
        Options { ownership: Ownership::Preserve, files: Arc::new(self.clone()), ..Options::default() }
    }

    fn call(&self, request: &Request) -> io::Result<Response> {
        match self.connections.call(request)? {
            Response::Failed { errno: Some(errno), .. } => Err(io::Error::from_raw_os_error(errno)),
            Response::Failed { errno: None, text } => Err(io::Error::other(text)),
            response => Ok(response),
        }
    }

    fn done(&self, request: &Request) -> io::Result<()> {
        match self.call(request)? {
            Response::Done {} => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// What the keeper calls a path.
    fn place(&self, path: &Path) -> io::Result<Vec<u8>> {
        let below = |tree: &Tree| {
            let below = path.strip_prefix(&tree.given).or_else(|_| path.strip_prefix(&tree.real)).ok()?;
            Some(Path::new(tree.name).join(below).as_os_str().as_bytes().to_vec())
        };
        self.trees.iter().find_map(below).ok_or_else(|| {
            let what = format!("{} is not below the directories that are looked after", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })
    }

    /// Has a process do something with a layer, and waits for its end.
    fn read_layer(
        &self,
        layer: File,
        directory: Option<&Path>,
        limits: &Limits,
        ownership: Ownership,
    ) -> Result<Unpacking, UnpackError> {
        let process = |source| UnpackError::Process { source };
        let mount = |source: &Path| ProcessMount {
            source: source.to_owned(),
            name: LAYER.to_owned(),
            read_only: false,
        };
        let (ours, theirs) = channel::pair().map_err(process)?;
        let spec = ProcessSpec {
            role: ProcessRole::Unpacker,
            name: "unpacker".to_owned(),
            input: encode(&UnpackOrder::new(directory.is_some(), limits, ownership)),
            fds: vec![layer.into(), theirs],
            mounts: directory.map(mount).into_iter().collect(),
            user: ProcessUser::Root,
            network: ProcessNetwork::None,
            memory_bytes: Some(UNPACK_MEMORY_BYTES),
            address_space_bytes: None,
            cpu_seconds: Some(UNPACK_CPU_SECONDS),
            core: None,
        };
        let child = blocking(self.processes.spawn(spec)).and_then(|child| child.map_err(io::Error::other));
        let child = child.map_err(process)?;
        let answer = receive(&ours);
        let exit = blocking(child.wait()).map_err(process)?;
        match answer.map_err(process)? {
            Some(unpacking) => Ok(unpacking),
            None if exit.oom => {
                let text = format!("it used more than {} MiB of memory", UNPACK_MEMORY_BYTES >> 20);
                Err(process(io::Error::other(text)))
            }
            None => Err(process(io::Error::other(format!("it ended with code {}", exit.code)))),
        }
    }
}

impl Tree {
    fn new(name: &'static str, given: PathBuf) -> Result<Self> {
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&given);
        let real = make.and_then(|()| fs::canonicalize(&given));
        let real = real.with_context(|| format!("make directory {}", given.display()))?;
        Ok(Self { name, given, real })
    }
}

fn unexpected() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the keeper of files answered something else than it was asked",
    )
}

impl LayerFiles for Keeper {
    fn unpack(
        &self,
        layer: File,
        directory: &Path,
        limits: &Limits,
        ownership: Ownership,
    ) -> Result<Unpacked, UnpackError> {
        self.read_layer(layer, Some(directory), limits, ownership)?.unpacked()
    }

    fn diff_id(&self, layer: File, limits: &Limits) -> Result<Digest, UnpackError> {
        let read = self.read_layer(layer, None, limits, Ownership::Caller)?.unpacked();
        read.map(|unpacked| unpacked.diff_id)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.done(&Request::Rename { from: self.place(from)?, to: self.place(to)? })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.done(&Request::Remove { path: self.place(path)? })
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        match self.call(&Request::Size { path: self.place(path)? })? {
            Response::Bytes { bytes } => Ok(bytes),
            _ => Err(unexpected()),
        }
    }
}

impl TaskFiles for Keeper {
    fn remove(&self, dir: &Path) -> io::Result<()> {
        LayerFiles::remove(self, dir)
    }

    fn clear(&self, dir: &Path) -> io::Result<()> {
        self.done(&Request::Clear { path: self.place(dir)? })
    }

    fn give(&self, dir: &Path) -> io::Result<()> {
        self.done(&Request::Give { path: self.place(dir)? })
    }

    fn usage(&self, dir: &Path, enough: u64) -> Result<u64, UsageError> {
        let asked = self.place(dir).and_then(|path| self.call(&Request::Usage { path, enough }));
        match asked.map_err(|source| UsageError::System { source })? {
            Response::Bytes { bytes } => Ok(bytes),
            Response::TooDeep {} => Err(UsageError::TooDeep),
            _ => Err(UsageError::System { source: unexpected() }),
        }
    }
}

/// Who looks after files of foreign owners.
#[derive(Clone, Debug)]
pub(crate) enum Files {
    /// This process, with the rights that it has.
    Own,
    /// Processes that may.
    Kept(Keeper),
    /// A process for what containers write, whose owner closes it as it likes; all belongs to the user.
    OfContainers(Keeper),
}

impl Files {
    /// Images, scratch space and volumes.
    pub(crate) fn of_all(data: &DataDir, processes: Arc<dyn ProcessHost>, is_root: bool) -> Result<Self> {
        let trees = [("images", data.images()), ("scratch", data.scratch()), ("volumes", data.volumes())];
        Self::of(trees.to_vec(), processes, is_root)
    }

    /// Images alone.
    pub(crate) fn of_images(data: &DataDir, processes: Arc<dyn ProcessHost>, is_root: bool) -> Result<Self> {
        Self::of(vec![("images", data.images())], processes, is_root)
    }

    /// Those of an ordinary user's containers, in these directories.
    pub(crate) fn of_containers(
        trees: Vec<(&'static str, PathBuf)>,
        processes: Arc<dyn ProcessHost>,
    ) -> Result<Self> {
        Keeper::new(trees, processes).map(Self::OfContainers)
    }

    /// The best that can be had: where the program was not started as root there are no foreign owners.
    fn of(
        trees: Vec<(&'static str, PathBuf)>,
        processes: Arc<dyn ProcessHost>,
        is_root: bool,
    ) -> Result<Self> {
        match is_root {
            true => Keeper::new(trees, processes).map(Self::Kept),
            false => Ok(Self::Own),
        }
    }

    /// What the image store works with.
    pub(crate) fn image_options(&self) -> Options {
        match self {
            Self::Own | Self::OfContainers(_) => Options::default(),
            Self::Kept(keeper) => keeper.image_options(),
        }
    }

    /// What the node works with.
    pub(crate) fn of_tasks(&self) -> Arc<dyn TaskFiles> {
        match self {
            Self::Own => Arc::new(OwnTaskFiles),
            Self::Kept(keeper) | Self::OfContainers(keeper) => Arc::new(keeper.clone()),
        }
    }
}
