//! What of an image is run, and whether it may be: decided from what the compiler saw and what the task says.

use neargate_model::WasmOptions;

use crate::interfaces;
use crate::protocol::{BinaryKind, Entry, EntryKind, Inspection};

/// The label of a container by which interfaces are granted.
const GRANTS_LABEL: &str = "neargate.wasm.grants";
/// The label of a container by which it gets the host's network.
const NETWORK_LABEL: &str = "neargate.wasm.network";
/// By this name a handler is meant where an image is also a program.
const HANDLER_NAMES: [&str; 3] = ["neargate:task/handler", "handler", "handle"];
/// Exports that an error names.
const NAMED_MAX: usize = 20;

/// Why an image cannot be run as it is asked for. Each says what there is and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("the {binary} exports no function `{name}`; it exports: {exports}")]
    NoExport { binary: &'static str, name: String, exports: String },
    #[error(
        "the {binary} is no program: it has no `_start` or `wasi:cli/run`; it exports: {exports} (name a function with the label `neargate.wasm.export` or --invoke)"
    )]
    NoProgram { binary: &'static str, exports: String },
    #[error(
        "it answers HTTP requests (wasi:http) but has no address; give the container a port mapping, or `neargate run` the option --http ADDR"
    )]
    NoListener,
    #[error(
        "it has an address and does not answer HTTP requests: it exports no `wasi:http/incoming-handler`; leave the port mapping or --http away, or, if it listens by itself, give it the host's network with the label `{NETWORK_LABEL}` = host"
    )]
    NoHandler,
    #[error(
        "it has an address and does not answer HTTP requests: it exports no `wasi:http/incoming-handler`; if it listens by itself, it is reached at the port that it listens on: give containerPort and hostPort that same number, or leave the port mapping or --http away"
    )]
    OtherPort,
    #[error(
        "a profile is kept of a program or function, and it answers HTTP requests, each in an instance of its own; leave `neargate.wasm.profile` or --profile away"
    )]
    HttpProfile,
    #[error(
        "it imports {import}, which the task is not granted; grant {grant} with the label `{GRANTS_LABEL}` or --grant"
    )]
    NotGranted { import: String, grant: &'static str },
}

/// What is run of a binary when no function is named. A component that is both a handler of `neargate:task` and a
/// program is run as the program, which is its portable form.
pub(crate) fn preferred(seen: &Inspection) -> Option<&EntryKind> {
    let order = [EntryKind::Http {}, EntryKind::Command {}, EntryKind::Handler {}];
    order.iter().find_map(|kind| seen.entries.iter().find(|entry| *entry == kind))
}

/// The listening sockets of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    /// It has none.
    Nowhere,
    /// It has sockets, and no network in which it could make others.
    ForHandlers,
    /// It has a network, and sockets, each with the port that the container calls it by.
    OwnPorts,
    /// It has a network and sockets with other ports.
    OtherPorts,
}

/// What is run when a container is started, and whether it can be reached where the container says.
pub(crate) fn choose(
    seen: &Inspection,
    options: &WasmOptions,
    listening: Listening,
) -> Result<Entry, EntryError> {
    let entry = named_or_preferred(seen, options)?;
    match (&entry, listening) {
        (Entry::Http { .. }, Listening::Nowhere) => Err(EntryError::NoListener),
        (Entry::Http { .. }, _) if options.profile => Err(EntryError::HttpProfile),
        (Entry::Http { .. }, _) | (_, Listening::Nowhere) => Ok(entry),
        // Nobody would ever answer the clients that the kernel lets connect.
        (_, Listening::ForHandlers) => Err(EntryError::NoHandler),
        // It can listen there itself, once the sockets are closed.
        (_, Listening::OwnPorts) => Ok(entry),
        (_, Listening::OtherPorts) => Err(EntryError::OtherPort),
    }
}

