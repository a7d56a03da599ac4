//! Compares documents by their meaning: JSON numbers by value, XML without white space, comments and attributes.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value;

/// An XML element. Attributes are left out: in these documents they only declare namespaces, which no client reads.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// Parses a document with one root; panics when it is not one.
    pub(crate) fn parse(document: &[u8]) -> Self {
        let mut reader = Reader::from_str(str::from_utf8(document).expect("the document is UTF-8"));
        let mut open = vec![Element::default()];
        loop {
            match reader.read_event().expect("the document is XML") {
                Event::Start(start) => {
                    let name = start.name().as_ref().to_owned();
                    open.push(Element { name, ..Element::default() });
                }
                Event::Empty(empty) => {
                    let name = empty.name().as_ref().to_owned();
                    last(&mut open).children.push(Element { name, ..Element::default() });
                }
                Event::End(_) => {
                    let mut element = open.pop().expect("an element is open");
                    if !element.children.is_empty() {
                        assert!(element.text.trim().is_empty(), "text beside elements in {}", element.name);
                        element.text.clear();
                        element.sort_entries();
                    }
                    element.text = element.text.trim().to_owned();
                    last(&mut open).children.push(element);
                }
                Event::Text(text) => last(&mut open).text.push_str(&text),
                Event::GeneralRef(reference) => {
                    let escaped = format!("&{};", &*reference);
                    let text = quick_xml::escape::unescape(&escaped).expect("the reference is predefined");
                    last(&mut open).text.push_str(&text);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let mut root = open.pop().expect("the document node");
        assert_eq!((open.len(), root.children.len()), (0, 1), "one root");
        root.children.remove(0)
    }

    /// Puts the entries of a map in the order of their keys, since maps have none. Entries are known by their two
    /// children, of which the first has one of the names that the vectors give to keys.
    fn sort_entries(&mut self) {
        let key = |element: &Element| match &element.children[..] {
            [key, _] if ["key", "K", "Attribute"].contains(&key.name.as_str()) => Some(key.text.clone()),
            _ => None,
        };
        if self.children.iter().all(|child| key(child).is_some()) {
            self.children.sort_by_key(key);
        }
    }
}

fn last(open: &mut [Element]) -> &mut Element {
    open.last_mut().expect("the document node stays open")
}

/// Asserts that two JSON documents mean the same to a client; an empty body is an empty object, an error's type counts
/// without its namespace, and its message may be spelt either way.
pub(crate) fn same_json(written: &[u8], expected: &[u8]) {
    let read = |text: &[u8]| match text {
        [] => serde_json::json!({}),
        text => normal(serde_json::from_slice(text).expect("the document is JSON")),
    };
    assert_eq!(read(written), read(expected));
}

fn normal(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64().expect("numbers are doubles")),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        Value::Object(members) => members.into_iter().map(normal_member).collect(),
        other => other,
    }
}

fn normal_member((name, value): (String, Value)) -> (String, Value) {
    match (name.as_str(), value) {
        ("__type", Value::String(text)) => {
            let local = text.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
            (name, Value::from(local))
        }
        ("Message", value) => ("message".to_owned(), normal(value)),
        (_, value) => (name, normal(value)),
    }
}
