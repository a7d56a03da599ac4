//! Which interfaces a component may import, and what a task definition must grant for it.
//!
//! The compiler role refuses what nothing gives, the driver what the task definition does not grant, and the
//! worker checks grants once more before it instantiates.

use crate::protocol::{EngineKind, Inspection};

/// The grant for `wasi:config`.
pub const GRANT_CONFIG: &str = "wasi:config";
/// The grant for `wasi:keyvalue`.
pub const GRANT_KEY_VALUE: &str = "wasi:keyvalue";
/// The grant for `wasi:logging`.
pub const GRANT_LOGGING: &str = "wasi:logging";
/// The grant for WASI 0.3, which wasmtime itself still calls experimental.
pub const GRANT_P3: &str = "wasi:p3";
/// All grants that there are.
pub const GRANTS: [&str; 4] = [GRANT_CONFIG, GRANT_KEY_VALUE, GRANT_LOGGING, GRANT_P3];

/// The module from which programs of WASI preview 1 import.
pub const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// How an imported interface is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// To every task. What a task may do with it (sockets, outgoing HTTP) is decided at each call.
    Always,
    /// To a task whose definition grants this.
    Granted(&'static str),
    /// To no task.
    Never,
}

/// What WASI 0.2 and 0.3 both have.
const BOTH: [&str; 18] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/ip-name-lookup",
];

