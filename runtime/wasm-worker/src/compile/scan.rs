//! A first look at a component, before anything is compiled: which engine does it need?

use neargate_wasm::protocol::EngineKind;
use wasmparser::{
    BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentType, Parser,
    Payload,
};

/// The engine that a component is compiled for: the concurrent one if any part of it uses what only that one
/// has. Reads the sections that say so, and does not check the others.
pub(super) fn engine_of(wasm: &[u8]) -> Result<EngineKind, BinaryReaderError> {
    for payload in Parser::new(0).parse_all(wasm) {
        if is_concurrent(payload?)? {
            return Ok(EngineKind::Concurrent {});
        }
    }
    Ok(EngineKind::Sync {})
}

fn is_concurrent(payload: Payload<'_>) -> Result<bool, BinaryReaderError> {
    match payload {
        Payload::ComponentImportSection(imports) => any(imports, |import| is_p3(import.name.name)),
        Payload::ComponentExportSection(exports) => any(exports, |export| is_p3(export.name.name)),
        Payload::ComponentTypeSection(types) => any(types, |ty| is_concurrent_type(&ty)),
        Payload::ComponentCanonicalSection(functions) => {
            any(functions, |function| is_concurrent_function(&function))
        }
        _ => Ok(false),
    }
}

fn any<'a, T: wasmparser::FromReader<'a>>(
    section: wasmparser::SectionLimited<'a, T>,
    is: impl Fn(T) -> bool,
) -> Result<bool, BinaryReaderError> {
    for item in section {
        if is(item?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this is an interface of WASI 0.3.
fn is_p3(name: &str) -> bool {
    name.starts_with("wasi:") && name.contains("@0.3.")
}

fn is_concurrent_type(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(defined) => {
            matches!(defined, ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_))
        }
        // The types of instances and components are declared again by those that use them.
        _ => false,
    }
}

/// All that the component model had before it became concurrent, and no more.
fn is_concurrent_function(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => options
            .iter()
            .any(|option| matches!(option, CanonicalOption::Async | CanonicalOption::Callback(_))),
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(component: &str, expect: EngineKind) {
        assert_eq!(engine_of(&wat::parse_str(component).unwrap()).unwrap(), expect, "{component}");
    }

    #[test]
    fn engines() {
        check("(component)", EngineKind::Sync {});
        check(r#"(component (import "wasi:cli/stdin@0.2.3" (instance)))"#, EngineKind::Sync {});
        check(r#"(component (import "wasi:cli/stdin@0.3.0" (instance)))"#, EngineKind::Concurrent {});
        check(r#"(component (import "f" (func async)))"#, EngineKind::Concurrent {});
        check(r#"(component (import "f" (func (param "x" (stream u8)))))"#, EngineKind::Concurrent {});
        check(r#"(component (component (core func (canon task.cancel))))"#, EngineKind::Concurrent {});
        check(
            r#"(component (type $r (resource (rep i32))) (core func (canon resource.drop $r)))"#,
            EngineKind::Sync {},
        );
    }

    #[test]
    fn bytes_that_end_too_early() {
        let wasm = wat::parse_str("(component (component))").unwrap();
        assert!(engine_of(&wasm[..wasm.len() - 1]).is_err());
    }
}
