//! A call of one function by its name, with JSON in and out.

use serde_json::Value;
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::{Component, ComponentExportIndex, Instance, Type, Val};
use wasmtime::{FuncType, Module, Store, ValType};

use super::{CallError, function, signature, value};

/// Characters of an argument that are told in an error.
const TOLD_CHARS_MAX: usize = 80;

/// What a call has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The result as JSON and a newline; an error of the function if `failed`.
    pub(crate) line: Vec<u8>,
    /// Whether the function returned an error.
    pub(crate) failed: bool,
}

impl Outcome {
    fn new(value: &Value, failed: bool) -> Self {
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        Self { line, failed }
    }
}

/// A call of a component's function whose arguments have been checked.
pub(crate) struct Call {
    function: ComponentExportIndex,
    ty: ComponentFunc,
    arguments: Vec<Val>,
}

impl Call {
    /// Finds the function and turns the arguments, one JSON text each, into its parameters' types.
    pub(crate) fn new(component: &Component, name: &str, arguments: &[String]) -> Result<Self, CallError> {
        let functions = function::of_component(&component.component_type(), component.engine());
        let found = function::find(&functions, name)?;
        let missing = || CallError::NoFunction { name: name.to_owned(), known: "nothing".to_owned() };
        let index = match &found.interface {
            Some(interface) => {
                let instance = component.get_export_index(None, interface).ok_or_else(missing)?;
                component.get_export_index(Some(&instance), &found.name)
            }
            None => component.get_export_index(None, &found.name),
        };
        let ty = found.ty.clone();
        if !function::has_json_form(&ty) {
            return Err(CallError::NoJsonForm {
                name: found.full_name(),
                signature: signature::function(&ty),
            });
        }
        let json = parse(arguments, ty.params().len(), &found.name, &|| signature::function(&ty))?;
        let typed = ty.params().zip(&json).enumerate();
        let arguments = typed
            .map(|(index, ((name, ty), json))| {
                value::from_json(&ty, json).map_err(|mismatch| CallError::Argument {
                    number: index + 1,
                    name: format!(" `{name}`"),
                    why: mismatch.to_string(),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { function: index.ok_or_else(missing)?, ty, arguments })
    }

    /// Calls it. An error is a trap.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        store: &mut Store<T>,
        instance: &Instance,
    ) -> wasmtime::Result<Outcome> {
        let function = instance
            .get_func(&mut *store, self.function)
            .ok_or_else(|| wasmtime::format_err!("the function is not in the instance"))?;
        let mut results = vec![Val::Bool(false); self.ty.results().len()];
        function.call_async(&mut *store, &self.arguments, &mut results).await?;
        let no_form = |what| wasmtime::format_err!("the result holds {what}, which has no form in JSON");
        let (value, failed) = match (self.ty.results().next(), results.first()) {
            // A function that may fail says so by its result, as a program does by its exit code.
            (Some(Type::Result(ty)), Some(Val::Result(result))) => match result {
                Ok(value) => (value::payload_to_json(ty.ok(), value), false),
                Err(value) => (value::payload_to_json(ty.err(), value), true),
            },
            (Some(ty), Some(result)) => (value::to_json(&ty, result), false),
            _ => (Ok(Value::Null), false),
        };
        Ok(Outcome::new(&value.map_err(no_form)?, failed))
    }
}

/// A call of a module's function, with numbers in and out.
pub(crate) struct CoreCall {
    name: String,
    arguments: Vec<wasmtime::Val>,
    results: usize,
}

impl CoreCall {
    /// Finds the function and turns the arguments into its parameters' types.
    pub(crate) fn new(module: &Module, name: &str, arguments: &[String]) -> Result<Self, CallError> {
        let functions = function::of_module(module);
        let found = function::find(&functions, name)?;
        let signature = || signature::core_function(&found.ty);
        let json = parse(arguments, found.ty.params().len(), name, &signature)?;
        let arguments = core_values(&found.ty, &json)?;
        Ok(Self { name: found.name.clone(), arguments, results: found.ty.results().len() })
    }

    /// Calls it, after the function that sets up a library if it has one. An error is a trap.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        store: &mut Store<T>,
        instance: &wasmtime::Instance,
    ) -> wasmtime::Result<Outcome> {
        // WASI's application ABI: "reactors" export it, and it comes before all else.
        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize") {
            initialize.call_async(&mut *store, ()).await?;
        }
        let function = instance
            .get_func(&mut *store, &self.name)
            .ok_or_else(|| wasmtime::format_err!("the function is not in the instance"))?;
        let mut results = vec![wasmtime::Val::I32(0); self.results];
        function.call_async(&mut *store, &self.arguments, &mut results).await?;
        let mut json = results.iter().map(core_to_json).collect::<Vec<_>>();
        let value = match json.len() {
            0 => Value::Null,
            1 => json.remove(0),
            _ => Value::Array(json),
        };
        Ok(Outcome::new(&value, false))
    }
}

