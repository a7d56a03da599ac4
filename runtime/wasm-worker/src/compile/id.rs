//! What compiled code depends on, as text.

/// The version of wasmtime, exactly: code is compiled anew after a patch, which may have mended the compiler.
const WASMTIME: &str = "48.0.8";
/// To be raised with each change of `engine::settings` that changes compiled code.
const SETTINGS: u32 = 1;

/// Names the compiler: wasmtime, our settings and what the processor can do.
///
/// Code is kept under this name. It is a different one whenever `Engine::precompile_compatibility_hash` is
/// different, and it costs a few nanoseconds where an engine costs a millisecond and a linked compiler.
pub fn compiler_id() -> String {
    let features: Vec<&str> = features().into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    format!("wasmtime {WASMTIME}; settings {SETTINGS}; {} {}", std::env::consts::ARCH, features.join(" "))
}

/// What cranelift-native 0.135 looks for.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    macro_rules! detect {
        ($($name:tt),*) => { vec![$(($name, std::is_x86_feature_detected!($name))),*] };
    }
    detect!(
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "bmi1",
        "bmi2",
        "lzcnt",
        "cmpxchg16b",
        "avxvnni",
        "avx512vnni",
        "avx512bitalg",
        "avx512dq",
        "avx512f",
        "avx512vl",
        "avx512vbmi"
    )
}

/// What cranelift-native 0.135 looks for.
#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    macro_rules! detect {
        ($($name:tt),*) => { vec![$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
    }
    detect!("lse", "paca", "fp16", "dotprod")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::hash::{Hash, Hasher};

    use neargate_wasm::protocol::EngineKind;
    use sha2::{Digest, Sha256};

    use super::*;

    /// Hashes of the settings for a processor without any features, which are the same on every machine.
    const HASHES: (u32, [&str; 2]) = (1, ["c32285476f7a8155", "a5b8b6dcf8fa7016"]);

    /// FNV would do; this one is at hand, and unlike the default one promises to stay as it is.
    struct Stable(Sha256);

    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            u64::from_le_bytes(self.0.clone().finalize()[..8].try_into().unwrap())
        }
    }

    #[test]
    fn names_the_version_that_is_linked() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{WASMTIME}\"\n")));
    }

    fn hash(settings: &wasmtime::Config) -> String {
        let mut hasher = Stable(Sha256::new());
        wasmtime::Engine::new(settings).unwrap().precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// Settings for a processor without any features.
    fn portable(kind: &EngineKind) -> wasmtime::Config {
        let mut settings = crate::engine::settings(kind);
        settings.target("x86_64-unknown-linux-gnu").unwrap();
        settings
    }

    #[test]
    fn names_the_settings_that_code_depends_on() {
        let found = [EngineKind::Sync {}, EngineKind::Concurrent {}].map(|kind| hash(&portable(&kind)));
        assert_eq!(
            (SETTINGS, found.each_ref().map(String::as_str)),
            HASHES,
            "code compiled with these settings is other code: raise SETTINGS and put these hashes into HASHES"
        );
    }

    /// With the features that the name holds switched on by hand, the compiler is the one for this machine:
    /// so there is nothing else that it looks for.
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    #[test]
    fn names_what_the_processor_can_do() {
        let mut settings = portable(&EngineKind::Sync {});
        for (name, _) in features().into_iter().filter(|(_, has)| *has) {
            assert!(compiler_id().split(' ').any(|word| word == name), "{name}");
            let flag = match name {
                "avxvnni" => "has_avx_vnni".to_owned(),
                name => format!("has_{}", name.replace('.', "")),
            };
            // SAFETY: the processor has what is switched on, and nothing is compiled here.
            #[allow(unsafe_code)]
            unsafe {
                settings.cranelift_flag_enable(&flag);
            }
        }
        assert_eq!(hash(&settings), hash(&crate::engine::settings(&EngineKind::Sync {})));
    }
}
