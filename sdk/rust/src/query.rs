//! The query protocol from the client's side: a form out, XML in (the Smithy specification `aws-query-protocol`).
//!
//! XML is turned into a form, since that is the tree of text from which [`Shape`] can read. Lists must be wrapped
//! (`<Tags><member>…`); flattened ones, which no operation here has, would need the model to be told from structures.

use std::fmt::Write as _;

use neargate_wire::shape::{PLAIN, Shape, Sink, Traits};
use neargate_wire::{Document, Form, TimeFormat, Timestamp};
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use crate::error::AnswerError;

/// The form of a call.
pub(crate) fn encode<I: Shape>(operation: &str, version: &str, input: &I) -> String {
    let mut writer = FormWriter::default();
    writer.field("Action", operation);
    writer.field("Version", version);
    input.encode(&PLAIN, &mut writer);
    writer.form
}

/// Reads the `…Result` of an answer.
pub(crate) fn decode<O: Shape>(operation: &str, body: &[u8]) -> Result<O, AnswerError> {
    let form = flatten(body, &format!("{operation}Result"))?;
    let (output, _) = neargate_wire::query::decode(&form)?;
    Ok(output)
}

/// Code and message of an error answer; `None` when it is not one.
pub(crate) fn error_parts(body: &[u8]) -> Option<(String, String)> {
    let form = flatten(body, "Error").ok()?;
    Some((form.get("Code")?.to_owned(), form.get("Message").unwrap_or_default().to_owned()))
}

/// Writes fields named by their paths: `Tags.member.1.Key=a`.
#[derive(Default)]
struct FormWriter {
    form: String,
    path: Vec<String>,
    /// Items written so far, for each open list or map.
    counts: Vec<usize>,
}

impl FormWriter {
    fn field(&mut self, name: &str, value: &str) {
        if !self.form.is_empty() {
            self.form.push('&');
        }
        escape(name, &mut self.form);
        self.form.push('=');
        escape(value, &mut self.form);
    }

    fn scalar(&mut self, value: &str) {
        let name = self.path.join(".");
        self.field(&name, value);
        self.path.pop();
    }

    fn count(&mut self) -> usize {
        let count = self.counts.last_mut().expect("items lie in a list or a map");
        *count += 1;
        *count
    }

    fn begin_items(&mut self, is_flattened: bool, item: &str) {
        self.path.push(if is_flattened { String::new() } else { item.to_owned() });
        self.counts.push(0);
    }

    fn end_items(&mut self) {
        let item = self.path.pop().unwrap_or_default();
        if self.counts.pop() == Some(0) && !item.is_empty() {
            // An empty list is its name without a value.
            return self.scalar("");
        }
        self.path.pop();
    }

    fn numbered(&mut self) {
        let number = self.count().to_string();
        self.path.push(number);
    }
}

impl Sink for FormWriter {
    fn begin_structure(&mut self) {}

    fn member(&mut self, name: &'static str) {
        self.path.push(name.to_owned());
    }

    fn end_structure(&mut self) {
        self.path.pop();
    }

    fn begin_list(&mut self, traits: &'static Traits) {
        self.begin_items(traits.flattened, traits.item_name);
    }

    fn item(&mut self) {
        self.numbered();
    }

    fn end_list(&mut self) {
        self.end_items();
    }

    fn begin_map(&mut self, traits: &'static Traits) {
        self.begin_items(traits.flattened, "entry");
    }

    fn entry(&mut self, key: &str, traits: &'static Traits) {
        self.numbered();
        self.path.push(traits.key_name.to_owned());
        self.scalar(key);
        self.path.push(traits.value_name.to_owned());
    }

    fn end_entry(&mut self) {
        self.path.pop();
    }

    fn end_map(&mut self) {
        self.end_items();
    }

    fn text(&mut self, text: &str) {
        self.scalar(text);
    }

    fn literal(&mut self, literal: &str) {
        self.scalar(literal);
    }

    fn timestamp(&mut self, timestamp: Timestamp, format: Option<TimeFormat>) {
        self.scalar(&timestamp.format(format.unwrap_or(TimeFormat::Iso8601)));
    }

