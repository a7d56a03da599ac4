//! Turns the names and texts of models into Rust's.

/// `clusterName` to `cluster_name`; keywords become raw identifiers.
pub(crate) fn field(name: &str) -> String {
    let name = snake(name);
    match name.as_str() {
        "as" | "async" | "await" | "box" | "break" | "const" | "continue" | "dyn" | "else" | "enum"
        | "extern" | "false" | "fn" | "for" | "gen" | "if" | "impl" | "in" | "let" | "loop" | "match"
        | "mod" | "move" | "mut" | "pub" | "ref" | "return" | "static" | "struct" | "trait" | "true"
        | "type" | "unsafe" | "use" | "virtual" | "where" | "while" | "yield" => format!("r#{name}"),
        _ => name,
    }
}

/// `RunTask` to `run_task`; runs of capitals are one word, except that the last starts the next word.
pub(crate) fn snake(name: &str) -> String {
    let name = name.replace("ARNs", "Arns").replace("IPv", "Ipv");
    let characters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, character) in characters.iter().enumerate() {
        let after_lower = index > 0 && !characters[index - 1].is_uppercase();
        let before_lower = characters.get(index + 1).is_some_and(|next| next.is_lowercase());
        if character.is_uppercase() && index > 0 && (after_lower || before_lower) && !snake.ends_with('_') {
            snake.push('_');
        }
        match character {
            character if character.is_alphanumeric() => snake.extend(character.to_lowercase()),
            _ => snake.push('_'),
        }
    }
    snake
}

/// `taskDefinition` to `TASK_DEFINITION`.
pub(crate) fn screaming(name: &str) -> String {
    snake(name).to_uppercase()
}

/// A shape's name as a type: as in the model, but with a capital.
pub(crate) fn type_name(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// Variants for the values of an enum, all different.
pub(crate) fn variants(values: &[String]) -> Vec<String> {
    let mut variants: Vec<String> = Vec::new();
    for value in values {
        let mut variant = variant(value);
        while variants.contains(&variant) || variant == "Unlisted" || variant == "Self" {
            variant.push('_');
        }
        variants.push(variant);
    }
    variants
}

/// `SCREAMING_CASE`, `kebab-case` and `camelCase` to `PascalCase`.
fn variant(value: &str) -> String {
    let word = |word: &str| match word.chars().any(char::is_lowercase) {
        true => type_name(word),
        false => type_name(&word.to_lowercase()),
    };
    let pascal: String =
        value.split(|character: char| !character.is_ascii_alphanumeric()).map(word).collect();
    match pascal.chars().next() {
        None => "Empty".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("V{pascal}"),
        Some(_) => pascal,
    }
}

/// The first sentence of a model's documentation as a doc comment; empty when there is none.
pub(crate) fn doc(html: &str, indent: &str) -> String {
    let text = first_sentence(&plain(html));
    match text.is_empty() {
        true => String::new(),
        false => format!("{indent}/// {text}\n"),
    }
}

fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for character in html.chars() {
        match character {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            _ if in_tag => {}
            other => text.push(other),
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    [" .", " ,", " ;", " :", " )"]
        .iter()
        .fold(text, |text, mark| text.replace(mark, &mark[1..]))
        .replace("( ", "(")
}

fn first_sentence(text: &str) -> String {
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    let mut sentence = String::new();
    for character in text[..end].chars() {
        if matches!(character, '[' | ']' | '<' | '>' | '*' | '_' | '`' | '\\') {
            sentence.push('\\');
        }
        sentence.push(character);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_rusts() {
        let check = |name: &str, expected: &str| assert_eq!(field(name), expected);
        check("clusterName", "cluster_name");
        check("enableECSManagedTags", "enable_ecs_managed_tags");
        check("taskDefinitionArn", "task_definition_arn");
        check("privateIPv4Address", "private_ipv4_address");
        check("type", "r#type");
        check("fSxWindowsFileServer", "f_sx_windows_file_server");
        check("SSEKMSKeyId", "ssekms_key_id");
    }

    #[test]
    fn values_become_variants() {
        let check = |values: &[&str], expected: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            assert_eq!(variants(&values), expected);
        };
        check(&["EC2", "MANAGED_INSTANCES"], &["Ec2", "ManagedInstances"]);
        check(&["json-file", "awslogs"], &["JsonFile", "Awslogs"]);
        check(&["EssentialContainerExited", "X86_64"], &["EssentialContainerExited", "X8664"]);
        check(&["0", "", "a", "A"], &["V0", "Empty", "A", "A_"]);
    }

    #[test]
    fn documentation_is_cut_to_a_plain_sentence() {
        let html = "<p>The <code>name</code> of a [thing]. More.</p>";
        assert_eq!(doc(html, ""), "/// The name of a \\[thing\\].\n");
        assert_eq!(doc("<p></p>", ""), "");
    }
}
