//! What a file is, told from its first bytes.

use super::ImageError;

/// The two kinds of Wasm binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasmKind {
    /// A core module (version 1), run as WASI preview 1.
    Module,
    /// A component (layer 1, version 13), run as WASI 0.2.
    Component,
}

impl WasmKind {
    /// Reads the eight-byte preamble of the binary formats of core Wasm and of the component model.
    ///
    /// Text, ELF (which is how wasmtime stores compiled code) and everything else is an error that says
    /// what the bytes are. The first eight bytes decide; more make the error more exact.
    pub fn detect(bytes: &[u8]) -> Result<Self, ImageError> {
        match bytes {
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Self::Module),
            [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(Self::Component),
            _ => Err(ImageError::NotWasm { what: describe(bytes) }),
        }
    }
}

/// What bytes that are no Wasm binary look like.
fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".into(),
        [0, b'a', b's', b'm', version @ ..] if version.len() >= 4 => {
            format!("a Wasm binary of the unknown version {}", hex::encode(&version[..4]))
        }
        [0, b'a', b's', b'm', ..] => "a Wasm binary that is cut off".into(),
        [0x7f, b'E', b'L', b'F', ..] => {
            "an ELF file; native or precompiled code is not run from an image".into()
        }
        [0x1f, 0x8b, ..] => "gzip data".into(),
        [b'#', b'!', ..] => "a script".into(),
        _ if is_text_format(bytes) => {
            "WebAssembly text; encode it first, for example with `wasm-tools parse`".into()
        }
        _ => format!("not a Wasm binary (it begins with {})", hex::encode(&bytes[..bytes.len().min(8)])),
    }
}

/// Whether the first thing that is no space and no line comment opens a form of the text format.
fn is_text_format(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(";;"))
        .is_some_and(|line| ["(module", "(component", "(;"].iter().any(|form| line.starts_with(form)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Result<WasmKind, &str>) {
        let found = WasmKind::detect(bytes).map_err(|error| error.to_string());
        match (&found, expect) {
            (Ok(kind), Ok(wanted)) => assert_eq!(*kind, wanted, "{bytes:?}"),
            (Err(text), Err(part)) => assert!(text.contains(part), "{text:?} lacks {part:?}"),
            (found, expect) => panic!("{bytes:?}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn first_bytes() {
        check(b"\0asm\x01\0\0\0", Ok(WasmKind::Module));
        check(b"\0asm\x0d\0\x01\0rest", Ok(WasmKind::Component));
        check(b"\0asm\x0a\0\x01\0", Err("unknown version 0a000100"));
        check(b"\0asm\x01", Err("cut off"));
        check(b"", Err("empty file"));
        check(b"\x7fELF\x02\x01\x01\0", Err("ELF"));
        check(b"\n  ;; hello\n (module)", Err("text"));
        check(b"(component)", Err("text"));
        check(b"(define x 1)", Err("begins with 28646566696e6520"));
        check(b"\x1f\x8b\x08", Err("gzip"));
        check(b"#!/bin/sh\n", Err("script"));
        check(b"MZ", Err("begins with 4d5a"));
    }
}