    fn document(&mut self, document: &Document) {
        self.scalar(&document.to_string());
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// An open element below the one that is read.
struct Open {
    name: String,
    text: String,
    /// Items of a list so far.
    items: usize,
    has_children: bool,
}

impl Open {
    fn new(name: String) -> Self {
        Self { name, text: String::new(), items: 0, has_children: false }
    }
}

/// The first element named `root` as a form.
fn flatten(body: &[u8], root: &str) -> Result<Form, AnswerError> {
    let not_xml = |reason: String| AnswerError::NotXml { reason };
    let text = str::from_utf8(body).map_err(|error| not_xml(error.to_string()))?;
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Open> = Vec::new();
    let mut form = String::new();
    loop {
        match reader.read_event().map_err(|error| not_xml(error.to_string()))? {
            Event::Eof => return Err(not_xml(format!("it has no element {root}"))),
            Event::Start(start) => enter(&mut open, start.local_name().as_ref(), root),
            Event::Text(text) => add_text(&mut open, &text.xml10_content()),
            Event::CData(text) => add_text(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().map_err(|error| not_xml(error.to_string()))?;
                let entity = reference.xml10_content();
                match (character, resolve_predefined_entity(&entity)) {
                    (Some(character), _) => add_text(&mut open, character.encode_utf8(&mut [0; 4])),
                    (None, Some(text)) => add_text(&mut open, text),
                    (None, None) => return Err(not_xml(format!("it has an unknown entity {entity}"))),
                }
            }
            Event::End(_) => {
                if let Some(closed) = open.pop() {
                    leave(&closed, &open, &mut form);
                    if open.is_empty() {
                        return Form::parse(form.as_bytes()).map_err(|error| not_xml(error.to_string()));
                    }
                }
            }
            _ => {}
        }
    }
}

fn add_text(open: &mut [Open], text: &str) {
    if let Some(last) = open.last_mut() {
        last.text.push_str(text);
    }
}

fn enter(open: &mut Vec<Open>, name: &str, root: &str) {
    let Some(parent) = open.last_mut() else {
        if name == root {
            open.push(Open::new(name.to_owned()));
        }
        return;
    };
    parent.has_children = true;
    let name = match name {
        "member" | "entry" => {
            parent.items += 1;
            format!("{name}.{}", parent.items)
        }
        _ => name.to_owned(),
    };
    open.push(Open::new(name));
}

/// Writes the field of an element that holds only text; `above` are the elements around it.
fn leave(closed: &Open, above: &[Open], form: &mut String) {
    if closed.has_children || above.is_empty() {
        return;
    }
    for element in &above[1..] {
        escape(&element.name, form);
        form.push('.');
    }
    escape(&closed.name, form);
    form.push('=');
    escape(&closed.text, form);
    form.push('&');
}

#[cfg(test)]
mod tests {
    use neargate_wire::ecs::{
        ContainerOverride, KeyValuePair, LogConfiguration, LogDriver, Tag, TaskOverride,
    };

    use super::*;

    /// What is written must be what the server's own reader reads.
    fn check_form<T: Shape + PartialEq + std::fmt::Debug>(value: T, expect: &str) {
        let text = encode("Do", "1", &value);
        assert_eq!(text, format!("Action=Do&Version=1{expect}"));
        let form = Form::parse(text.as_bytes()).unwrap();
        assert_eq!(neargate_wire::query::decode::<T>(&form).unwrap().0, value);
    }

    #[test]
    fn structures_become_paths() {
        check_form(Tag { key: Some("a b&".into()), value: None }, "&key=a%20b%26");
        check_form(
            TaskOverride {
                container_overrides: Some(vec![
                    ContainerOverride {
                        cpu: Some(7),
                        command: Some(vec!["x".into(), "y".into()]),
                        ..Default::default()
                    },
                    ContainerOverride {
                        environment: Some(vec![KeyValuePair { name: Some("k".into()), value: None }]),
                        ..Default::default()
                    },
                ]),
                memory: Some("1".into()),
                ..Default::default()
            },
            "&containerOverrides.member.1.command.member.1=x&containerOverrides.member.1.command.member.2=y\
             &containerOverrides.member.1.cpu=7&containerOverrides.member.2.environment.member.1.name=k&memory=1",
        );
        check_form(
            ContainerOverride { command: Some(Vec::new()), cpu: Some(1), ..Default::default() },
            "&command=&cpu=1",
        );
    }

    #[test]
    fn maps_become_numbered_entries() {
        check_form(
            LogConfiguration {
                log_driver: LogDriver::Awslogs,
                options: Some([("a".to_owned(), "1".to_owned())].into()),
                secret_options: None,
            },
            "&logDriver=awslogs&options.entry.1.key=a&options.entry.1.value=1",
        );
    }

    #[test]
    fn answers_of_the_servers_writer_are_read_back() {
        let value = TaskOverride {
            container_overrides: Some(vec![ContainerOverride {
                name: Some("<&>\"'\r\n\té ]]>".into()),
                command: Some(vec!["one".into(), String::new()]),
                cpu: Some(-1),
                ..Default::default()
            }]),
            cpu: Some(" padded ".into()),
            inference_accelerator_overrides: Some(Vec::new()),
            ..Default::default()
        };
        let xml = neargate_wire::query::encode("Do", Some("urn:x"), Some(&value), "id");
        assert_eq!(decode::<TaskOverride>("Do", &xml).unwrap(), value);
    }

    #[test]
    fn errors_are_read_and_other_pages_are_not() {
        let reply = neargate_wire::ErrorReply::sender(400, "Nope", "1 < 2");
        let xml = neargate_wire::query::encode_error(&reply, Some("urn:x"), "id");
        assert_eq!(error_parts(&xml), Some(("Nope".to_owned(), "1 < 2".to_owned())));
        for page in ["", "<html><body>Bad gateway</body></html>", "{}", "<Error>", "<Error></Other>"] {
            assert_eq!(error_parts(page.as_bytes()), None, "{page}");
        }
        assert!(matches!(decode::<Tag>("Do", b"\xff"), Err(AnswerError::NotXml { .. })));
    }
}