fn named_or_preferred(seen: &Inspection, options: &WasmOptions) -> Result<Entry, EntryError> {
    if let Some(name) = &options.export {
        return export(seen, name);
    }
    match preferred(seen) {
        Some(EntryKind::Http {}) => Ok(Entry::Http { reuse: options.reuse }),
        Some(EntryKind::Command {}) => Ok(Entry::Command {}),
        Some(EntryKind::Handler {}) => Ok(Entry::Handler {}),
        None => Err(EntryError::NoProgram { binary: binary(seen), exports: exports(seen) }),
    }
}

/// What is run for a health check: the function that the first word names, or else the program anew.
pub(crate) fn choose_check(seen: &Inspection, first_word: &str) -> Result<Entry, EntryError> {
    if seen.exports.iter().any(|export| export.name == first_word) {
        return Ok(Entry::Export { name: first_word.to_owned() });
    }
    match seen.entries.contains(&EntryKind::Command {}) {
        true => Ok(Entry::Command {}),
        false => export(seen, first_word),
    }
}

fn export(seen: &Inspection, name: &str) -> Result<Entry, EntryError> {
    if seen.exports.iter().any(|export| export.name == name) {
        return Ok(Entry::Export { name: name.to_owned() });
    }
    if HANDLER_NAMES.contains(&name) && seen.entries.contains(&EntryKind::Handler {}) {
        return Ok(Entry::Handler {});
    }
    Err(EntryError::NoExport { binary: binary(seen), name: name.to_owned(), exports: exports(seen) })
}

/// Refuses imports that need a grant which the task does not have.
pub(crate) fn check_grants(seen: &Inspection, options: &WasmOptions) -> Result<(), EntryError> {
    match interfaces::missing_grants(seen, &options.grants).first() {
        Some((import, grant)) => Err(EntryError::NotGranted { import: (*import).to_owned(), grant }),
        None => Ok(()),
    }
}

fn binary(seen: &Inspection) -> &'static str {
    match seen.kind {
        BinaryKind::Module {} => "module",
        BinaryKind::Component {} => "component",
    }
}

