//! Turns botocore's protocol test vectors into tests of the same generated code and codecs.
//!
//! The vectors are written for clients and we are the server, so an input vector's body is decoded and compared with its
//! parameters, and an output vector's result is encoded and compared with its body.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::archive::Archive;
use super::errors;
use super::model::{Kind, Metadata, Model, Reference};
use super::names;
use super::shapes::{Writer, item};

/// Protocols, by the vectors' file names.
const PROTOCOLS: [&str; 4] = ["json", "json_1_0", "query", "ec2"];

const LIST_HEADER: &str = "\
//! Tests made of botocore's protocol test vectors; see `xtask/src/codegen/vectors.rs`.

// Types are written as for an AWS service, and each suite uses part of one prelude and sets all or some members.
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]
#![allow(clippy::needless_update, clippy::wildcard_imports)]
#![allow(clippy::approx_constant, clippy::excessive_precision)]

";

/// Vectors that do not say what a server does.
const SKIPPED: &[(&str, &str)] = &[
    ("QueryProtocolIdempotencyTokenAutoFill", "the client fills in a token that its parameters do not have"),
    ("handles_unexpected_json_output", "the body of an operation without output"),
    ("AwsJson10HandlesUnexpectedJsonOutput", "the body of an operation without output"),
    ("parses_the_request_id_from_the_response", "about a header"),
    ("SDKAppliedContentEncoding_awsJson1_0", "has no body; about a header"),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsJson1_0", "has no body; about a header"),
    ("SDKAppliedContentEncoding_awsJson1_1", "has no body; about a header"),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsJson1_1", "has no body; about a header"),
    ("SDKAppliedContentEncoding_awsQuery", "has no body; about a header"),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsQuery", "has no body; about a header"),
    ("QueryEmptyQueryMaps", "clients send nothing for an empty map, so that it is absent"),
    ("Ec2ProtocolIdempotencyTokenAutoFill", "the client fills in a token that its parameters do not have"),
    ("SDKAppliedContentEncoding_ec2Query", "has no body; about a header"),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_ec2Query", "has no body; about a header"),
    ("Ec2EmptyQueryLists", "clients send nothing for an empty list, so that it is absent"),
    (
        "Ec2ComplexError",
        "its body has a message that the error does not have, which is why botocore skips this too",
    ),
    ("Ec2XmlLists", "has flat lists in an answer, which EC2 never has"),
    (
        "QueryXmlLists",
        "botocore's models name a flattened list by its items, which is why botocore skips this too",
    ),
];

/// Output vectors whose bodies a server may not write, but that the codec has to read.
const READ_ONLY: &[(&str, &str)] = &[
    ("AwsJson11DeserializeIgnoreType", "the body has a member that is not in the model"),
    ("AwsJson10DeserializeIgnoreType", "the body has a member that is not in the model"),
    ("AwsJson10DeserializeAllowNulls", "the body has nulls"),
    ("AwsJson11StructuresDontDeserializeNullValues", "the body has nulls"),
    ("AwsJson11DateTimeWithNegativeOffset", "the body has an offset, we write UTC"),
    ("AwsJson11DateTimeWithPositiveOffset", "the body has an offset, we write UTC"),
    ("AwsQueryDateTimeWithNegativeOffset", "the body has an offset, we write UTC; XML is never read"),
    ("AwsQueryDateTimeWithPositiveOffset", "the body has an offset, we write UTC; XML is never read"),
    ("Ec2QueryDateTimeWithNegativeOffset", "the body has an offset, we write UTC; XML is never read"),
    ("Ec2QueryDateTimeWithPositiveOffset", "the body has an offset, we write UTC; XML is never read"),
];

