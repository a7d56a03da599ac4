//! Writes the module of one AWS service: types, errors, operation table, trait and dispatch.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};

use super::errors;
use super::ledger;
use super::model::{Model, Operation};
use super::names;
use super::services::Input;
use super::shapes::Writer;

/// The text of the module.
pub(crate) fn generate(input: &Input, model: &Model) -> Result<String> {
    let mut shapes = BTreeSet::new();
    let mut error_shapes = BTreeSet::new();
    for operation in listed(input, model)? {
        for reference in operation.input.iter().chain(&operation.output) {
            model.reach(&reference.shape, &mut shapes)?;
        }
        for error in &operation.errors {
            error_shapes.insert(error.shape.clone());
            for member in model.shape(&error.shape)?.members.values() {
                model.reach(&member.shape, &mut shapes)?;
            }
        }
    }
    model.check_form_names(&shapes)?;
    let mut writer = Writer::new(model);
    table(&mut writer, input)?;
    service_trait(&mut writer, input)?;
    dispatch(&mut writer, input)?;
    errors::error_enum(&mut writer, &format!("{}Error", input.trait_name), &error_shapes)?;
    writer.types(&shapes)?;
    let text = writer.finish();
    Ok(header(input, model) + &imports(&text) + &text)
}

/// The text of the module that lists the AWS services.
pub(crate) fn module_list(inputs: &[Input]) -> String {
    let mut text = String::from("//! Generated from the AWS models; see `xtask/src/codegen/`.\n\n");
    for input in inputs {
        // The documentation is AWS's: it leaves things out, and it contains addresses.
        write!(text, "#[allow(missing_docs, rustdoc::bare_urls)]\npub mod {};\n", input.module)
            .expect("writing to a string");
    }
    let rows: Vec<String> = inputs.iter().map(|input| format!("&{}::SERVICE", input.module)).collect();
    let rows = rows.join(", ");
    text + &format!("\n/// All AWS services.\npub static SERVICES: &[&crate::Service] = &[{rows}];\n")
}

fn listed<'a>(input: &Input, model: &'a Model) -> Result<Vec<&'a Operation>> {
    input.operations.iter().map(|listed| model.operation(listed.name)).collect()
}

fn header(input: &Input, model: &Model) -> String {
    let title = title(model);
    format!(
        "//! {title}, API version {}: {} operations of {}.\n\n",
        version(model),
        input.operations.len(),
        model.operations.len()
    )
}

/// Imports of what `text` uses.
fn imports(text: &str) -> String {
    let mut imports = String::new();
    if text.contains("BTreeMap<") {
        imports.push_str("use std::collections::BTreeMap;\n");
    }
    imports.push_str("use std::fmt;\nuse std::future::Future;\n\nuse crate as wire;\n");
    let used = [("PLAIN", "&PLAIN"), ("Pattern", ": Pattern ="), ("Traits", ": Traits =")];
    let used: Vec<&str> =
        used.iter().filter(|(_, sign)| text.contains(sign)).map(|(name, _)| *name).collect();
    if !used.is_empty() {
        writeln!(imports, "use crate::shape::{{{}}};", used.join(", ")).expect("writing to a string");
    }
    imports + "\n"
}

fn title(model: &Model) -> &str {
    model.metadata.service_abbreviation.as_deref().unwrap_or(&model.metadata.service_full_name)
}

fn version(model: &Model) -> &str {
    model.metadata.api_version.as_deref().unwrap_or_default()
}

fn protocols(model: &Model) -> Result<String> {
    let metadata = &model.metadata;
    let mut protocols = Vec::new();
    for protocol in &metadata.protocols {
        protocols.push(match (protocol.as_str(), metadata.json_version.as_deref()) {
            ("json", Some("1.0")) => "wire::Protocol::Json10",
            ("json", Some("1.1")) => "wire::Protocol::Json11",
            ("query", _) => "wire::Protocol::Query",
            ("ec2", _) => "wire::Protocol::Ec2",
            ("smithy-rpc-v2-cbor", _) => "wire::Protocol::RpcV2Cbor",
            (other, _) => bail!("unknown protocol {other}"),
        });
    }
    Ok(protocols.join(", "))
}