/// The arguments as JSON, as many as there are parameters. Parameters at the end that are options have to be
/// given too: a call is checked, not guessed.
fn parse(
    arguments: &[String],
    wanted: usize,
    name: &str,
    signature: &dyn Fn() -> String,
) -> Result<Vec<Value>, CallError> {
    if arguments.len() != wanted {
        return Err(CallError::Count {
            name: name.to_owned(),
            wanted,
            found: arguments.len(),
            signature: signature(),
        });
    }
    let parse = |(index, text): (usize, &String)| {
        serde_json::from_str(text).map_err(|error| {
            let told: String = text.chars().take(TOLD_CHARS_MAX).collect();
            CallError::NotJson { number: index + 1, text: told, why: error.to_string() }
        })
    };
    arguments.iter().enumerate().map(parse).collect()
}

fn core_values(ty: &FuncType, json: &[Value]) -> Result<Vec<wasmtime::Val>, CallError> {
    let value = |(index, (ty, json)): (usize, (ValType, &Value))| {
        // A core integer has no sign; both readings of its bits are taken.
        let converted = match ty {
            ValType::I32 => {
                value::from_json(&Type::S32, json).or_else(|_| value::from_json(&Type::U32, json))
            }
            ValType::I64 => {
                value::from_json(&Type::S64, json).or_else(|_| value::from_json(&Type::U64, json))
            }
            ValType::F32 => value::from_json(&Type::Float32, json),
            _ => value::from_json(&Type::Float64, json),
        };
        match converted {
            Ok(Val::S32(number)) => Ok(wasmtime::Val::I32(number)),
            Ok(Val::U32(number)) => Ok(wasmtime::Val::I32(number.cast_signed())),
            Ok(Val::S64(number)) => Ok(wasmtime::Val::I64(number)),
            Ok(Val::U64(number)) => Ok(wasmtime::Val::I64(number.cast_signed())),
            Ok(Val::Float32(number)) => Ok(wasmtime::Val::F32(number.to_bits())),
            Ok(Val::Float64(number)) => Ok(wasmtime::Val::F64(number.to_bits())),
            _ => Err(CallError::Argument {
                number: index + 1,
                name: String::new(),
                why: format!(
                    ": expected {ty}, got {}",
                    json.to_string().chars().take(TOLD_CHARS_MAX).collect::<String>()
                ),
            }),
        }
    };
    ty.params().zip(json).enumerate().map(value).collect()
}

fn core_to_json(value: &wasmtime::Val) -> Value {
    let (ty, value) = match value {
        wasmtime::Val::I32(number) => (Type::S32, Val::S32(*number)),
        wasmtime::Val::I64(number) => (Type::S64, Val::S64(*number)),
        wasmtime::Val::F32(bits) => (Type::Float32, Val::Float32(f32::from_bits(*bits))),
        wasmtime::Val::F64(bits) => (Type::Float64, Val::Float64(f64::from_bits(*bits))),
        // `of_module` lets no other type through.
        _ => return Value::Null,
    };
    value::to_json(&ty, &value).unwrap_or(Value::Null)
}
