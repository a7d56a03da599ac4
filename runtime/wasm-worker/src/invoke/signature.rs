//! Types of the component model, and core signatures, as text for people.

use std::fmt::Write;

use wasmtime::component::Type;
use wasmtime::component::types::ComponentFunc;
use wasmtime::{FuncType, ValType};

/// Depth to which a type is written out; deeper parts are `…`.
const DEPTH_MAX: usize = 6;
/// Bytes after which a type is cut off. WIT sets no bound, and a signature is read by people.
const TEXT_BYTES_MAX: usize = 1024;

/// A function's type as WIT has it: `func(name: string, times: u32) -> string`.
///
/// The component model keeps no names of records and the like, so they are written out.
pub(crate) fn function(ty: &ComponentFunc) -> String {
    let mut text = Text::new();
    if ty.async_() {
        text.push("async ");
    }
    text.push("func(");
    for (index, (name, ty)) in ty.params().enumerate() {
        if index > 0 {
            text.push(", ");
        }
        text.push(name);
        text.push(": ");
        text.ty(&ty, 0);
    }
    text.push(")");
    if let Some(ty) = ty.results().next() {
        text.push(" -> ");
        text.ty(&ty, 0);
    }
    text.finish()
}

/// A type as WIT has it, with records and variants written out.
pub(super) fn ty(ty: &Type) -> String {
    let mut text = Text::new();
    text.ty(ty, 0);
    text.finish()
}

/// A core function's type in the same style: `func(i32, i64) -> f64`.
pub(crate) fn core_function(ty: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("func({})", list(&mut ty.params()));
    // Writing to a string cannot fail.
    let _ = match ty.results().len() {
        0 => Ok(()),
        1 => write!(text, " -> {}", list(&mut ty.results())),
        _ => write!(text, " -> ({})", list(&mut ty.results())),
    };
    text
}

struct Text(String);

impl Text {
    fn new() -> Self {
        Self(String::new())
    }

    fn push(&mut self, text: &str) {
        if self.0.len() <= TEXT_BYTES_MAX {
            self.0.push_str(text);
        }
    }

    fn finish(mut self) -> String {
        if self.0.len() > TEXT_BYTES_MAX {
            self.0.truncate(self.0.floor_char_boundary(TEXT_BYTES_MAX));
            self.0.push('…');
        }
        self.0
    }

    fn ty(&mut self, ty: &Type, depth: usize) {
        if depth >= DEPTH_MAX || self.0.len() > TEXT_BYTES_MAX {
            return self.push("…");
        }
        let depth = depth + 1;
        match ty {
            Type::List(list) => self.generic("list", &[Some(list.ty())], depth),
            Type::FixedLengthList(list) => {
                self.push("list<");
                self.ty(&list.ty(), depth);
                self.push(&format!(", {}>", list.len()));
            }
            Type::Map(map) => self.generic("map", &[Some(map.key()), Some(map.value())], depth),
            Type::Option(option) => self.generic("option", &[Some(option.ty())], depth),
            Type::Tuple(tuple) => {
                self.generic("tuple", &tuple.types().map(Some).collect::<Vec<_>>(), depth);
            }
            Type::Result(result) => match (result.ok(), result.err()) {
                (ok, None) => self.generic("result", &ok.map(Some).into_iter().collect::<Vec<_>>(), depth),
                (ok, err) => self.generic("result", &[ok, err], depth),
            },
            Type::Record(record) => {
                let fields = record.fields().map(|field| (field.name.to_owned(), Some(field.ty)));
                self.braces("record", fields, ": ", "", depth);
            }
            Type::Variant(variant) => {
                let cases = variant.cases().map(|case| (case.name.to_owned(), case.ty));
                self.braces("variant", cases, "(", ")", depth);
            }
            Type::Enum(names) => {
                self.braces("enum", names.names().map(|name| (name.to_owned(), None)), "", "", depth);
            }
            Type::Flags(names) => {
                self.braces("flags", names.names().map(|name| (name.to_owned(), None)), "", "", depth);
            }
            Type::Future(future) => self.generic("future", &opt(future.ty()), depth),
            Type::Stream(stream) => self.generic("stream", &opt(stream.ty()), depth),
            plain => self.push(plain_name(plain)),
        }
    }

    fn generic(&mut self, name: &str, types: &[Option<Type>], depth: usize) {
        self.push(name);
        if types.is_empty() {
            return;
        }
        for (index, ty) in types.iter().enumerate() {
            self.push(if index == 0 { "<" } else { ", " });
            match ty {
                Some(ty) => self.ty(ty, depth),
                None => self.push("_"),
            }
        }
        self.push(">");
    }

    fn braces(
        &mut self,
        name: &str,
        items: impl Iterator<Item = (String, Option<Type>)>,
        before: &str,
        after: &str,
        depth: usize,
    ) {
        self.push(name);
        self.push(" { ");
        for (index, (item, ty)) in items.enumerate() {
            if index > 0 {
                self.push(", ");
            }
            self.push(&item);
            if let Some(ty) = ty {
                self.push(before);
                self.ty(&ty, depth);
                self.push(after);
            }
        }
        self.push(" }");
    }
}

fn opt(ty: Option<Type>) -> Vec<Option<Type>> {
    ty.map(Some).into_iter().collect()
}

fn plain_name(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::S8 => "s8",
        Type::U8 => "u8",
        Type::S16 => "s16",
        Type::U16 => "u16",
        Type::S32 => "s32",
        Type::U32 => "u32",
        Type::S64 => "s64",
        Type::U64 => "u64",
        Type::Float32 => "f32",
        Type::Float64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::Own(_) => "own<resource>",
        Type::Borrow(_) => "borrow<resource>",
        Type::ErrorContext => "error-context",
        _ => "…",
    }
}
