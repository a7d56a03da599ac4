//! Members of a request by name, whatever its protocol.

use neargate_wire::Form;
use serde_json::Value;

/// The members of a request.
pub(crate) enum Fields<'a> {
    /// Of a JSON protocol. What is no JSON has none, and is refused when it is decoded.
    Json(Value),
    /// Of a form.
    Form(&'a Form),
}

impl<'a> Fields<'a> {
    /// Those of a form, or else of a body.
    pub(crate) fn of(form: Option<&'a Form>, body: &[u8]) -> Self {
        match form {
            Some(form) => Self::Form(form),
            None => Self::Json(serde_json::from_slice(body).unwrap_or_default()),
        }
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self {
            Self::Json(value) => value.get(name)?.as_str(),
            Self::Form(form) => form.get(name),
        }
    }

    /// The texts of a list.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        match self {
            Self::Json(value) => {
                let items = value.get(name).and_then(Value::as_array).into_iter().flatten();
                items.filter_map(Value::as_str).collect()
            }
            Self::Form(form) => {
                let node = form.root().child(name);
                let items = node.and_then(|node| node.child("member").unwrap_or(node).numbered());
                items.unwrap_or_default().into_iter().filter_map(|item| item.text()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_both_kinds() {
        let json = Fields::of(None, br#"{"cluster":"c","tasks":["a","b"],"count":1}"#);
        let form =
            Form::parse(b"cluster=c&tasks.member.1=a&tasks.member.2=b&ids.1=a&ids.2=b&count=1").unwrap();
        let form = Fields::of(Some(&form), b"");
        for fields in [&json, &form] {
            assert_eq!(fields.text("cluster"), Some("c"));
            assert_eq!(fields.text("absent"), None);
            assert_eq!(fields.list("tasks"), ["a", "b"]);
            assert!(fields.list("cluster").is_empty() && fields.list("absent").is_empty());
        }
        assert_eq!(form.list("ids"), ["a", "b"]);
        assert!(Fields::of(None, b"no JSON").text("cluster").is_none());
    }
}
