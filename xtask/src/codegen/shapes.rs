//! Writes Rust types for shapes, and the tables that implement their codec.
//!
//! Names from the wire crate are reached through `wire`, so that the same text works inside and outside that crate.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use indexmap::IndexMap;
use serde_json::Number;

use super::model::{Kind, Model, Reference, Shape};
use super::names;

/// Where the generated text and the tables it refers to grow.
pub(crate) struct Writer<'a> {
    pub(crate) model: &'a Model,
    pub(crate) text: String,
    /// Traits by the name of their static.
    traits: IndexMap<String, String>,
    /// Patterns by the name of their static.
    patterns: IndexMap<String, String>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        Self { model, text: String::new(), traits: IndexMap::new(), patterns: IndexMap::new() }
    }

    /// Appends text.
    pub(crate) fn push(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
    }

    /// Writes a type for each shape that needs one.
    pub(crate) fn types(&mut self, shapes: &BTreeSet<String>) -> Result<()> {
        for name in shapes {
            let shape = self.model.shape(name)?;
            if shape.is_enum() {
                self.string_enum(name, shape);
            } else if shape.kind == Kind::Structure && !shape.document {
                self.structure(name, shape).with_context(|| format!("generate structure {name}"))?;
            }
        }
        Ok(())
    }

    /// The text so far, followed by the tables it refers to.
    pub(crate) fn finish(self) -> String {
        let mut text = self.text;
        let mut table = |name: &str, kind: &str, value: &str| {
            writeln!(text, "static {name}: {kind} = {value};").expect("writing to a string");
        };
        self.traits.iter().for_each(|(name, value)| table(name, "Traits", value));
        self.patterns.iter().for_each(|(name, value)| table(name, "Pattern", value));
        text
    }

    /// The Rust type of a shape.
    pub(crate) fn rust_type(&self, name: &str) -> Result<String> {
        let shape = self.model.shape(name)?;
        Ok(match shape.kind {
            Kind::Structure if shape.eventstream => bail!("event streams are not supported: {name}"),
            Kind::Structure if shape.document => "wire::Document".to_owned(),
            Kind::Structure => names::type_name(name),
            Kind::List => format!("Vec<{}>", self.rust_type(&item(shape)?.shape)?),
            Kind::Map => format!("BTreeMap<String, {}>", self.rust_type(&item(shape)?.shape)?),
            Kind::String if shape.is_enum() => names::type_name(name),
            Kind::String => "String".to_owned(),
            Kind::Boolean => "bool".to_owned(),
            Kind::Integer => "i32".to_owned(),
            Kind::Long => "i64".to_owned(),
            Kind::Float => "f32".to_owned(),
            Kind::Double => "f64".to_owned(),
            Kind::Timestamp => "wire::Timestamp".to_owned(),
            Kind::Blob => "wire::Blob".to_owned(),
        })
    }

    /// The type of a member inside a structure or an error, without `Option`.
    pub(crate) fn member_type(&self, owner: &str, member: &Reference) -> Result<String> {
        let plain = self.rust_type(&member.shape)?;
        Ok(if self.model.embeds(&member.shape, owner) { format!("Box<{plain}>") } else { plain })
    }

    /// The name under which a member travels.
    pub(crate) fn wire_name(&self, name: &str, member: &Reference) -> Result<String> {
        let shape = self.model.shape(&member.shape)?;
        let flattened = member.flattened || shape.flattened;
        // The items of a flattened list take the place of the list itself, so they lend it their name.
        let item_name =
            shape.member.as_ref().filter(|_| flattened).and_then(|item| item.location_name.clone());
        Ok(member.location_name.clone().or(item_name).unwrap_or_else(|| name.to_owned()))
    }

    /// An expression for the traits of a member or an item.
    pub(crate) fn traits(&mut self, reference: &Reference) -> Result<String> {
        let shape = self.model.shape(&reference.shape)?;
        let mut fields = self.constraints(&reference.shape, shape)?;
        if shape.sensitive {
            fields.push("sensitive: true".to_owned());
        }
        if reference.flattened || shape.flattened {
            fields.push("flattened: true".to_owned());
        }
        if let Some(format) = &shape.timestamp_format {
            fields.push(format!("time: Some(wire::TimeFormat::{})", time_format(format)?));
        }
        self.inner_traits(shape, &mut fields)?;
        if fields.is_empty() {
            return Ok("&PLAIN".to_owned());
        }
        let value = format!("Traits {{ {}, ..Traits::new() }}", fields.join(", "));
        Ok(format!(
            "&{}",
            intern(&mut self.traits, format!("{}_TRAITS", names::screaming(&reference.shape)), value)
        ))
    }

    fn constraints(&mut self, name: &str, shape: &Shape) -> Result<Vec<String>> {
        let mut fields = Vec::new();
        if shape.is_enum() {
            return Ok(fields);
        }
        for (field, bound) in [("min", &shape.min), ("max", &shape.max)] {
            if let Some(bound) = bound {
                fields.push(format!(
                    "{field}: Some({})",
                    whole(bound).with_context(|| format!("bound of {name}"))?
                ));
            }
        }
        if let Some(pattern) = &shape.pattern {
            let rust = rust_pattern(pattern).with_context(|| format!("pattern of {name}"))?;
            let value = format!("Pattern::new({pattern:?}, {rust:?})");
            let name = intern(&mut self.patterns, format!("{}_PATTERN", names::screaming(name)), value);
            fields.push(format!("pattern: Some(&{name})"));
        }
        Ok(fields)
    }

    fn inner_traits(&mut self, shape: &Shape, fields: &mut Vec<String>) -> Result<()> {
        let mut named = |field: &str, reference: &Option<Reference>| {
            let name = reference.as_ref().and_then(|reference| reference.location_name.as_ref());
            fields.extend(name.map(|name| format!("{field}: {name:?}")));
        };
        named("item_name", &shape.member);
        named("key_name", &shape.key);
        named("value_name", &shape.value);
        for (field, reference) in [("key", &shape.key), ("item", &shape.member), ("item", &shape.value)] {
            if let Some(reference) = reference {
                let traits = self.traits(reference)?;
                fields.extend((traits != "&PLAIN").then(|| format!("{field}: Some({traits})")));
            }
        }
        Ok(())
    }

    fn structure(&mut self, name: &str, shape: &Shape) -> Result<()> {
        let rust_name = names::type_name(name);
        let (mut fields, mut table) = (String::new(), String::new());
        for (member_name, member) in &shape.members {
            let field = names::field(member_name);
            let mut kind = "optional";
            let mut member_type = self.member_type(name, member)?;
            if shape.required.contains(member_name) {
                kind = "required";
            } else {
                member_type = format!("Option<{member_type}>");
            }
            fields.push_str(&names::doc(&member.documentation, "    "));
            writeln!(fields, "    pub {field}: {member_type},")?;
            let (wire_name, traits) = (self.wire_name(member_name, member)?, self.traits(member)?);
            writeln!(table, "    {field}: {kind}({wire_name:?}, {traits}),")?;
        }
        let secret = |member: &Reference| self.model.is_sensitive(&member.shape);
        let redacted = shape.members.values().any(secret);
        let debug = if redacted { "" } else { "Debug, " };
        let doc = names::doc(&shape.documentation, "");
        self.push(format!(
            "{doc}#[derive(Clone, {debug}Default, PartialEq)]\npub struct {rust_name} {{\n{fields}}}\n\n"
        ));
        let union = if shape.union { "union " } else { "" };
        self.push(format!("wire::structure!({union}{rust_name} {{\n{table}}});\n\n"));
        if redacted {
            self.redacted_debug(&rust_name, shape);
        }
        Ok(())
    }

    /// `Debug` that shows whether a sensitive member is there, but not what it is.
    fn redacted_debug(&mut self, rust_name: &str, shape: &Shape) {
        let mut fields = String::new();
        for (name, member) in &shape.members {
            let field = names::field(name);
            let value = match (self.model.is_sensitive(&member.shape), shape.required.contains(name)) {
                (false, _) => format!("&self.{field}"),
                (true, true) => "&\"[redacted]\"".to_owned(),
                (true, false) => format!("&self.{field}.as_ref().map(|_| \"[redacted]\")"),
            };
            writeln!(fields, ".field({:?}, {value})", field.trim_start_matches("r#"))
                .expect("writing to a string");
        }
        self.push(format!(
            "impl fmt::Debug for {rust_name} {{
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {{
                    f.debug_struct({rust_name:?}){fields}.finish()
                }}
            }}\n\n"
        ));
    }

    fn string_enum(&mut self, name: &str, shape: &Shape) {
        let variants = names::variants(&shape.names);
        let mut table = String::new();
        for (variant, value) in variants.iter().zip(&shape.names) {
            writeln!(table, "        {variant} = {value:?},").expect("writing to a string");
        }
        let doc = match names::doc(&shape.documentation, "    ") {
            doc if doc.is_empty() => format!("    /// The values of `{name}`.\n"),
            doc => doc,
        };
        self.push(format!(
            "wire::string_enum! {{\n{doc}    {} {{\n{table}    }}\n}}\n\n",
            names::type_name(name)
        ));
    }
}

