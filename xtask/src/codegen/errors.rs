//! Writes one enum with the errors of an AWS service.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::model::{Model, Reference, Shape};
use super::names;
use super::shapes::Writer;

/// What an enum's methods need of one error.
struct ErrorShape<'a> {
    variant: String,
    shape: &'a Shape,
    name: &'a str,
    code: &'a str,
    query_code: Option<&'a str>,
    status: u16,
    sender_fault: bool,
}

impl<'a> ErrorShape<'a> {
    fn new(model: &'a Model, name: &'a str) -> Result<Self> {
        let shape = model.shape(name)?;
        let error = shape.error.as_ref();
        let query_code = error.and_then(|error| error.code.as_deref()).filter(|code| *code != name);
        let json = model.metadata.protocols.iter().any(|protocol| protocol == "json");
        // A service that only speaks Query has no use for the shape's name.
        let (code, query_code) = if json { (name, query_code) } else { (query_code.unwrap_or(name), None) };
        let default_status = if shape.fault { 500 } else { 400 };
        Ok(Self {
            variant: names::type_name(name.strip_suffix("Exception").unwrap_or(name)),
            shape,
            name,
            code,
            query_code,
            status: error.and_then(|error| error.http_status_code).unwrap_or(default_status),
            sender_fault: error.and_then(|error| error.sender_fault).unwrap_or(!shape.fault),
        })
    }

    /// The members beyond the message.
    fn members(&self) -> impl Iterator<Item = (&'a String, &'a Reference)> {
        self.shape.members.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("message"))
    }
}

/// The name of an error's variant.
pub(crate) fn variant(name: &str) -> String {
    names::type_name(name.strip_suffix("Exception").unwrap_or(name))
}

/// Writes the enum `enum_name` with its methods and conversions.
pub(crate) fn error_enum(writer: &mut Writer<'_>, enum_name: &str, shapes: &BTreeSet<String>) -> Result<()> {
    let model = writer.model;
    let errors = shapes
        .iter()
        .map(|name| ErrorShape::new(model, name).with_context(|| format!("generate error {name}")))
        .collect::<Result<Vec<_>>>()?;
    declaration(writer, enum_name, &errors)?;
    methods(writer, enum_name, &errors)?;
    conversions(writer, enum_name, &errors)
}

fn declaration(writer: &mut Writer<'_>, enum_name: &str, errors: &[ErrorShape<'_>]) -> Result<()> {
    let mut variants = String::new();
    for error in errors {
        let doc = match names::doc(&error.shape.documentation, "    ") {
            doc if doc.is_empty() => format!("    /// `{}`\n", error.name),
            doc => doc,
        };
        write!(variants, "{doc}    {} {{ /// Text for people.\nmessage: String, ", error.variant)?;
        for (name, member) in error.members() {
            let member_type = writer.member_type(error.name, member)?;
            let doc = names::doc(&member.documentation, "");
            write!(variants, "\n{doc}{}: Option<{member_type}>, ", names::field(name))?;
        }
        variants.push_str("},\n");
    }
    writer.push(format!(
        "/// The errors of the operations that Neargate implements.
        #[derive(Clone, Debug, PartialEq)]
        pub enum {enum_name} {{
        {variants}
            /// An answer outside the model that every AWS service may give, such as `AccessDeniedException`.
            Reply(wire::ErrorReply),
        }}\n\n"
    ));
    Ok(())
}