fn exports(seen: &Inspection) -> String {
    if seen.exports.is_empty() {
        return "no functions".to_owned();
    }
    let names: Vec<&str> = seen.exports.iter().take(NAMED_MAX).map(|export| export.name.as_str()).collect();
    let more = seen.exports.len().saturating_sub(NAMED_MAX);
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::Listening::{ForHandlers, Nowhere, OtherPorts, OwnPorts};
    use super::*;
    use crate::protocol::{EngineKind, ExportInfo};

    const COMMAND: EntryKind = EntryKind::Command {};
    const HTTP: EntryKind = EntryKind::Http {};
    const HANDLER: EntryKind = EntryKind::Handler {};

    fn seen(entries: &[EntryKind], exports: &[&str], imports: &[&str]) -> Inspection {
        let info =
            |name: &&str| ExportInfo { name: (*name).to_owned(), signature: "func() -> bool".to_owned() };
        Inspection {
            kind: BinaryKind::Component {},
            engine: EngineKind::Sync {},
            entries: entries.to_vec(),
            exports: exports.iter().map(info).collect(),
            imports: imports.iter().map(|import| (*import).to_owned()).collect(),
            compiler: "test".to_owned(),
        }
    }

    #[test]
    fn entries_by_what_is_there_and_asked_for() {
        let check = |entries: &[EntryKind], export: Option<&str>, listening, expect: Result<Entry, &str>| {
            let seen = seen(entries, &["add", "hello"], &[]);
            let options = WasmOptions { export: export.map(str::to_owned), ..WasmOptions::default() };
            let found = choose(&seen, &options, listening).map_err(|error| error.to_string());
            match (&found, expect) {
                (Ok(entry), Ok(wanted)) => assert_eq!(*entry, wanted, "{entries:?} {export:?}"),
                (Err(text), Err(part)) => assert!(text.contains(part), "{text:?} lacks {part:?}"),
                (found, expect) => panic!("{entries:?} {export:?}: {found:?}, expected {expect:?}"),
            }
        };
        check(&[COMMAND], None, Nowhere, Ok(Entry::Command {}));
        check(&[HANDLER], None, Nowhere, Ok(Entry::Handler {}));
        check(&[HANDLER, COMMAND], None, Nowhere, Ok(Entry::Command {}));
        check(&[COMMAND, HTTP], None, OtherPorts, Ok(Entry::Http { reuse: None }));
        check(&[HTTP], None, OwnPorts, Ok(Entry::Http { reuse: None }));
        check(&[HTTP], None, Nowhere, Err("--http ADDR"));
        let profiled = WasmOptions { profile: true, ..WasmOptions::default() };
        assert_eq!(choose(&seen(&[HTTP], &[], &[]), &profiled, OwnPorts), Err(EntryError::HttpProfile));
        assert_eq!(choose(&seen(&[COMMAND], &[], &[]), &profiled, Nowhere), Ok(Entry::Command {}));
        check(&[HANDLER, COMMAND], None, ForHandlers, Err("no `wasi:http/incoming-handler`"));
        check(&[COMMAND], Some("add"), ForHandlers, Err("no `wasi:http/incoming-handler`"));
        check(&[COMMAND], Some("add"), Nowhere, Ok(Entry::Export { name: "add".to_owned() }));
        check(&[HANDLER, COMMAND], Some("handle"), Nowhere, Ok(Entry::Handler {}));
        check(
            &[COMMAND],
            Some("handle"),
            Nowhere,
            Err("exports no function `handle`; it exports: add, hello"),
        );
        check(
            &[COMMAND],
            Some("greet"),
            Nowhere,
            Err("the component exports no function `greet`; it exports: add, hello"),
        );
        check(&[], None, Nowhere, Err("no program"));
    }

    #[test]
    fn programs_with_a_network_listen_themselves() {
        let options = WasmOptions::default();
        let check = |entries: &[EntryKind], listening, expect| {
            assert_eq!(choose(&seen(entries, &[], &[]), &options, listening), expect);
        };
        check(&[COMMAND], Nowhere, Ok(Entry::Command {}));
        check(&[COMMAND], OwnPorts, Ok(Entry::Command {}));
        check(&[COMMAND], OtherPorts, Err(EntryError::OtherPort));
        check(&[COMMAND, HTTP], OtherPorts, Ok(Entry::Http { reuse: None }));
    }

    #[test]
    fn checks_prefer_a_function() {
        let image = seen(&[COMMAND], &["healthy"], &[]);
        assert_eq!(choose_check(&image, "healthy"), Ok(Entry::Export { name: "healthy".to_owned() }));
        assert_eq!(choose_check(&image, "other"), Ok(Entry::Command {}));
        let text = choose_check(&seen(&[HTTP], &[], &[]), "other").unwrap_err().to_string();
        assert!(text.ends_with("it exports: no functions"), "{text}");
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..25).map(|n| format!("f{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = exports(&seen(&[], &names, &[]));
        assert!(text.ends_with("f19 and 5 more"), "{text}");
    }

    #[test]
    fn imports_need_grants() {
        let check = |imports: &[&str], engine: EngineKind, grants: &[&str], expect: Option<&str>| {
            let image = Inspection { engine, ..seen(&[COMMAND], &[], imports) };
            let grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
            let options = WasmOptions { grants, ..WasmOptions::default() };
            let found = check_grants(&image, &options).err().map(|error| error.to_string());
            match (&found, expect) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{text:?} lacks {part:?}"),
                _ => panic!("{imports:?} with {options:?}: {found:?}, expected {expect:?}"),
            }
        };
        let sync = || EngineKind::Sync {};
        let store = "wasi:keyvalue/store@0.2.0-draft";
        check(&["wasi:cli/environment@0.2.0"], sync(), &[], None);
        check(&[store], sync(), &[], Some(store));
        check(&[store], sync(), &["wasi:config"], Some("grant wasi:keyvalue with the label"));
        check(&[store], sync(), &["wasi:keyvalue"], None);
        let concurrent = || EngineKind::Concurrent {};
        check(&["wasi:cli/stdout@0.3.0"], concurrent(), &[], Some("wasi:cli/stdout@0.3.0"));
        check(&[], concurrent(), &[], Some("imports WASI 0.3"));
        check(&["wasi:cli/stdout@0.3.0"], concurrent(), &["wasi:p3"], None);
    }
}
