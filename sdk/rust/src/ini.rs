//! The format of `~/.aws/config` and `~/.aws/credentials`, as the AWS SDKs read it.
//!
//! Sections in brackets, `key = value` lines, comments in lines of their own or behind white space, and one level of
//! nesting: a key without a value whose indented lines are `key = value` again. See the AWS SDKs and Tools Reference
//! Guide, "Shared config and credentials files". What cannot be understood is skipped, as other tools share the file.

use std::collections::BTreeMap;

/// A parsed file: sections by their whole name, such as `profile dev`, `default` or `services local`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ini {
    sections: BTreeMap<String, Section>,
}

/// The properties of a section; those of a nested one are under `outer.inner`. Keys are in lower case.
pub(crate) type Section = BTreeMap<String, String>;

impl Ini {
    pub(crate) fn parse(text: &str) -> Self {
        let mut ini = Self::default();
        let mut section: Option<&mut Section> = None;
        let mut outer: Option<String> = None;
        for line in text.lines() {
            let is_indented = line.starts_with([' ', '\t']);
            let line = without_comment(line);
            if line.is_empty() {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[').filter(|_| !is_indented) {
                let name = rest.split_once(']').map(|(name, _)| section_name(name));
                section = name.map(|name| ini.sections.entry(name).or_default());
                outer = None;
                continue;
            }
            let (Some(properties), Some((key, value))) = (section.as_deref_mut(), line.split_once('='))
            else {
                continue;
            };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_owned());
            match (&outer, is_indented) {
                (Some(outer), true) => {
                    properties.insert(format!("{outer}.{key}"), value);
                }
                _ => {
                    outer = value.is_empty().then(|| key.clone());
                    properties.insert(key, value);
                }
            }
        }
        ini
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    /// The section of a profile in a config file: `[default]`, else `[profile NAME]`.
    pub(crate) fn config_profile(&self, name: &str) -> Option<&Section> {
        let prefixed = self.section(&format!("profile {name}"));
        // `[profile default]` wins over `[default]`, in all AWS SDKs.
        if name == "default" { prefixed.or_else(|| self.section(name)) } else { prefixed }
    }
}

/// The line without white space around it, and without a comment.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return "";
    }
    let comment = [" #", " ;", "\t#", "\t;"].iter().filter_map(|start| line.find(start)).min();
    comment.map_or(line, |at| line[..at].trim_end())
}

/// `profile "my name"` and `profile   my name` are the same section.
fn section_name(text: &str) -> String {
    match text.trim().split_once([' ', '\t']) {
        Some((kind, name)) => format!("{kind} {}", name.trim().trim_matches(['"', '\''])),
        None => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# a comment
stray = before any section
[default]
region = eu-west-1 ; where we are
Output=json
[profile  \"dev\"]
region=us-east-1
s3 =
  max_concurrent_requests = 20
  endpoint_url = http://s3
endpoint_url = http://127.0.0.1:1/#frag
[services local]
ecs =
\tendpoint_url = http://ecs#not-a-comment
logs =
\tendpoint_url = http://logs
[broken
region = nowhere
[profile dev]
region = us-east-2
";

    fn check(section: &str, key: &str, expect: Option<&str>) {
        let ini = Ini::parse(FILE);
        let found = ini.section(section).and_then(|section| section.get(key)).map(String::as_str);
        assert_eq!(found, expect, "[{section}] {key}");
    }

    #[test]
    fn reads_what_aws_tools_write() {
        check("default", "region", Some("eu-west-1"));
        check("default", "output", Some("json"));
        check("default", "stray", None);
        check("profile dev", "region", Some("us-east-2"));
        check("profile dev", "s3.endpoint_url", Some("http://s3"));
        check("profile dev", "endpoint_url", Some("http://127.0.0.1:1/#frag"));
        check("services local", "ecs.endpoint_url", Some("http://ecs#not-a-comment"));
        check("services local", "logs.endpoint_url", Some("http://logs"));
        check("broken", "region", None);
    }

    #[test]
    fn a_broken_header_does_not_leak_into_the_section_before() {
        check("services local", "region", None);
    }

    #[test]
    fn profiles_have_a_prefix_except_the_default_one() {
        let ini = Ini::parse("[default]\na=1\n[dev]\na=2\n[profile prod]\na=3\n");
        let read = |name| ini.config_profile(name).map(|section| section["a"].as_str());
        assert_eq!((read("default"), read("dev"), read("prod")), (Some("1"), None, Some("3")));
        let both = Ini::parse("[default]\na=1\n[profile default]\na=4\n");
        assert_eq!(both.config_profile("default").map(|section| section["a"].as_str()), Some("4"));
    }
}