fn table(writer: &mut Writer<'_>, input: &Input) -> Result<()> {
    let model = writer.model;
    let metadata = &model.metadata;
    let scope = metadata.signing_name.as_ref().unwrap_or(&metadata.endpoint_prefix);
    writer.push(format!(
        "/// What there is to know of the service as a whole.
        pub static SERVICE: wire::Service = wire::Service {{
            name: {:?},
            title: {:?},
            scope: {scope:?},
            protocols: &[{}],
            target_prefix: {:?},
            api_version: {:?},
            xml_namespace: {:?},
            query_compatible: {},
            invalid_code: {:?},
            unsupported_code: {:?},
            operations: OPERATIONS,
        }};\n\n",
        input.module,
        title(model),
        protocols(model)?,
        metadata.target_prefix,
        version(model),
        metadata.xml_namespace,
        metadata.aws_query_compatible.is_some(),
        input.invalid_code,
        input.unsupported_code,
    ));
    let mut rows = String::new();
    for name in ledger::sorted_operations(model) {
        let http = &model.operation(name)?.http;
        let (mark, note) = ledger::mark(input, name);
        if mark == "refused" && (http.method.as_str(), http.request_uri.as_str()) == ("POST", "/") {
            writeln!(rows, "wire::Operation::refused({name:?}),")?;
            continue;
        }
        let mark = names::type_name(mark);
        writeln!(
            rows,
            "wire::Operation {{ name: {name:?}, mark: wire::Mark::{mark}, note: {note:?}, method: {:?}, uri: {:?} }},",
            http.method, http.request_uri
        )?;
    }
    writer.push(format!(
        "/// All operations of the model, in the order of their names.
        pub const OPERATIONS: &[wire::Operation] = &[{rows}];

        /// Finds an operation by its exact name.
        pub fn operation(name: &str) -> Option<&'static wire::Operation> {{
            SERVICE.operation(name)
        }}\n\n"
    ));
    Ok(())
}

fn service_trait(writer: &mut Writer<'_>, input: &Input) -> Result<()> {
    let error = format!("{}Error", input.trait_name);
    let mut methods = String::new();
    for operation in listed(input, writer.model)? {
        let doc = names::doc(&operation.documentation, "    ");
        let argument = match &operation.input {
            Some(input) => format!(", input: {}", names::type_name(&input.shape)),
            None => String::new(),
        };
        let output = match &operation.output {
            Some(output) => names::type_name(&output.shape),
            None => "()".to_owned(),
        };
        write!(
            methods,
            "{doc}fn {}(&self, cx: &Self::Context{argument}) -> impl Future<Output = Result<{output}, {error}>> + Send;\n\n",
            names::field(&operation.name)
        )?;
    }
    writer.push(format!(
        "/// {} as a server implements it; each method is one operation.
        pub trait {}: Send + Sync {{
            /// What the server knows of the request beyond its input, such as who made it.
            type Context: Sync;

            {methods}
        }}\n\n",
        title(writer.model),
        input.trait_name
    ));
    Ok(())
}

fn dispatch(writer: &mut Writer<'_>, input: &Input) -> Result<()> {
    let mut arms = String::new();
    for operation in listed(input, writer.model)? {
        if let Some(output) = &operation.output {
            let wrapper = output.result_wrapper.clone();
            let expected = format!("{}Result", operation.name);
            ensure!(
                wrapper.is_none_or(|wrapper| wrapper == expected),
                "result of {} is not named so",
                operation.name
            );
        }
        let (decode, argument) = match &operation.input {
            Some(_) => ("let input = call.decode(&SERVICE)?;", ", input"),
            None => ("", ""),
        };
        let method = names::field(&operation.name);
        let (bind, encode) = match &operation.output {
            Some(_) => ("let output = ", "Ok(call.encode(&SERVICE, &output))"),
            None => ("", "Ok(call.encode_nothing(&SERVICE))"),
        };
        writeln!(
            arms,
            "{:?} => {{ {decode} {bind}service.{method}(cx{argument}).await?; {encode} }}",
            operation.name
        )
        .context("write an arm")?;
    }
    writer.push(format!(
        "/// Decodes the input of a call, checks it, runs the operation and encodes its output.
        pub async fn dispatch<S: {}>(
            service: &S,
            cx: &S::Context,
            call: &wire::Call<'_>,
        ) -> Result<Vec<u8>, wire::DispatchError> {{
            match call.operation {{
                {arms}
                _ => Err(call.refuse(&SERVICE)),
            }}
        }}\n\n",
        input.trait_name
    ));
    Ok(())
}