fn methods(writer: &mut Writer<'_>, enum_name: &str, errors: &[ErrorShape<'_>]) -> Result<()> {
    let (mut codes, mut query_codes, mut statuses, mut faults, mut messages) =
        (String::new(), String::new(), String::new(), String::new(), String::new());
    for error in errors {
        let pattern = format!("Self::{} {{ .. }}", error.variant);
        writeln!(codes, "{pattern} => {:?},", error.code)?;
        if let Some(code) = error.query_code {
            writeln!(query_codes, "{pattern} => Some({code:?}),")?;
        }
        if error.status != 400 {
            writeln!(statuses, "{pattern} => {},", error.status)?;
        }
        if !error.sender_fault {
            writeln!(faults, "{pattern} => false,")?;
        }
        write!(messages, "Self::{} {{ message, .. }} | ", error.variant)?;
    }
    let messages = match messages.strip_suffix(" | ") {
        Some(patterns) => format!("{patterns} => message,"),
        None => String::new(),
    };
    // Only what is unusual has an arm of its own.
    let rest = |arms: &str, default: &str| match arms.lines().count() == errors.len() {
        true => String::new(),
        false => format!("_ => {default},"),
    };
    let (no_code, bad_request, sender) =
        (rest(&query_codes, "None"), rest(&statuses, "400"), rest(&faults, "true"));
    writer.push(format!(
        "impl {enum_name} {{
            /// The error's code in the preferred protocol.
            pub fn code(&self) -> &'static str {{
                match self {{ {codes} Self::Reply(reply) => reply.code }}
            }}

            /// The error's code in the query protocol, where it differs.
            pub fn query_code(&self) -> Option<&'static str> {{
                match self {{ {query_codes} Self::Reply(reply) => reply.query_code, {no_code} }}
            }}

            /// The HTTP status.
            pub fn http_status(&self) -> u16 {{
                match self {{ {statuses} Self::Reply(reply) => reply.status, {bad_request} }}
            }}

            /// Whether the client is at fault.
            pub fn sender_fault(&self) -> bool {{
                match self {{ {faults} Self::Reply(reply) => reply.sender_fault, {sender} }}
            }}

            /// Text for people.
            pub fn message(&self) -> &str {{
                match self {{ {messages} Self::Reply(reply) => &reply.message }}
            }}
        }}\n\n"
    ));
    Ok(())
}

fn conversions(writer: &mut Writer<'_>, enum_name: &str, errors: &[ErrorShape<'_>]) -> Result<()> {
    let mut members = String::new();
    for error in errors.iter().filter(|error| error.members().next().is_some()) {
        let fields: Vec<String> = error.members().map(|(name, _)| names::field(name)).collect();
        write!(members, "if let {enum_name}::{} {{ {}, .. }} = &error {{", error.variant, fields.join(", "))?;
        for ((name, member), field) in error.members().zip(&fields) {
            let (wire_name, traits) = (writer.wire_name(name, member)?, writer.traits(member)?);
            write!(
                members,
                "reply.members.extend({field}.iter().map(|value| ({wire_name:?}, wire::json::to_document(value, {traits}))));"
            )?;
        }
        members.push_str("}\n");
    }
    if errors.is_empty() {
        writer.push(format!(
            "impl From<{enum_name}> for wire::ErrorReply {{
                fn from(error: {enum_name}) -> Self {{
                    let {enum_name}::Reply(reply) = error;
                    reply
                }}
            }}\n\n"
        ));
    } else {
        reply_conversion(writer, enum_name, &members);
    }
    writer.push(format!(
        "impl fmt::Display for {enum_name} {{
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {{
                write!(f, \"{{}}: {{}}\", self.code(), self.message())
            }}
        }}

        impl std::error::Error for {enum_name} {{}}

        impl From<{enum_name}> for wire::DispatchError {{
            fn from(error: {enum_name}) -> Self {{
                Self::Service(error.into())
            }}
        }}\n\n"
    ));
    Ok(())
}

fn reply_conversion(writer: &mut Writer<'_>, enum_name: &str, members: &str) {
    let reply = "wire::ErrorReply {
            status: error.http_status(),
            code: error.code(),
            query_code: error.query_code(),
            message: error.message().to_owned(),
            sender_fault: error.sender_fault(),
            members: Vec::new(),
        }";
    let body = match members {
        "" => reply.to_owned(),
        members => format!("let mut reply = {reply};\n{members}\nreply"),
    };
    writer.push(format!(
        "impl From<{enum_name}> for wire::ErrorReply {{
            fn from(error: {enum_name}) -> Self {{
                if let {enum_name}::Reply(reply) = error {{
                    return reply;
                }}
                {body}
            }}
        }}\n\n"
    ));
}
