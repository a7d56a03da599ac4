//! Wasm binaries: told from other files by their first bytes, and wrapped as a CNCF Wasm OCI artifact.

use neargate_model::image::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wasmparser::{Parser, Payload};

use crate::document::Manifest;

/// Configuration of a CNCF Wasm OCI artifact (cncf/tag-runtime, wasm-oci-artifact v0).
pub(crate) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// Layer of a CNCF Wasm OCI artifact.
pub(crate) const LAYER_TYPE: &str = "application/wasm";
const SPIN_CONFIG_TYPE: &str = "application/vnd.fermyon.spin.application.v1+config";
/// Larger binaries do not compile in reasonable time.
pub(crate) const WASM_BYTES_MAX: u64 = 512 << 20;

/// The two layers of WebAssembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WasmFormat {
    /// A core module (WASI preview 1).
    Module,
    /// A component (WASI 0.2 and later).
    Component,
}

/// The format of a binary that begins with `head`: `\0asm` and version 1, or version 13 of layer 1.
pub(crate) fn format(head: &[u8]) -> Option<WasmFormat> {
    match head.get(..8)? {
        b"\0asm\x01\0\0\0" => Some(WasmFormat::Module),
        b"\0asm\x0d\0\x01\0" => Some(WasmFormat::Component),
        _ => None,
    }
}

/// What a file that is not an image looks like, for the error.
pub(crate) fn describe(head: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(&head[..head.len().min(64)]);
    let text = text.trim_start();
    if head.is_empty() {
        "empty"
    } else if head.starts_with(b"\x7fELF") {
        "an ELF file (native code; precompiled Wasm is refused too)"
    } else if head.starts_with(b"\0asm") {
        "Wasm of an unknown version"
    } else if text.starts_with("(module") || text.starts_with("(component") || text.starts_with(";;") {
        "Wasm text (compile it with wasm-tools parse)"
    } else {
        "of an unknown format"
    }
}

/// Whether a manifest with this configuration is a Spin application.
pub(crate) fn is_spin(config_type: &str) -> bool {
    config_type == SPIN_CONFIG_TYPE
}

/// Whether an image is a Wasm artifact: its layers are binaries, and its configuration names no process.
pub(crate) fn is_artifact(manifest: &Manifest) -> bool {
    manifest.config.media_type == CONFIG_TYPE || manifest.layers.iter().any(|l| is_wasm_layer(&l.media_type))
}

/// Whether a layer of this type is a Wasm binary itself.
fn is_wasm_layer(media_type: &str) -> bool {
    matches!(
        media_type,
        LAYER_TYPE
            | "application/vnd.wasm.content.layer.v1+wasm"
            | "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"
            | "application/vnd.bytecodealliance.wasm.module.layer.v0+wasm"
    )
}

/// The artifact configuration for a binary: what it is, and the names it imports and exports.
///
/// Reads the whole binary's structure, so a truncated one is found here; it is validated when it is compiled.
pub(crate) fn artifact_config(wasm: &[u8], format: WasmFormat, digest: Digest) -> Result<Vec<u8>, String> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|e| e.to_string())? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(|e| e.to_string())?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(|e| e.to_string())?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let mut config = json!({
        "architecture": "wasm",
        "os": if format == WasmFormat::Component { "wasip2" } else { "wasip1" },
        "layerDigests": [digest],
    });
    if format == WasmFormat::Component {
        config["component"] = json!({ "imports": imports, "exports": exports });
    }
    serde_json::to_vec(&config).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers() {
        assert_eq!(format(b"\0asm\x01\0\0\0"), Some(WasmFormat::Module));
        assert_eq!(format(b"\0asm\x0d\0\x01\0rest"), Some(WasmFormat::Component));
        for head in [&b""[..], b"\0asm", b"\0asm\x02\0\0\0", b"\0asm\x0d\0\0\0", b"\x7fELF\x02\x01\x01\0"] {
            assert_eq!(format(head), None);
        }
    }

    #[test]
    fn kinds_of_files_that_are_no_image() {
        assert!(describe(b"\x7fELF....").contains("ELF"));
        assert!(describe(b"  (module)").contains("text"));
        assert!(describe(b"\0asm\x09\0\0\0").contains("version"));
        assert!(describe(b"").contains("empty"));
    }
}
