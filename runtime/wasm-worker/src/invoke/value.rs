//! JSON to values of the component model and back, by the component's own types.
//!
//! | WIT | JSON |
//! |---|---|
//! | `bool`, `string`, `char` | the same; a `char` is a string of one scalar value |
//! | `u8` … `s64` | a number, in range; also a decimal string |
//! | `f32`, `f64` | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `list`, `tuple` | an array |
//! | `record` | an object; a field that is an `option` may be left out |
//! | `variant` | `"case"`, or `{"case": value}` where it has a value |
//! | `enum` | `"case"` |
//! | `option` | `null` or the value; an option of an option: `null` or `{"some": value}` |
//! | `result` | `{"ok": value}` or `{"err": value}`; `null` where there is no value |
//! | `flags` | an array of names |
//! | `map` | an object where keys are strings, otherwise an array of pairs |
//!
//! What goes out is the first form of each row. A 64-bit number beyond ±2⁵³ goes out as a decimal string, since
//! many readers of JSON would round it. Resources, streams and futures have no form in JSON.

use std::fmt;

use serde_json::{Map, Number, Value};
use wasmtime::component::types::{Field, Flags, OptionType, Record, ResultType, Variant};
use wasmtime::component::{Type, Val};

use super::signature;

/// The largest integer up to which every reader of JSON is exact (RFC 8259, section 6).
const EXACT_MAX: u64 = 1 << 53;
/// Characters of a value or a type that are told in an error.
const TOLD_CHARS_MAX: usize = 80;

/// Where in an argument something is wrong, from the outside to the inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Item(usize),
    Case(String),
    Key,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "field `{name}`"),
            Self::Item(index) => write!(f, "item {}", index + 1),
            Self::Case(name) => write!(f, "case `{name}`"),
            Self::Key => f.write_str("key"),
        }
    }
}

/// A JSON value that does not fit its type, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// From the inside to the outside.
    steps: Vec<Step>,
    what: String,
}

impl Mismatch {
    fn new(what: impl Into<String>) -> Self {
        Self { steps: Vec::new(), what: what.into() }
    }

    fn expected(expected: impl fmt::Display, found: &Value) -> Self {
        Self::new(format!("expected {expected}, got {}", told(&found.to_string())))
    }

