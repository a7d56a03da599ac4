//! Ids, which may be given as ARNs.

use neargate_model::{Arn, Scope};

/// The id that a text is or ends in; an ARN of another account or region is as it stands, so that nothing has it.
fn id(scope: &Scope, kind: &str, text: &str) -> String {
    let own = Arn::parse(text).ok().filter(|arn| arn.service == "servicediscovery" && arn.scope == *scope);
    let id = own.as_ref().and_then(|arn| arn.resource.strip_prefix(kind)?.strip_prefix('/'));
    id.unwrap_or(text).to_owned()
}

pub(crate) fn namespace(scope: &Scope, text: &str) -> String {
    id(scope, "namespace", text)
}

pub(crate) fn registry(scope: &Scope, text: &str) -> String {
    id(scope, "service", text)
}

/// The ARN of a namespace (`namespace`) or a service (`service`).
pub(crate) fn arn(scope: &Scope, kind: &str, id: &str) -> String {
    let resource = format!("{kind}/{id}");
    Arn { service: "servicediscovery".to_owned(), scope: scope.clone(), resource }.to_string()
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::scope;

    use super::*;

    #[test]
    fn ids_are_read_out_of_arns() {
        let arn = arn(&scope(), "namespace", "ns-1");
        assert_eq!(namespace(&scope(), &arn), "ns-1");
        assert_eq!(namespace(&scope(), "ns-1"), "ns-1");
        assert_eq!(registry(&scope(), &arn), arn, "of another kind");
        let other = arn.replace("us-east-1", "eu-west-1");
        assert_eq!(namespace(&scope(), &other), other, "of another region");
    }
}