/// What WASI 0.2 has besides; every task gets it.
const P2: [&str; 11] = [
    "wasi:clocks/wall-clock",
    "wasi:http/outgoing-handler",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:sockets/instance-network",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What WASI 0.3 has besides.
const P3: [&str; 5] = [
    "wasi:cli/types",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:http/client",
    "wasi:sockets/types",
];

/// Proposals, which have no versions yet that could be compatible with each other: the names are exact.
const PROPOSALS: [(&str, &str); 9] = [
    ("wasi:config/store@0.2.0-rc.1", GRANT_CONFIG),
    ("wasi:keyvalue/store@0.2.0-draft", GRANT_KEY_VALUE),
    ("wasi:keyvalue/atomics@0.2.0-draft", GRANT_KEY_VALUE),
    ("wasi:keyvalue/batch@0.2.0-draft", GRANT_KEY_VALUE),
    ("wasi:keyvalue/store@0.2.0-draft2", GRANT_KEY_VALUE),
    ("wasi:keyvalue/atomics@0.2.0-draft2", GRANT_KEY_VALUE),
    ("wasi:keyvalue/batch@0.2.0-draft2", GRANT_KEY_VALUE),
    ("wasi:logging/logging@0.1.0-draft", GRANT_LOGGING),
    ("wasi:logging/logging", GRANT_LOGGING),
];

/// How an interface is given, by its full name: `wasi:cli/environment@0.2.6`.
///
/// Releases of WASI are compatible within 0.2 and within 0.3; release candidates are compatible with nothing.
pub fn offer(import: &str) -> Offer {
    if let Some((_, grant)) = PROPOSALS.iter().find(|(name, _)| *name == import) {
        return Offer::Granted(grant);
    }
    let Some((interface, version)) = import.split_once('@') else {
        return if import == PREVIEW_1 { Offer::Always } else { Offer::Never };
    };
    let is_release = |minor: &str| {
        let patch = version.strip_prefix(minor);
        patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_in = |own: &[&str]| BOTH.contains(&interface) || own.contains(&interface);
    match interface {
        // The records of the task world are an interface of their own.
        "neargate:task/types" | "neargate:task/context" if is_release("0.1.") => Offer::Always,
        _ if is_release("0.2.") && is_in(&P2) => Offer::Always,
        _ if is_release("0.3.") && is_in(&P3) => Offer::Granted(GRANT_P3),
        _ => Offer::Never,
    }
}

/// Whether what an interface does is refused, call by call, to a task without a network: sockets, name look-ups and
/// outgoing HTTP.
pub fn needs_network(import: &str) -> bool {
    let interface = import.split('@').next().unwrap_or_default();
    interface.starts_with("wasi:sockets/")
        || matches!(interface, "wasi:http/outgoing-handler" | "wasi:http/client")
}

/// What a binary uses that these grants do not cover, each with the grant that would, in order and each grant once.
pub fn missing_grants<'a>(seen: &'a Inspection, grants: &[String]) -> Vec<(&'a str, &'static str)> {
    let by_import = seen.imports.iter().filter_map(|import| match offer(import) {
        Offer::Granted(grant) => Some((import.as_str(), grant)),
        Offer::Always | Offer::Never => None,
    });
    // A component may be concurrent without any import that says so.
    let by_engine = (seen.engine == EngineKind::Concurrent {}).then_some(("WASI 0.3", GRANT_P3));
    let mut missing: Vec<(&str, &'static str)> = Vec::new();
    for (what, grant) in by_import.chain(by_engine) {
        let is_given = grants.iter().any(|given| given == grant);
        if !is_given && !missing.iter().any(|(_, known)| *known == grant) {
            missing.push((what, grant));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::BinaryKind;

    #[test]
    fn offers() {
        let check = |import: &str, expect: Offer| assert_eq!(offer(import), expect, "{import}");
        check("wasi:cli/environment@0.2.0", Offer::Always);
        check("wasi:cli/environment@0.2.12", Offer::Always);
        check("wasi:cli/environment@0.3.0", Offer::Granted(GRANT_P3));
        check("wasi:http/client@0.3.0", Offer::Granted(GRANT_P3));
        check("wasi:http/client@0.2.0", Offer::Never);
        check("wasi:io/streams@0.3.0", Offer::Never);
        check("wasi:random/random@0.3.0", Offer::Granted(GRANT_P3));
        check("wasi:cli/environment@0.2.0-rc-2023-11-10", Offer::Never);
        check("wasi:cli/environment@0.3.0-rc-2025-09-16", Offer::Never);
        check("wasi:cli/environment@1.0.0", Offer::Never);
        check("wasi:cli/environment", Offer::Never);
        check("wasi:cli/environment@0.2.", Offer::Never);
        check("wasi:cli/environment@", Offer::Never);
        check("wasi:clocks/timezone@0.2.0", Offer::Never);
        check("wasi:nn/tensor@0.2.0-rc-2024-10-28", Offer::Never);
        check("wasi:config/store@0.2.0-rc.1", Offer::Granted(GRANT_CONFIG));
        check("wasi:keyvalue/atomics@0.2.0-draft", Offer::Granted(GRANT_KEY_VALUE));
        check("wasi:keyvalue/watcher@0.2.0-draft", Offer::Never);
        check("wasi:logging/logging", Offer::Granted(GRANT_LOGGING));
        check("neargate:task/context@0.1.0", Offer::Always);
        check("neargate:task/context@0.2.0", Offer::Never);
        check("neargate:task/handler@0.1.0", Offer::Never);
        check("wasi_snapshot_preview1", Offer::Always);
        check("wasi_snapshot_preview1.sing", Offer::Never);
        check("wasi_snapshot_preview1@0.2.0", Offer::Never);
    }

    #[test]
    fn interfaces_of_the_network() {
        let check = |import: &str, expect: bool| assert_eq!(needs_network(import), expect, "{import}");
        check("wasi:sockets/tcp@0.2.3", true);
        check("wasi:sockets/types@0.3.0", true);
        check("wasi:http/outgoing-handler@0.2.0", true);
        check("wasi:http/client@0.3.0", true);
        check("wasi:http/types@0.2.0", false);
        check("wasi:socketsx/tcp@0.2.3", false);
        check("", false);
    }

    #[test]
    fn grants_that_are_missing() {
        let imports = [
            "wasi:cli/stdin@0.2.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:keyvalue/batch@0.2.0-draft",
            "wasi:config/store@0.2.0-rc.1",
        ];
        let mut seen = Inspection {
            kind: BinaryKind::Component {},
            engine: EngineKind::Sync {},
            entries: Vec::new(),
            exports: Vec::new(),
            imports: imports.map(str::to_owned).into(),
            compiler: String::new(),
        };
        let check = |seen: &Inspection, grants: &[&str], expect: &[(&str, &str)]| {
            let grants: Vec<String> = grants.iter().map(|grant| (*grant).to_owned()).collect();
            assert_eq!(missing_grants(seen, &grants), expect);
        };
        let (store, config) = ("wasi:keyvalue/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1");
        check(&seen, &[], &[(store, GRANT_KEY_VALUE), (config, GRANT_CONFIG)]);
        check(&seen, &["wasi:keyvalue"], &[(config, GRANT_CONFIG)]);
        check(&seen, &["wasi:config", "wasi:logging"], &[(store, GRANT_KEY_VALUE)]);
        check(&seen, &["wasi:config", "wasi:keyvalue"], &[]);
        seen.engine = EngineKind::Concurrent {};
        check(&seen, &["wasi:config", "wasi:keyvalue"], &[("WASI 0.3", GRANT_P3)]);
        check(&seen, &["wasi:config", "wasi:keyvalue", "wasi:p3"], &[]);
        seen.imports = vec!["wasi:cli/stdin@0.3.0".to_owned()];
        check(&seen, &[], &[("wasi:cli/stdin@0.3.0", GRANT_P3)]);
    }
}