/// The items of a list, or the values of a map.
pub(crate) fn item(shape: &Shape) -> Result<&Reference> {
    shape.member.as_ref().or(shape.value.as_ref()).context("find the items of a list or map")
}

/// Names of botocore's timestamp formats.
fn time_format(format: &str) -> Result<&'static str> {
    Ok(match format {
        "unixTimestamp" => "EpochSeconds",
        "iso8601" => "Iso8601",
        "rfc822" => "HttpDate",
        other => bail!("unknown timestamp format {other}"),
    })
}

/// Keeps a value in a table under `name`, or under a numbered name when that is taken by another value.
fn intern(table: &mut IndexMap<String, String>, name: String, value: String) -> String {
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    let free = std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| table.get(name).is_none_or(|known| *known == value))
        .expect("there is always another number");
    table.insert(free.clone(), value);
    free
}

fn whole(number: &Number) -> Result<i64> {
    let fraction = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    let whole = number.as_i64().or_else(|| number.as_f64().and_then(fraction));
    whole.with_context(|| format!("bound {number} is not a whole number"))
}

/// A model's pattern in the syntax of the `regex` crate, matching the whole text.
///
/// The models are written for Java, where `\w`, `\d` and `\s` are ASCII, where `\uXXXX` is a code point, and where a
/// hyphen after a class is a hyphen.
fn rust_pattern(model: &str) -> Result<String> {
    let mut rust = String::from("\\A(?:");
    let mut characters = model.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next().context("pattern ends in a backslash")?;
                let class = match escaped {
                    'w' => "0-9A-Za-z_",
                    'd' => "0-9",
                    's' => " \\t\\n\\x0B\\f\\r",
                    'S' if !in_class => "^ \\t\\n\\x0B\\f\\r",
                    'W' | 'D' | 'S' => bail!("negated class inside a class"),
                    'u' => {
                        let digits: String = characters.by_ref().take(4).collect();
                        ensure!(
                            !characters.peek().is_some_and(char::is_ascii_hexdigit),
                            "\\u with five digits"
                        );
                        write!(rust, "\\x{{{digits}}}")?;
                        continue;
                    }
                    other => {
                        rust.extend(['\\', other]);
                        continue;
                    }
                };
                let class = if in_class { class.to_owned() } else { format!("[{class}]") };
                rust.push_str(&class);
                if in_class && characters.next_if_eq(&'-').is_some() {
                    rust.push_str("\\-");
                }
            }
            '[' if !in_class => {
                in_class = true;
                rust.push('[');
            }
            '[' => bail!("nested class"),
            ']' => {
                in_class = false;
                rust.push(']');
            }
            other => rust.push(other),
        }
    }
    rust.push_str(")\\z");
    regex::Regex::new(&rust).context("compile")?;
    Ok(rust)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_keep_their_meaning() {
        let check = |model: &str, matching: &[&str], other: &[&str]| {
            let regex = regex::Regex::new(&rust_pattern(model).unwrap()).unwrap();
            matching.iter().for_each(|text| assert!(regex.is_match(text), "{model} {text}"));
            other.iter().for_each(|text| assert!(!regex.is_match(text), "{model} {text}"));
        };
        check("[\\w-_]*", &["a-_9", ""], &["ä", "a b"]);
        check("[^:*]*", &["x\ny"], &["a:b", "*"]);
        check("^\\d{12}$", &["123456789012"], &["123456789012\n", "1234567890123", "١٢٣٤٥٦٧٨٩٠١٢"]);
        check("\\S{2}", &["ab"], &["a ", "abc"]);
        check("([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)", &["Grün 1"], &["a\tb", "#"]);
        check("a|b", &["a", "b"], &["ab", "xa"]);
        check("[\\u0009\\u0020-\\u00FF]+", &["\té"], &["\n"]);
    }

    #[test]
    fn patterns_that_would_change_meaning_are_refused() {
        for model in ["[\\u10000-\\u10FFFF]", "[\\S]", "(?=a)", "[a", "a\\", "[a[b]]"] {
            assert!(rust_pattern(model).is_err(), "{model}");
        }
    }
}
