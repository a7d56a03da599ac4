//! EC2's dialect of AWS Query (the Smithy specification `ec2-query-protocol`).
//!
//! | | AWS Query | EC2 |
//! |---|---|---|
//! | a name in a form | as in the model | with a capital |
//! | a list in a form | `Names.member.1` | `Name.1` |
//! | an output | in an element of its own | in the document's element |
//! | an error | in `ErrorResponse` | in a list of errors |
//! | an unknown parameter | ignored | refused |

use crate::error::ErrorReply;
use crate::query::Form;
use crate::shape::{DecodeError, PLAIN, Shape};
use crate::source::Source;
use crate::violation::{Constraint, Violation, Violations};
use crate::xml::XmlWriter;

/// A member's name as it is in a form: with a capital.
///
/// The protocol also knows names that differ altogether (`queryName`); no shape that is generated has one, which the
/// generator checks.
pub(crate) fn parameter(name: &str) -> String {
    let mut characters = name.chars();
    match characters.next() {
        Some(first) => first.to_ascii_uppercase().to_string() + characters.as_str(),
        None => String::new(),
    }
}

/// Whether a parameter belongs to the protocol or the signature in the query, and not to an operation.
pub(crate) fn is_protocols(name: &str) -> bool {
    matches!(name, "Action" | "Version") || name.to_ascii_lowercase().starts_with("x-amz-")
}

/// Reads a value; absent required members and unknown ones are noted in the violations.
pub fn decode<T: Shape>(form: &Form) -> Result<(T, Violations), DecodeError> {
    let mut violations = Violations::default();
    let value = T::decode(Source::Ec2(form.root()), &PLAIN, &mut violations)?;
    Ok((value, violations))
}

/// The response of an operation; `output` is `None` for an operation without output, which EC2 answers with `true`.
pub fn encode<T: Shape>(
    operation: &str,
    namespace: Option<&str>,
    output: Option<&T>,
    request_id: &str,
) -> Vec<u8> {
    let mut xml = XmlWriter::default();
    let response = format!("{operation}Response");
    xml.open_root(&response, namespace);
    match output {
        Some(output) => xml.members(output),
        None => xml.leaf("return", "true"),
    }
    xml.leaf("requestId", request_id);
    xml.close(&response);
    xml.into_bytes()
}

/// The body of an error.
pub fn encode_error(reply: &ErrorReply, request_id: &str) -> Vec<u8> {
    let mut xml = XmlWriter::default();
    xml.open("Response");
    xml.open("Errors");
    xml.open("Error");
    xml.leaf("Code", reply.query_code.unwrap_or(reply.code));
    if !reply.message.is_empty() {
        xml.leaf("Message", &reply.message);
    }
    for (name, value) in &reply.members {
        xml.json(name, value);
    }
    xml.close("Error");
    xml.close("Errors");
    xml.leaf("RequestID", request_id);
    xml.close("Response");
    xml.into_bytes()
}

/// The answer to a parameter of another type than the model's.
pub(crate) fn type_reply(error: &DecodeError) -> ErrorReply {
    let DecodeError { path, expected, found } = error;
    let message = format!("Invalid value for {}: expected {expected}, found {found}", written(path));
    ErrorReply::sender(400, "InvalidParameterValue", message)
}

/// The answer to an input that breaks its model. EC2 names one parameter, and tells the kinds apart by their codes.
pub(crate) fn constraint_reply(violations: &Violations) -> ErrorReply {
    let of = |wanted: Constraint| violations.as_slice().iter().find(move |one| one.constraint == wanted);
    if let Some(unknown) = of(Constraint::Unknown) {
        // The last name is the client's own, and shown as it was sent.
        let name = match unknown.path.rsplit_once('.') {
            Some((within, name)) => format!("{}.{name}", written(within)),
            None => unknown.path.clone(),
        };
        let message = format!(
            "The parameter {name} is not recognized: the operation does not have it, or Neargate does not support it"
        );
        return ErrorReply::sender(400, "UnknownParameter", message);
    }
    if let Some(missing) = of(Constraint::Required) {
        let message = format!("The request must contain the parameter {}", written(&missing.path));
        return ErrorReply::sender(400, "MissingParameter", message);
    }
    let message = match violations.as_slice().first() {
        Some(Violation { path, value, constraint }) => {
            let value = value.as_ref().map(|value| format!("Value ({value})")).unwrap_or("Value".to_owned());
            format!("{value} for parameter {} is invalid. {constraint}", written(path))
        }
        None => violations.to_string(),
    };
    ErrorReply::sender(400, "InvalidParameterValue", message)
}

