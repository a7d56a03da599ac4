//! Compiled code from a descriptor.
//!
//! A worker has no file system, so code comes as a descriptor and not as a path. For modules wasmtime takes
//! one. For components it takes a path, bytes or memory; bytes would be copied, and the copy would be each
//! worker's own. So we map the file, as wasmtime would, and hand over the memory. Pages of code are then those
//! of the page cache, shared by all processes that run the image.
//!
//! This is one of two modules of the crate with `unsafe` in them; the other is `net::handed`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};

use neargate_wasm::protocol::BinaryKind;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect};
use wasmtime::component::Component;
use wasmtime::{CustomCodeMemory, Engine, Module};

/// A loaded binary.
pub(crate) enum Binary {
    Module(Module),
    Component(Component),
}

/// Loads what the compiler role has written into this file.
pub(crate) fn load(engine: &Engine, kind: &BinaryKind, file: OwnedFd) -> wasmtime::Result<Binary> {
    // SAFETY: both functions want bytes that `Engine::precompile_*` returned, unchanged as long as they are
    // used. The descriptor comes over the control socket, whose other end is the server: it hands over only
    // files of its store of compiled code, which the compiler role alone fills, which nobody but the server's
    // user may write to, and whose files are never changed after they got their name. That they fit this
    // version of wasmtime and its settings is checked by wasmtime.
    // `Component::deserialize_raw` also wants the memory to stay, and `map` gives memory that is never unmapped.
    unsafe {
        match kind {
            BinaryKind::Module {} => {
                Module::deserialize_open_file(engine, File::from(file)).map(Binary::Module)
            }
            BinaryKind::Component {} => {
                Component::deserialize_raw(engine, map(&file)?).map(Binary::Component)
            }
        }
    }
}

/// Maps a whole file, for ever: a component's code is used by its instances and by wasmtime's registry of code,
/// and nothing tells when the last of them is gone. What stays behind after an image was unloaded is address
/// space and clean pages of a file, which the kernel takes back when it needs them.
fn map(file: &OwnedFd) -> io::Result<NonNull<[u8]>> {
    let length =
        usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
    let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(NonNull::slice_from_raw_parts(start, length))
}

/// Makes mapped code executable, which wasmtime does not do with memory that is not its own.
pub(crate) struct CodeProtection;

impl CodeProtection {
    fn protect(ptr: *const u8, len: usize, flags: MprotectFlags) -> wasmtime::Result<()> {
        // SAFETY: wasmtime calls this only for the text section of code that it has just loaded or drops:
        // whole pages of a mapping made by `map` or by itself, to which nobody holds a mutable reference. They
        // become readable and executable, never writable.
        Ok(unsafe { mprotect(ptr.cast_mut().cast(), len, flags) }?)
    }
}

impl CustomCodeMemory for CodeProtection {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, ptr: *const u8, len: usize) -> wasmtime::Result<()> {
        Self::protect(ptr, len, MprotectFlags::READ | MprotectFlags::EXEC)
    }

    fn unpublish_executable(&self, ptr: *const u8, len: usize) -> wasmtime::Result<()> {
        Self::protect(ptr, len, MprotectFlags::READ)
    }
}
