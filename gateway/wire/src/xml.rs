//! Writes the XML of the query protocols. It is only ever written, never read.

use std::borrow::Cow;

use serde_json::Value;

use crate::shape::{PLAIN, Shape, Sink, Traits};
use crate::value::{TimeFormat, Timestamp};

type Name = Cow<'static, str>;

/// Builds an XML document; as a [`Sink`] it writes one value under a given element name.
#[derive(Debug, Default)]
pub(crate) struct XmlWriter {
    text: String,
    /// Name of the element that the next value becomes; without one, a value has no element of its own.
    next: Name,
    open: Vec<Open>,
}

/// An open structure, list or map.
#[derive(Debug)]
struct Open {
    /// The element to close; `None` for flattened lists and maps, and for a whole output without an element of its own.
    element: Option<Name>,
    /// Name of the elements inside a list or a map.
    item: Name,
}

impl XmlWriter {
    /// Opens the document's element.
    pub(crate) fn open_root(&mut self, name: &str, namespace: Option<&str>) {
        let Some(namespace) = namespace else { return self.open(name) };
        self.text.push('<');
        self.text.push_str(name);
        self.text.push_str(" xmlns=\"");
        self.escape(namespace);
        self.text.push_str("\">");
    }

    /// Opens an element.
    pub(crate) fn open(&mut self, name: &str) {
        self.text.extend(["<", name, ">"]);
    }

    /// Closes an element.
    pub(crate) fn close(&mut self, name: &str) {
        self.text.extend(["</", name, ">"]);
    }

    /// Writes an element that holds only text.
    pub(crate) fn leaf(&mut self, name: &str, text: &str) {
        self.open(name);
        self.escape(text);
        self.close(name);
    }

    /// Writes a value as the element `name`.
    pub(crate) fn value<T: Shape>(&mut self, name: String, value: &T, traits: &'static Traits) {
        self.next = name.into();
        value.encode(traits, self);
    }

    /// Writes the members of a structure into the element that is open.
    pub(crate) fn members<T: Shape>(&mut self, value: &T) {
        self.next = Name::default();
        value.encode(&PLAIN, self);
    }

    /// Writes a JSON value as the element `name`; lists become `member` elements.
    pub(crate) fn json(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) => return self.leaf(name, text),
            Value::Null | Value::Bool(_) | Value::Number(_) => return self.leaf(name, &value.to_string()),
            Value::Array(items) => {
                self.open(name);
                items.iter().for_each(|item| self.json("member", item));
            }
            Value::Object(members) => {
                self.open(name);
                members.iter().for_each(|(name, value)| self.json(name, value));
            }
        }
        self.close(name);
    }

    /// The document.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    /// Escapes text for elements and attributes. Line ends are escaped too, since readers normalise bare ones, and
    /// characters that XML 1.0 cannot hold (§2.2) become U+FFFD.
    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                '\r' => self.text.push_str("&#xD;"),
                '\n' => self.text.push_str("&#xA;"),
                '\t' => self.text.push_str("&#x9;"),
                '\u{85}' => self.text.push_str("&#x85;"),
                '\u{2028}' => self.text.push_str("&#x2028;"),
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.text.push('\u{fffd}'),
                other => self.text.push(other),
            }
        }
    }

    fn begin(&mut self, flattened: bool, item: &'static str) {
        let name = std::mem::take(&mut self.next);
        if flattened || name.is_empty() {
            self.open.push(Open { element: None, item: name });
        } else {
            self.open(&name);
            self.open.push(Open { element: Some(name), item: item.into() });
        }
    }

    fn end(&mut self) {
        let closed = self.open.pop().and_then(|open| open.element);
        if let Some(name) = closed {
            self.close(&name);
        }
    }

    fn inner_name(&self) -> Name {
        self.open.last().map(|open| open.item.clone()).unwrap_or_default()
    }
}

impl Sink for XmlWriter {
    fn begin_structure(&mut self) {
        self.begin(false, "");
    }

    fn member(&mut self, name: &'static str) {
        self.next = name.into();
    }

    fn end_structure(&mut self) {
        self.end();
    }

    fn begin_list(&mut self, traits: &'static Traits) {
        self.begin(traits.flattened, traits.item_name);
    }

    fn item(&mut self) {
        self.next = self.inner_name();
    }

    fn end_list(&mut self) {
        self.end();
    }

    fn begin_map(&mut self, traits: &'static Traits) {
        self.begin(traits.flattened, "entry");
    }

    fn entry(&mut self, key: &str, traits: &'static Traits) {
        let entry = self.inner_name();
        self.open(&entry);
        self.leaf(traits.key_name, key);
        self.next = traits.value_name.into();
    }

    fn end_entry(&mut self) {
        let entry = self.inner_name();
        self.close(&entry);
    }

    fn end_map(&mut self) {
        self.end();
    }

    fn text(&mut self, text: &str) {
        let name = std::mem::take(&mut self.next);
        self.leaf(&name, text);
    }

    fn literal(&mut self, literal: &str) {
        self.text(literal);
    }

    fn timestamp(&mut self, timestamp: Timestamp, format: Option<TimeFormat>) {
        self.text(&timestamp.format(format.unwrap_or(TimeFormat::Iso8601)));
    }

    fn document(&mut self, document: &Value) {
        let name = std::mem::take(&mut self.next);
        self.json(&name, document);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let check = |text: &str, expected: &str| {
            let mut xml = XmlWriter::default();
            xml.leaf("a", text);
            assert_eq!(String::from_utf8(xml.into_bytes()).unwrap(), format!("<a>{expected}</a>"));
        };
        check("a<b>&\"'", "a&lt;b&gt;&amp;&quot;'");
        check("\r\n\t", "&#xD;&#xA;&#x9;");
        check("\0\u{1b}\u{ffff}", "\u{fffd}\u{fffd}\u{fffd}");
    }
}