/// A path of a violation as a client writes it: `filter[0].name` is `Filter.1.Name`.
fn written(path: &str) -> String {
    let segment = |segment: &str| {
        let (name, indices) = segment.split_once('[').unwrap_or((segment, ""));
        let index =
            |index: &str| index.parse::<usize>().map_or(index.to_owned(), |index| (index + 1).to_string());
        let indices = indices.split(['[', ']']).filter(|index| !index.is_empty()).map(index);
        std::iter::once(parameter(name)).chain(indices).collect::<Vec<_>>().join(".")
    };
    path.split('.').map(segment).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Traits;

    #[derive(Debug, Default, PartialEq)]
    struct Filter {
        name: Option<String>,
        values: Option<Vec<String>>,
    }
    crate::structure!(Filter { name: optional("Name", &PLAIN), values: optional("Value", &ITEMS) });

    #[derive(Debug, Default, PartialEq)]
    struct Input {
        id: String,
        limit: Option<i32>,
        filters: Option<Vec<Filter>>,
    }
    static ITEMS: Traits = Traits { item_name: "item", ..Traits::new() };
    static LIMIT: Traits = Traits { min: Some(5), ..Traits::new() };
    crate::structure!(Input {
        id: required("groupId", &PLAIN),
        limit: optional("maxResults", &LIMIT),
        filters: optional("filterSet", &ITEMS),
    });

    fn read(form: &str) -> Result<Input, ErrorReply> {
        let form = Form::parse(form.as_bytes()).unwrap();
        let (input, mut violations) = decode::<Input>(&form).map_err(|error| type_reply(&error))?;
        input.validate(&mut violations);
        if violations.is_empty() { Ok(input) } else { Err(constraint_reply(&violations)) }
    }

    #[test]
    fn names_have_capitals_and_lists_are_flat() {
        let input = read(
            "Action=X&Version=1&X-Amz-Date=z&GroupId=g&FilterSet.1.Name=n&FilterSet.1.Value.1=a&FilterSet.1.Value.2=b",
        );
        let filter = Filter { name: Some("n".into()), values: Some(vec!["a".into(), "b".into()]) };
        assert_eq!(input, Ok(Input { id: "g".into(), limit: None, filters: Some(vec![filter]) }));
    }

    #[test]
    fn refusals_name_the_parameter_as_it_is_sent() {
        let check = |form: &str, code: &str, part: &str| {
            let reply = read(form).unwrap_err();
            assert_eq!(reply.code, code, "{form}");
            assert!(reply.message.contains(part), "{form}: {}", reply.message);
        };
        check("", "MissingParameter", "The request must contain the parameter GroupId");
        check("groupId=g", "UnknownParameter", "The parameter groupId ");
        check("GroupId=g&FilterSet.1.Name=n&FilterSet.1.Nam=n", "UnknownParameter", "FilterSet.1.Nam ");
        check(
            "GroupId=g&MaxResults=4",
            "InvalidParameterValue",
            "Value (4) for parameter MaxResults is invalid.",
        );
        check(
            "GroupId=g&MaxResults=x",
            "InvalidParameterValue",
            "Invalid value for MaxResults: expected a 32-bit",
        );
        check("GroupId=g&FilterSet.member.1=x", "InvalidParameterValue", "FilterSet: expected a list");
    }

    #[test]
    fn an_operation_without_output_answers_true() {
        let body = encode::<String>("DeleteVpc", Some("http://x/"), None, "id");
        let expected = "<DeleteVpcResponse xmlns=\"http://x/\"><return>true</return><requestId>id</requestId></DeleteVpcResponse>";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }
}