#[derive(Deserialize)]
struct Suite {
    description: String,
    metadata: Metadata,
    #[serde(default)]
    shapes: IndexMap<String, super::model::Shape>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    given: Given,
    params: Option<Value>,
    serialized: Option<Serialized>,
    result: Option<Value>,
    error: Option<Value>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    #[serde(rename = "errorMessage")]
    error_message: Option<String>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Given {
    name: String,
    input: Option<Reference>,
    output: Option<Reference>,
    #[serde(default)]
    errors: Vec<Reference>,
}

#[derive(Deserialize)]
struct Serialized {
    #[serde(default)]
    body: String,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
    #[serde(default)]
    body: String,
}

/// The test modules by name.
pub(crate) fn generate(archive: &Archive) -> Result<Vec<(String, String)>> {
    let mut modules = Vec::new();
    let mut list = String::from(LIST_HEADER);
    for protocol in PROTOCOLS {
        for direction in ["input", "output"] {
            let path = format!("tests/unit/protocols/{direction}/{protocol}.json");
            let text = module(archive.file(&path)?, protocol)
                .with_context(|| format!("generate tests of {path}"))?;
            let name = format!("{protocol}_{direction}");
            writeln!(list, "mod {name};")?;
            modules.push((name, text));
        }
    }
    modules.push(("mod".to_owned(), list));
    Ok(modules)
}

fn module(bytes: &[u8], protocol: &str) -> Result<String> {
    let suites: Vec<Suite> = serde_json::from_slice(bytes).context("parse JSON")?;
    let mut text = String::from("//! Generated tests.\n\n");
    for (index, suite) in suites.into_iter().enumerate() {
        let description =
            suite.description.trim_start_matches("Test cases for ").trim_end_matches(" operation");
        let name = format!("suite_{index:02}_{}", names::snake(description));
        let (model, cases) = (
            Model { metadata: suite.metadata, operations: IndexMap::new(), shapes: suite.shapes },
            suite.cases,
        );
        let body = suite_body(&model, &cases, protocol).with_context(|| format!("generate {name}"))?;
        if body.contains("#[test]") {
            writeln!(text, "mod {name} {{\nuse super::super::super::prelude::*;\n\n{body}}}\n")?;
        }
    }
    Ok(text)
}

fn suite_body(model: &Model, cases: &[Case], protocol: &str) -> Result<String> {
    let (mut shapes, mut error_shapes) = (BTreeSet::new(), BTreeSet::new());
    for given in cases.iter().map(|case| &case.given) {
        for reference in given.input.iter().chain(&given.output) {
            model.reach(&reference.shape, &mut shapes)?;
        }
        for error in &given.errors {
            error_shapes.insert(error.shape.clone());
            for member in model.shape(&error.shape)?.members.values() {
                model.reach(&member.shape, &mut shapes)?;
            }
        }
    }
    let mut writer = Writer::new(model);
    if !error_shapes.is_empty() {
        errors::error_enum(&mut writer, "SuiteError", &error_shapes)?;
    }
    writer.types(&shapes)?;
    for case in cases.iter().filter(|case| !listed(SKIPPED, &case.id)) {
        let assertion = assertion(model, case, protocol).with_context(|| format!("generate {}", case.id))?;
        if let Some(assertion) = assertion {
            writer.push(format!("#[test]\nfn {}() {{\n{assertion}\n}}\n\n", names::snake(&case.id)));
        }
    }
    Ok(writer.finish())
}

fn listed(table: &[(&str, &str)], id: &str) -> bool {
    table.iter().any(|(listed, _)| *listed == id)
}

/// The body of a test; `None` for a case that says nothing about a body.
fn assertion(model: &Model, case: &Case, protocol: &str) -> Result<Option<String>> {
    let family = if protocol.starts_with("json") { "json" } else { protocol };
    let json = family == "json";
    if let (Some(input), Some(serialized)) = (&case.given.input, &case.serialized) {
        let no_parameters = Value::Object(serde_json::Map::new());
        let value = literal(model, &input.shape, case.params.as_ref().unwrap_or(&no_parameters))?;
        return Ok(Some(format!("check_{family}_input({:?}, {value});", serialized.body)));
    }
    let Some(response) = &case.response else { return Ok(None) };
    if let (Some(error), Some(code)) = (&case.error, &case.error_code) {
        // Other places for an error's name are a leniency of clients.
        if json && !response.body.contains("__type") {
            return Ok(None);
        }
        let value = error_literal(model, case, code, error)?;
        return Ok(Some(format!(
            "check_{family}_error({}, {:?}, {value});",
            response.status_code, response.body
        )));
    }
    let (Some(output), Some(result)) = (&case.given.output, &case.result) else { return Ok(None) };
    let value = literal(model, &output.shape, result)?;
    let reads = listed(READ_ONLY, &case.id);
    Ok(match (json, reads) {
        (true, true) => Some(format!("check_json_reads({:?}, {value});", response.body)),
        (true, false) => Some(format!("check_json_output({:?}, {value});", response.body)),
        (false, true) => None,
        // Clients accept an empty body, but this server always writes an element.
        (false, false) if response.body.is_empty() => None,
        (false, false) => {
            Some(format!("check_{family}_output({:?}, {:?}, {value});", case.given.name, response.body))
        }
    })
}

fn error_literal(model: &Model, case: &Case, code: &str, error: &Value) -> Result<String> {
    let of_code = |name: &&Reference| {
        let shape = model.shapes.get(&name.shape);
        let error = shape.and_then(|shape| shape.error.as_ref()).and_then(|error| error.code.as_deref());
        name.shape == code || error == Some(code)
    };
    let reference = case.given.errors.iter().find(of_code).with_context(|| format!("find error {code}"))?;
    let message = case.error_message.as_deref().unwrap_or_default();
    let mut fields = format!("message: String::from({message:?}), ");
    for (name, member) in &model.shape(&reference.shape)?.members {
        if name.eq_ignore_ascii_case("message") {
            continue;
        }
        let value = match error.get(name) {
            Some(value) => format!("Some({})", literal(model, &member.shape, value)?),
            None => "None".to_owned(),
        };
        write!(fields, "{}: {value}, ", names::field(name))?;
    }
    Ok(format!("SuiteError::{} {{ {fields} }}", errors::variant(&reference.shape)))
}

/// A Rust expression for a value of a shape.
fn literal(model: &Model, name: &str, value: &Value) -> Result<String> {
    let shape = model.shape(name)?;
    Ok(match shape.kind {
        Kind::Structure if shape.document => format!("serde_json::json!({value})"),
        Kind::Structure => structure_literal(model, name, value)?,
        Kind::List => {
            let items = value.as_array().context("expected a list")?.iter();
            let items =
                items.map(|value| literal(model, &item(shape)?.shape, value)).collect::<Result<Vec<_>>>()?;
            format!("vec![{}]", items.join(", "))
        }
        Kind::Map => {
            let mut entries = String::new();
            for (key, value) in value.as_object().context("expected a map")? {
                write!(
                    entries,
                    "(String::from({key:?}), {}), ",
                    literal(model, &item(shape)?.shape, value)?
                )?;
            }
            format!("BTreeMap::from([{entries}])")
        }
        Kind::String if shape.is_enum() => format!("{}::from({:?})", names::type_name(name), text(value)?),
        // Members with the trait `jsonvalue` are JSON inside a string.
        Kind::String if !value.is_string() => format!("String::from({:?})", value.to_string()),
        Kind::String => format!("String::from({:?})", text(value)?),
        Kind::Boolean | Kind::Integer | Kind::Long => value.to_string(),
        Kind::Float => float_literal(value, "f32")?,
        Kind::Double => float_literal(value, "f64")?,
        Kind::Timestamp => {
            let seconds = value.as_f64().context("expected a timestamp")?;
            format!("wire::Timestamp::from_millis({})", (seconds * 1000.0).round())
        }
        Kind::Blob => format!("wire::Blob({:?}.as_bytes().to_vec())", text(value)?),
    })
}

fn structure_literal(model: &Model, name: &str, value: &Value) -> Result<String> {
    let shape = model.shape(name)?;
    let mut fields = String::new();
    for (member_name, value) in value.as_object().context("expected a structure")? {
        if value.is_null() {
            continue;
        }
        let member = shape.members.get(member_name).with_context(|| format!("find member {member_name}"))?;
        let mut literal = literal(model, &member.shape, value)?;
        if model.embeds(&member.shape, name) {
            literal = format!("Box::new({literal})");
        }
        if !shape.required.contains(member_name) {
            literal = format!("Some({literal})");
        }
        write!(fields, "{}: {literal}, ", names::field(member_name))?;
    }
    Ok(format!("{} {{ {fields}..Default::default() }}", names::type_name(name)))
}

fn float_literal(value: &Value, float: &str) -> Result<String> {
    Ok(match value {
        Value::Number(number) => format!("{:?}{float}", number.as_f64().context("expected a number")?),
        Value::String(text) => match text.as_str() {
            "NaN" => format!("{float}::NAN"),
            "Infinity" => format!("{float}::INFINITY"),
            "-Infinity" => format!("{float}::NEG_INFINITY"),
            other => bail!("expected a number, found {other}"),
        },
        other => bail!("expected a number, found {other}"),
    })
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("expected text")
}