    fn at(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl fmt::Display for Mismatch {
    /// To be put behind what names the argument: `, field `limit`: expected u32, got "x"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps.iter().rev() {
            write!(f, ", {step}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The text, cut off for people.
fn told(text: &str) -> String {
    match text.char_indices().nth(TOLD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The value of this type that the JSON stands for.
pub(super) fn from_json(ty: &Type, json: &Value) -> Result<Val, Mismatch> {
    let expected = || Mismatch::expected(told(&signature::ty(ty)), json);
    Ok(match ty {
        Type::Bool => Val::Bool(json.as_bool().ok_or_else(expected)?),
        Type::S8 => Val::S8(integer(json).ok_or_else(expected)?),
        Type::U8 => Val::U8(integer(json).ok_or_else(expected)?),
        Type::S16 => Val::S16(integer(json).ok_or_else(expected)?),
        Type::U16 => Val::U16(integer(json).ok_or_else(expected)?),
        Type::S32 => Val::S32(integer(json).ok_or_else(expected)?),
        Type::U32 => Val::U32(integer(json).ok_or_else(expected)?),
        Type::S64 => Val::S64(integer(json).ok_or_else(expected)?),
        Type::U64 => Val::U64(integer(json).ok_or_else(expected)?),
        Type::Float32 => Val::Float32(float32(json).ok_or_else(expected)?),
        Type::Float64 => Val::Float64(float64(json).ok_or_else(expected)?),
        Type::Char => Val::Char(single_char(json).ok_or_else(expected)?),
        Type::String => Val::String(json.as_str().ok_or_else(expected)?.to_owned()),
        Type::List(list) => Val::List(items(&list.ty(), json.as_array().ok_or_else(expected)?)?),
        Type::FixedLengthList(list) => {
            let array = json.as_array().filter(|array| array.len() == list.len() as usize);
            Val::FixedLengthList(items(&list.ty(), array.ok_or_else(expected)?)?)
        }
        Type::Map(map) => Val::Map(pairs(&map.key(), &map.value(), json, &expected)?),
        Type::Record(record) => Val::Record(record_from(record, json.as_object().ok_or_else(expected)?)?),
        Type::Tuple(tuple) => {
            let array = json.as_array().filter(|array| array.len() == tuple.types().len());
            let items = array.ok_or_else(expected)?.iter().zip(tuple.types()).enumerate();
            Val::Tuple(
                items
                    .map(|(index, (item, ty))| from_json(&ty, item).map_err(|e| e.at(Step::Item(index))))
                    .collect::<Result<_, _>>()?,
            )
        }
        Type::Variant(variant) => variant_from(variant, json)?.ok_or_else(expected)?,
        Type::Enum(names) => {
            let name = json.as_str().filter(|name| names.names().any(|known| known == *name));
            Val::Enum(name.ok_or_else(expected)?.to_owned())
        }
        Type::Option(option) => Val::Option(option_from(option, json)?.map(Box::new)),
        Type::Result(result) => result_from(result, json)?.ok_or_else(expected)?,
        Type::Flags(flags) => flags_from(flags, json.as_array().ok_or_else(expected)?)?,
        Type::Own(_) | Type::Borrow(_) => return Err(Mismatch::new("a resource cannot be given as JSON")),
        Type::Future(_) => return Err(Mismatch::new("a future cannot be given as JSON")),
        Type::Stream(_) => return Err(Mismatch::new("a stream cannot be given as JSON")),
        Type::ErrorContext => return Err(Mismatch::new("an error context cannot be given as JSON")),
    })
}

/// An integer in range, from a number or from a decimal string.
fn integer<T: TryFrom<i128>>(json: &Value) -> Option<T> {
    let number = match json {
        Value::Number(number) => i128_of(number)?,
        Value::String(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<i128>().ok()).flatten()?
        }
        _ => return None,
    };
    T::try_from(number).ok()
}

fn i128_of(number: &Number) -> Option<i128> {
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    // `1.0` and `1e3` are integers too; a float is exact up to 2⁵³.
    integer.or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= EXACT_MAX as f64).then_some(float as i128)
    })
}

fn float64(json: &Value) -> Option<f64> {
    match json {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// The nearest 32-bit number; one that is too large is no number of this type.
fn float32(json: &Value) -> Option<f32> {
    let wide = float64(json)?;
    let narrow = wide as f32;
    (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
}

fn single_char(json: &Value) -> Option<char> {
    let mut chars = json.as_str()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn items(ty: &Type, array: &[Value]) -> Result<Vec<Val>, Mismatch> {
    let item = |(index, item)| from_json(ty, item).map_err(|error| error.at(Step::Item(index)));
    array.iter().enumerate().map(item).collect()
}

/// The pairs of a map: an object where keys are strings, otherwise an array of arrays of two.
fn pairs(
    key: &Type,
    value: &Type,
    json: &Value,
    expected: &dyn Fn() -> Mismatch,
) -> Result<Vec<(Val, Val)>, Mismatch> {
    match (key, json) {
        (Type::String, Value::Object(object)) => object
            .iter()
            .map(|(name, item)| {
                let item = from_json(value, item).map_err(|error| error.at(Step::Field(name.clone())))?;
                Ok((Val::String(name.clone()), item))
            })
            .collect(),
        (_, Value::Array(array)) => array
            .iter()
            .enumerate()
            .map(|(index, pair)| {
                let Some([name, item]) = pair.as_array().map(Vec::as_slice) else {
                    return Err(Mismatch::expected("[key, value]", pair).at(Step::Item(index)));
                };
                let name = from_json(key, name).map_err(|e| e.at(Step::Key).at(Step::Item(index)))?;
                Ok((name, from_json(value, item).map_err(|error| error.at(Step::Item(index)))?))
            })
            .collect(),
        _ => Err(expected()),
    }
}

fn record_from(record: &Record, object: &Map<String, Value>) -> Result<Vec<(String, Val)>, Mismatch> {
    if let Some(name) = object.keys().find(|name| !record.fields().any(|field| field.name == name.as_str())) {
        let known: Vec<_> = record.fields().map(|field| format!("`{}`", field.name)).collect();
        let (name, known) = (told(name), told(&known.join(", ")));
        return Err(Mismatch::new(format!("there is no field `{name}`; there are {known}")));
    }
    record.fields().map(|field| field_from(&field, object)).collect()
}

fn field_from(field: &Field<'_>, object: &Map<String, Value>) -> Result<(String, Val), Mismatch> {
    let value = match (object.get(field.name), &field.ty) {
        (Some(json), ty) => from_json(ty, json).map_err(|e| e.at(Step::Field(field.name.to_owned())))?,
        (None, Type::Option(_)) => Val::Option(None),
        (None, ty) => {
            let what = format!("it is missing; expected {}", told(&signature::ty(ty)));
            return Err(Mismatch::new(what).at(Step::Field(field.name.to_owned())));
        }
    };
    Ok((field.name.to_owned(), value))
}

/// The single member of an object that has one.
fn single(json: &Value) -> Option<(&str, &Value)> {
    let object = json.as_object().filter(|object| object.len() == 1)?;
    object.iter().next().map(|(name, value)| (name.as_str(), value))
}

fn variant_from(variant: &Variant, json: &Value) -> Result<Option<Val>, Mismatch> {
    let (name, payload) = match (json, single(json)) {
        (Value::String(name), _) => (name.as_str(), None),
        (_, Some((name, payload))) => (name, Some(payload)),
        _ => return Ok(None),
    };
    let Some(case) = variant.cases().find(|case| case.name == name) else { return Ok(None) };
    let payload = payload_from(case.ty.as_ref(), payload).map_err(|e| e.at(Step::Case(name.to_owned())))?;
    Ok(Some(Val::Variant(name.to_owned(), payload)))
}

fn result_from(result: &ResultType, json: &Value) -> Result<Option<Val>, Mismatch> {
    let (name, payload) = match (json, single(json)) {
        (Value::String(name), _) => (name.as_str(), None),
        (_, Some((name, payload))) => (name, Some(payload)),
        _ => return Ok(None),
    };
    let (ty, is_ok) = match name {
        "ok" => (result.ok(), true),
        "err" => (result.err(), false),
        _ => return Ok(None),
    };
    let payload = payload_from(ty.as_ref(), payload).map_err(|e| e.at(Step::Case(name.to_owned())))?;
    Ok(Some(Val::Result(if is_ok { Ok(payload) } else { Err(payload) })))
}

/// What a case holds. Where it holds nothing, `null` may stand; where it holds an option, nothing may.
fn payload_from(ty: Option<&Type>, json: Option<&Value>) -> Result<Option<Box<Val>>, Mismatch> {
    match (ty, json) {
        (None, None | Some(Value::Null)) => Ok(None),
        (None, Some(json)) => Err(Mismatch::expected("no value", json)),
        (Some(ty), Some(json)) => from_json(ty, json).map(|value| Some(Box::new(value))),
        (Some(Type::Option(_)), None) => Ok(Some(Box::new(Val::Option(None)))),
        (Some(ty), None) => {
            Err(Mismatch::new(format!("it is without its value; expected {}", told(&signature::ty(ty)))))
        }
    }
}

fn option_from(option: &OptionType, json: &Value) -> Result<Option<Val>, Mismatch> {
    match (option.ty(), json) {
        (_, Value::Null) => Ok(None),
        (Type::Option(inner), json) => match single(json) {
            Some(("some", value)) => Ok(Some(Val::Option(option_from(&inner, value)?.map(Box::new)))),
            _ => Err(Mismatch::expected("null or {\"some\": value}", json)),
        },
        (ty, json) => from_json(&ty, json).map(Some),
    }
}

fn flags_from(flags: &Flags, array: &[Value]) -> Result<Val, Mismatch> {
    let mut set: Vec<String> = Vec::with_capacity(array.len());
    for (index, item) in array.iter().enumerate() {
        let known = item.as_str().filter(|name| flags.names().any(|known| known == *name));
        let Some(name) = known else {
            let names: Vec<_> = flags.names().collect();
            let expected = format!("one of {}", told(&names.join(", ")));
            return Err(Mismatch::expected(expected, item).at(Step::Item(index)));
        };
        if set.iter().any(|earlier| earlier == name) {
            return Err(Mismatch::new(format!("`{name}` is listed twice")).at(Step::Item(index)));
        }
        set.push(name.to_owned());
    }
    Ok(Val::Flags(set))
}

/// The JSON of a value of this type; an error names what has no form in JSON.
pub(super) fn to_json(ty: &Type, value: &Val) -> Result<Value, &'static str> {
    Ok(match (ty, value) {
        (_, Val::Bool(value)) => Value::Bool(*value),
        (_, Val::S8(value)) => Value::from(*value),
        (_, Val::U8(value)) => Value::from(*value),
        (_, Val::S16(value)) => Value::from(*value),
        (_, Val::U16(value)) => Value::from(*value),
        (_, Val::S32(value)) => Value::from(*value),
        (_, Val::U32(value)) => Value::from(*value),
        (_, Val::S64(value)) if value.unsigned_abs() > EXACT_MAX => Value::from(value.to_string()),
        (_, Val::S64(value)) => Value::from(*value),
        (_, Val::U64(value)) if *value > EXACT_MAX => Value::from(value.to_string()),
        (_, Val::U64(value)) => Value::from(*value),
        (_, Val::Float32(value)) => float32_to_json(*value),
        (_, Val::Float64(value)) => float64_to_json(*value),
        (_, Val::Char(value)) => Value::from(value.to_string()),
        (_, Val::String(value)) => Value::from(value.as_str()),
        (Type::List(list), Val::List(items)) => array_to_json(&list.ty(), items)?,
        (Type::FixedLengthList(list), Val::FixedLengthList(items)) => array_to_json(&list.ty(), items)?,
        (Type::Map(map), Val::Map(pairs)) => map_to_json(&map.key(), &map.value(), pairs)?,
        (Type::Record(record), Val::Record(fields)) => {
            let member = |(field, (name, value)): (Field<'_>, &(String, Val))| {
                to_json(&field.ty, value).map(|value| (name.clone(), value))
            };
            Value::Object(record.fields().zip(fields).map(member).collect::<Result<_, _>>()?)
        }
        (Type::Tuple(tuple), Val::Tuple(items)) => Value::Array(
            tuple.types().zip(items).map(|(ty, item)| to_json(&ty, item)).collect::<Result<_, _>>()?,
        ),
        (Type::Variant(variant), Val::Variant(name, payload)) => {
            let ty = variant.cases().find(|case| case.name == name.as_str()).and_then(|case| case.ty);
            match (ty, payload) {
                (Some(ty), Some(value)) => member(name, to_json(&ty, value)?),
                _ => Value::from(name.as_str()),
            }
        }
        (Type::Enum(_), Val::Enum(name)) => Value::from(name.as_str()),
        (Type::Option(option), Val::Option(value)) => match (option.ty(), value) {
            (_, None) => Value::Null,
            (ty @ Type::Option(_), Some(value)) => member("some", to_json(&ty, value)?),
            (ty, Some(value)) => to_json(&ty, value)?,
        },
        (Type::Result(result), Val::Result(Ok(value))) => member("ok", payload_to_json(result.ok(), value)?),
        (Type::Result(result), Val::Result(Err(value))) => {
            member("err", payload_to_json(result.err(), value)?)
        }
        (Type::Flags(_), Val::Flags(names)) => Value::from(names.as_slice()),
        (_, Val::Resource(_)) => return Err("a resource"),
        (_, Val::Future(_)) => return Err("a future"),
        (_, Val::Stream(_)) => return Err("a stream"),
        (_, Val::ErrorContext(_)) => return Err("an error context"),
        // wasmtime lifts by the same type.
        _ => return Err("a value of another type"),
    })
}

/// What the ok or the error of a result holds, or `null`.
pub(super) fn payload_to_json(ty: Option<Type>, value: &Option<Box<Val>>) -> Result<Value, &'static str> {
    match (ty, value) {
        (Some(ty), Some(value)) => to_json(&ty, value),
        _ => Ok(Value::Null),
    }
}

fn member(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}

fn array_to_json(ty: &Type, items: &[Val]) -> Result<Value, &'static str> {
    items.iter().map(|item| to_json(ty, item)).collect::<Result<_, _>>().map(Value::Array)
}

/// An object where keys are strings; of two values of a key the later one stands, as the component model says.
fn map_to_json(key: &Type, value: &Type, pairs: &[(Val, Val)]) -> Result<Value, &'static str> {
    if let Type::String = key {
        let member = |(name, item): &(Val, Val)| match name {
            Val::String(name) => Ok((name.clone(), to_json(value, item)?)),
            _ => Err("a value of another type"),
        };
        return pairs.iter().map(member).collect::<Result<_, _>>().map(Value::Object);
    }
    let pair = |(name, item): &(Val, Val)| Ok(Value::Array(vec![to_json(key, name)?, to_json(value, item)?]));
    pairs.iter().map(pair).collect::<Result<_, _>>().map(Value::Array)
}

fn float64_to_json(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None if value > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}

/// The shortest decimal that names this 32-bit number: 0.1 and not 0.10000000149011612.
fn float32_to_json(value: f32) -> Value {
    float64_to_json(value.to_string().parse().unwrap_or(f64::from(value)))
}
