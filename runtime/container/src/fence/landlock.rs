//! Landlock: files beneath given directories only, no TCP port, no signal and no abstract socket outside.
//!
//! Namespaces say the same; this holds when one of them leaks. Each right is handled where the kernel knows it
//! (landlock(7)): files since Linux 5.13, TCP ports since 6.7, signals and abstract UNIX sockets since 6.12.

use std::error::Error;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use neargate_driver::{ProcessNetwork, ProcessRole};

/// The newest version that this was tested with; newer kernels behave as this one.
const TESTED: ABI = ABI::V7;

/// What may be done beneath a directory. Nothing is executed there, and no device, socket or pipe made, but by an
/// unpacker: pipes, and the device 0:0 by which overlayfs knows what a layer removes.
fn rights(role: ProcessRole, read_only: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    if read_only {
        return read;
    }
    let special = match role {
        ProcessRole::Unpacker => AccessFs::MakeChar | AccessFs::MakeFifo,
        _ => BitFlags::empty(),
    };
    read | special
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSym
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::Refer
}

/// Restricts the calling, only thread to what is beneath the directories at `/<name>`.
pub(super) fn restrict(
    beneath: &[(String, bool)],
    role: ProcessRole,
    network: ProcessNetwork,
) -> io::Result<()> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(TESTED))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(TESTED)))
        .map_err(|error| cause(&error))?;
    if network == ProcessNetwork::None {
        ruleset = ruleset.handle_access(AccessNet::from_all(TESTED)).map_err(|error| cause(&error))?;
    }
    let mut created = ruleset.create().map_err(|error| cause(&error))?;
    for (name, read_only) in beneath {
        let dir = PathFd::new(format!("/{name}")).map_err(|error| cause(&error))?;
        created = created
            .add_rule(PathBeneath::new(dir, rights(role, *read_only)))
            .map_err(|error| cause(&error))?;
    }
    created.restrict_self().map(drop).map_err(|error| cause(&error))
}

/// The system error at the bottom of one of the landlock crate.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    match (number, error.source()) {
        (Some(number), _) => io::Error::from_raw_os_error(number),
        (None, Some(source)) => cause(source),
        (None, None) => io::Error::other(error.to_string()),
    }
}
