//! What the processes do that keep files. They see nothing but the directories that were mounted for them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::thread;

use neargate_image::{LayerFiles, OwnLayerFiles};
use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};
use neargate_node::{OwnTaskFiles, TaskFiles, UsageError};

use super::LAYER;
use super::protocol::{Request, Response, UnpackOrder, Unpacking};

/// The stack of a thread that removes trees: it goes one call deeper with each directory below another.
const STACK_BYTES: usize = 64 << 20;

/// The role function of a keeper of files: answers what comes over its sockets, each on a thread of its own, until
/// their other ends are closed.
pub(crate) fn keeper_main(_input: &[u8], fds: Vec<OwnedFd>) -> i32 {
    let start = |socket| thread::Builder::new().stack_size(STACK_BYTES).spawn(move || serve(&socket));
    let threads: Vec<_> = fds.into_iter().map(start).collect();
    let failed = threads.into_iter().filter_map(|thread| thread.ok()?.join().err()).count();
    i32::from(failed > 0)
}

fn serve(socket: &OwnedFd) {
    let mut buffer = Vec::new();
    while let Ok(Some(frame)) = channel::receive(socket.as_fd(), &mut buffer, true) {
        // Both ends are one program, so what cannot be read is no request of its.
        let Ok(request) = decode::<Request>(&frame.message) else { return };
        let response = answer(&request).unwrap_or_else(|error| Response::failed(&error));
        if channel::send(socket.as_fd(), frame.id, &encode(&response), &[], true).is_err() {
            return;
        }
    }
}

fn answer(request: &Request) -> io::Result<Response> {
    let done = |()| Response::Done {};
    match request {
        Request::Remove { path } => LayerFiles::remove(&OwnLayerFiles, &real(path)?).map(done),
        Request::Rename { from, to } => OwnLayerFiles.rename(&real(from)?, &real(to)?).map(done),
        Request::Size { path } => OwnLayerFiles.size(&real(path)?).map(|bytes| Response::Bytes { bytes }),
        Request::Clear { path } => OwnTaskFiles.clear(&real(path)?).map(done),
        Request::Give { path } => OwnTaskFiles.give(&real(path)?).map(done),
        Request::Usage { path, enough } => match OwnTaskFiles.usage(&real(path)?, *enough) {
            Ok(bytes) => Ok(Response::Bytes { bytes }),
            Err(UsageError::TooDeep) => Ok(Response::TooDeep {}),
            Err(UsageError::System { source }) => Err(source),
        },
    }
}

/// Where a path is here. It leads below a mount, never to one itself and never upwards; through a link it leads to
/// another directory of the mounts at most.
fn real(path: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    match is_plain && path.components().count() > 1 {
        true => Ok(Path::new("/").join(path)),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not below a directory that is kept"))
        }
    }
}

/// The role function of an unpacker. Returns 0 when it has told what it did.
pub(crate) fn unpacker_main(input: &[u8], fds: Vec<OwnedFd>) -> i32 {
    let (Ok(order), Ok([layer, reply])) = (decode::<UnpackOrder>(input), <[OwnedFd; 2]>::try_from(fds))
    else {
        return 2;
    };
    let told = encode(&unpack(&order, File::from(layer)));
    i32::from(channel::send(reply.as_fd(), 0, &told, &[], true).is_err())
}

fn unpack(order: &UnpackOrder, layer: File) -> Unpacking {
    let limits = order.limits();
    if order.unpacks {
        let directory = Path::new("/").join(LAYER);
        return OwnLayerFiles.unpack(layer, &directory, &limits, order.ownership()).into();
    }
    let read = OwnLayerFiles.diff_id(layer, &limits);
    let read = read.map(|diff_id| neargate_image::Unpacked { diff_id, entries: 0, bytes: 0, skipped: 0 });
    read.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_mounts() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(real(path.as_bytes()).ok().as_deref(), expect.map(Path::new), "{path:?}");
        };
        check("scratch/a", Some("/scratch/a"));
        check("images/layers/ab", Some("/images/layers/ab"));
        for bad in ["", "/", "scratch", "scratch/", "scratch/..", "../a/b", "/scratch/a", "scratch/a/../../b"]
        {
            check(bad, None);
        }
    }
}
