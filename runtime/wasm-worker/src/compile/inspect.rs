//! What a binary imports and exports: whether and how it can be run.

use neargate_wasm::interfaces::{Offer, PREVIEW_1, offer};
use neargate_wasm::protocol::{BinaryKind, CompileRefusal, EngineKind, EntryKind, ExportInfo, Inspection};
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::{Engine, ExternType, Module};

use super::compiler_id;
use crate::invoke::{function, signature};

/// The functions of WASI preview 1.
const PREVIEW_1_FUNCTIONS: [&str; 46] = [
    "adapter_close_badfd",
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
];
/// How many missing imports a refusal lists.
const LISTED_MAX: usize = 12;
/// How many callable functions are told of a binary; a caller may name others too.
const EXPORTS_MAX: usize = 1000;
/// How many imports are told of a binary that is refused for them; some tool chains import thousands.
const MISSING_MAX: usize = 1000;

/// What a module is, or why it is refused.
pub(super) fn module(module: &Module) -> Result<Inspection, CompileRefusal> {
    let given = |import: &wasmtime::ImportType<'_>| {
        import.module() == PREVIEW_1
            && PREVIEW_1_FUNCTIONS.contains(&import.name())
            && matches!(import.ty(), ExternType::Func(_))
    };
    let missing = module.imports().filter(|import| !given(import));
    let missing: Vec<String> =
        missing.map(|import| format!("{}.{}", import.module(), import.name())).collect();
    let has_preview_1 = module.imports().any(|import| given(&import));
    let start = module.get_export("_start");
    let starts = matches!(&start, Some(ExternType::Func(ty)) if ty.params().len() + ty.results().len() == 0);
    let exports = function::of_module(module);
    let seen = Inspection {
        kind: BinaryKind::Module {},
        engine: EngineKind::Sync {},
        entries: starts.then_some(EntryKind::Command {}).into_iter().collect(),
        exports: exports
            .iter()
            .take(EXPORTS_MAX)
            .map(|export| ExportInfo {
                name: export.full_name(),
                signature: signature::core_function(&export.ty),
            })
            .collect(),
        imports: has_preview_1.then(|| PREVIEW_1.to_owned()).into_iter().collect(),
        compiler: compiler_id(),
    };
    let seen = refuse_missing(missing, seen)?;
    let why = match start {
        Some(_) if !starts => "the module's `_start` is not a function without parameters and results",
        None if exports.is_empty() => "the module exports neither `_start` nor any function of numbers",
        _ => return Ok(seen),
    };
    Err(CompileRefusal::NoEntry { why: why.to_owned(), seen: Box::new(seen) })
}

/// What a component is, or why it is refused.
pub(super) fn component(component: &Component, kind: EngineKind) -> Result<Inspection, CompileRefusal> {
    let (ty, engine) = (component.component_type(), component.engine());
    let mut imports = Vec::new();
    let mut missing = Vec::new();
    for (name, item) in ty.imports(engine) {
        match (item.ty, offer(name)) {
            (ComponentItem::ComponentInstance(_), Offer::Always | Offer::Granted(_)) => {
                imports.push(name.to_owned())
            }
            // Types alone, which a tool chain may leave in an interface, ask for nothing.
            (ComponentItem::ComponentInstance(instance), _) if holds_only_types(&instance, engine) => {}
            (ComponentItem::Type(_), _) => {}
            _ => missing.push(name.to_owned()),
        }
    }
    let entries: Vec<EntryKind> = ty.exports(engine).filter_map(|(name, _)| entry(name)).collect();
    let exports: Vec<ExportInfo> = function::of_component(&ty, engine)
        .iter()
        .filter(|export| function::has_json_form(&export.ty))
        .filter(|export| !export.interface.as_deref().is_some_and(is_of_the_host))
        .take(EXPORTS_MAX)
        .map(|export| ExportInfo { name: export.full_name(), signature: signature::function(&export.ty) })
        .collect();
    let has_entry = !entries.is_empty() || !exports.is_empty();
    let compiler = compiler_id();
    let seen =
        Inspection { kind: BinaryKind::Component {}, engine: kind, entries, exports, imports, compiler };
    let seen = refuse_missing(missing, seen)?;
    if has_entry {
        return Ok(seen);
    }
    let why = "the component exports neither `wasi:cli/run`, `wasi:http/incoming-handler` nor \
               `neargate:task/handler` in a version that is known, nor any function whose types have a \
               form in JSON";
    Err(CompileRefusal::NoEntry { why: why.to_owned(), seen: Box::new(seen) })
}

fn holds_only_types(instance: &ComponentInstance, engine: &Engine) -> bool {
    instance.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
}

/// What an exported interface makes of a component.
fn entry(export: &str) -> Option<EntryKind> {
    let (interface, version) = export.split_once('@')?;
    let is = |minor: &str| {
        let patch = version.strip_prefix(minor);
        patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match interface {
        "wasi:cli/run" if is("0.2.") || is("0.3.") => Some(EntryKind::Command {}),
        "wasi:http/incoming-handler" if is("0.2.") => Some(EntryKind::Http {}),
        "wasi:http/handler" if is("0.3.") => Some(EntryKind::Http {}),
        "neargate:task/handler" if is("0.1.") => Some(EntryKind::Handler {}),
        _ => None,
    }
}

/// Interfaces whose functions have their own way of being called.
fn is_of_the_host(interface: &str) -> bool {
    interface.starts_with("wasi:") || interface.starts_with("neargate:task/")
}

/// Refuses a binary for all that it wants and nothing gives.
fn refuse_missing(missing: Vec<String>, mut seen: Inspection) -> Result<Inspection, CompileRefusal> {
    let Some(name) = missing.first().cloned() else { return Ok(seen) };
    let mut list: Vec<String> = missing.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect();
    if missing.len() > LISTED_MAX {
        list.push(format!("{} more", missing.len() - LISTED_MAX));
    }
    let why = format!("it imports {}, which Neargate does not offer", list.join(", "));
    seen.imports.extend(missing.into_iter().take(MISSING_MAX));
    Err(CompileRefusal::Import { name, why, seen: Box::new(seen) })
}
