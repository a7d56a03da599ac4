//! Examples in the manner of the user guide's, written from memory of the documentation, and properties.

use proptest::prelude::*;

use super::FilterPattern;

fn check(pattern: &str, matching: &[&str], other: &[&str]) {
    let compiled = FilterPattern::parse(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
    for message in matching {
        assert!(compiled.matches(message), "{pattern} should match {message}");
    }
    for message in other {
        assert!(!compiled.matches(message), "{pattern} should not match {message}");
    }
}

fn refuse(pattern: &str, position: usize) {
    let error = FilterPattern::parse(pattern).expect_err(pattern);
    assert_eq!(error.position, position, "{pattern}: {error}");
}

#[test]
fn terms() {
    let events = [
        "[ERROR 400] BAD REQUEST",
        "[ERROR 401] UNAUTHORIZED REQUEST",
        "[ERROR 419] MISSING ARGUMENTS",
        "[ERROR 420] INVALID ARGUMENTS",
    ];
    check("", &events, &[]);
    check("  ", &events, &[]);
    check("\" \"", &["x", ""], &[]);
    check("ERROR", &events, &["error 400", "[WARN] x"]);
    check("ERROR ARGUMENTS", &events[2..], &events[..2]);
    check("\"INTERNAL SERVER ERROR\"", &["[ERROR 500] INTERNAL SERVER ERROR"], &["INTERNAL ERROR SERVER"]);
    check("?ERROR ?ARGUMENTS", &["ERROR x", "ARGUMENTS y"], &["WARN"]);
    check("ERROR -ARGUMENTS", &events[..2], &events[2..]);
    check("ERROR -EXITING -\"BAD REQUEST\"", &["ERROR a"], &["ERROR EXITING", events[0], "a"]);
    check("-DEBUG", &["INFO", ""], &["DEBUG x"]);
    check("?ERROR ?WARN REQUEST", &["INFO REQUEST"], &["ERROR x"]);
    check("?ERROR -b", &["a"], &["ERROR b"]);
    check(r#""a \"b\" \\ c*""#, &[r#"x a "b" \ c* y"#], &[r#"a "b" \ c"#]);
    check("naïve", &["so naïve"], &["naive"]);
    refuse("ERROR:", 5);
    refuse("a & b", 2);
    refuse("a -", 3);
    refuse("?", 1);
    refuse("x \"open", 2);
    refuse(&"a".repeat(1025), 1024);
    check(&"a".repeat(1024), &[], &["a"]);
}

#[test]
fn regular_expressions() {
    check("%AUTHORIZED%", &["401 UNAUTHORIZED REQUEST", "200 AUTHORIZED"], &["403 FORBIDDEN"]);
    check("%^ERROR%", &["ERROR x"], &["an ERROR"]);
    check("%colou?r%", &["color", "colour"], &["colr"]);
    check("%gr[ae]y|black%", &["gray", "grey", "black"], &["groy"]);
    check(r"%10\.10\.0\.1%", &["from 10.10.0.1"], &["from 10a10b0c1"]);
    check(r"%[0-9]{3}\s[A-Z]+$%", &["x 404 NOTFOUND"], &["404 x"]);
    check("%4..% -healthz", &["404"], &["404 healthz", "500"]);
    refuse("%something!%", 10);
    refuse("%(a|b)%", 1);
    refuse("%a b%", 2);
    refuse("%é%", 1);
    refuse("%a", 0);
    refuse("%%", 0);
    refuse("%[a%", 0);
    refuse("%a{1000}{1000}{1000}%", 0);
}

const TRAIL: &str = r#"{"eventType": "UpdateTrail", "sourceIPAddress": "111.111.111.111",
    "arrayKey": ["value", "another value"],
    "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}],
    "SomeObject": null, "cluster.name": "c", "ThisFlag": true, "OtherFlag": false,
    "bandwidth": 75.5, "tiny": 0.001, "errorCode": 400, "code": "404", "matrix": [[1, 2], [3, 4]],
    "user": {"id": 1, "email": "John.Stiles@example.com"}, "users": [{"id": 2, "email": "John.Doe@example.com"}],
    "actions": ["GET", "PUT", "DELETE"], "quoted": "say \"hi\" *now*", "kebab-case_1": "k", "text": "7 dwarfs"}"#;

fn json(condition: &str, expect: bool) {
    let pattern = format!("{{ {condition} }}");
    let (yes, no): (&[&str], &[&str]) = if expect { (&[TRAIL], &[]) } else { (&[], &[TRAIL]) };
    check(&pattern, yes, no);
}

#[test]
fn json_conditions() {
    json(r#"$.eventType = "UpdateTrail""#, true);
    json("$.eventType = UpdateTrail", true);
    json(r#"$.eventType = "updatetrail""#, false);
    json(r#"$.eventType = "Update*""#, true);
    json(r#"$.eventType = "*Trail""#, true);
    json(r#"$.eventType = "U*T*l""#, true);
    json(r#"$.eventType = "Up*""#, true);
    json(r#"$.eventType = "*""#, true);
    json(r#"$.missing = "*""#, false);
    json("$.eventType = %Trail%", true);
    json("$.eventType != %^Trail%", true);
    json("$.sourceIPAddress != 123.123.*", true);
    json("$.sourceIPAddress = 111.111.*", true);
    json("$.sourceIPAddress = *.111", true);
    json(r#"$.arrayKey[0] = "value""#, true);
    json(r#"$.arrayKey[2] = "value""#, false);
    json(r#"$.arrayKey = "value""#, false);
    json(r#"$.arrayKey[*] = "another value""#, true);
    json("$.objectList[1].id = 2", true);
    json("$.objectList[*].id > 1", true);
    json("$.objectList[0].id = 2", false);
    json("$.matrix[1][0] = 3", true);
    json("$.SomeObject IS NULL", true);
    json("$.eventType IS NULL", false);
    json("$.SomeOtherObject IS NULL", false);
    json("$.SomeOtherObject NOT EXISTS", true);
    json("$.SomeObject NOT EXISTS", false);
    json("$.ThisFlag IS TRUE", true);
    json("$.ThisFlag IS FALSE", false);
    json("$.OtherFlag IS FALSE", true);
    json("$.ThisFlag = true", true);
    json("$.['cluster.name'] = \"c\"", true);
    json("$['cluster.name'] = c", true);
    json("$.cluster.name = c", false);
    json("$.kebab-case_1 = k", true);
    json(r#"$.quoted = "say \"hi\" \*now\*""#, true);
    json(r#"$.missing != "x""#, false);
    json("$.SomeObject != 1", false);
}

#[test]
fn json_numbers() {
    json("$.bandwidth > 75", true);
    json("$.bandwidth < 75.5", false);
    json("$.bandwidth <= 75.5", true);
    json("$.bandwidth>=75.5", true);
    json("$.bandwidth = 75.50", true);
    json("$.errorCode = 400", true);
    json("$.errorCode = 4e2", true);
    json("$.errorCode = 4*", true);
    json("$.errorCode = 5*", false);
    json("$.errorCode != 5*", true);
    json("$.errorCode = \"400\"", false);
    json("$.errorCode >= -1", true);
    json("$.tiny = 1e-3", true);
    json("$.tiny < 1.5E-3", true);
    json("$.code = 404", true);
    json("$.code > 403", true);
    json("$.code = \"404\"", true);
    json("$.text > 6", false);
    json("$.text != 7", true);
    json("$.errorCode = %^4%", true);
}

#[test]
fn json_combinations() {
    json(r#"($.user.id = 1) && ($.users[0].email = "John.Doe@example.com")"#, true);
    json(r#"($.user.id = 2 && $.users[0].email = "nonmatch") || $.actions[1] = "PUT""#, true);
    json(r#"$.user.email = "John.Stiles*" || $.matrix[0][1] = nonmatch && $.actions[2] = nonmatch"#, true);
    json(r#"($.user.email = "John.Stiles*" || $.matrix[0][1] = nonmatch) && $.actions[2] = nonmatch"#, false);
    json("$.errorCode=400&&$.tiny<1||$.missing=1", true);
    json("(($.errorCode = 400))", true);
    json("$.a = 1 || ($.errorCode > 300 && ($.missing NOT EXISTS || $.x = 1))", true);
    check("{$.a=1}", &[r#"{"a":1}"#], &["a=1", "", "[1]", r#"{"a":1} trailing"#, "\u{0}"]);
}

#[test]
fn json_errors() {
    refuse("{}", 1);
    refuse("{ a = 1 }", 2);
    refuse("{ $ = 1 }", 3);
    refuse("{ $.a }", 6);
    refuse("{ $.a = }", 8);
    refuse("{ $.a = 1", 9);
    refuse("{ $.a = 1 } x", 12);
    refuse("{ $.a = 1 && }", 13);
    refuse("{ $.a = 1 & $.b = 2 }", 10);
    refuse("{ ($.a = 1 }", 11);
    refuse("{ $.a > \"x\" }", 8);
    refuse("{ $.a > x }", 8);
    refuse("{ $.a[x] = 1 }", 6);
    refuse("{ $.a[1 = 1 }", 7);
    refuse("{ $.a[99999999999999999999] = 1 }", 6);
    refuse("{ $.. = 1 }", 4);
    refuse("{ $.a IS MAYBE }", 9);
    refuse("{ $.a NOT NULL }", 10);
    refuse("{ $.a LIKE 1 }", 6);
    refuse(&format!("{{ {} $.a = 1", "(".repeat(100)), 66);
}

const ACCESS: &str =
    r#"127.0.0.1 Prod frank [10/Oct/2000:13:25:15 -0700] "GET /index.html HTTP/1.0" 404 1534"#;

#[test]
fn delimited_fields() {
    check("[]", &[ACCESS, ""], &[]);
    check("[ip, user, username, timestamp, request, status_code, bytes]", &[ACCESS], &["a b c"]);
    check("[ip, user, username, timestamp, request =*.html*, status_code = 4*, bytes]", &[ACCESS], &[]);
    check("[ip, user, username, timestamp, request, status_code = 5*, bytes]", &[], &[ACCESS]);
    check("[..., request = *.html*, status_code = 4*, bytes]", &[ACCESS], &["404 1"]);
    check("[..., status=4*, bytes>1000]", &[ACCESS, "404 1001"], &["404 1000", "500 2000", "404 x", "404"]);
    check("[ip=%127\\.0\\.0\\.[1-9]%, user, ...]", &[ACCESS, "127.0.0.1 x"], &["10.0.0.1 x", "127.0.0.1"]);
    check("[ip=127.0.*, ..., bytes]", &[ACCESS], &["128.0.0.1 5"]);
    check("[ip, ..., who=frank, ..., bytes]", &[ACCESS, "a frank 1"], &["a bob 1", "frank 1"]);
    check("[..., a=1, b=2, ..., a=3]", &["1 1 2 3", "0 1 2 9 3"], &["1 9 2 3", "1 2", "3"]);
    check("[..., status_code=404 || status_code=410, bytes]", &[ACCESS, "410 1"], &["403 1"]);
    check("[w1=ERROR, w2]", &["ERROR 401 UNAUTHORIZED", "ERROR x"], &["WARN x", "ERROR"]);
    check("[w1!=ERROR&&w1!=WARN, w2]", &["INFO x"], &["ERROR x", "WARN x"]);
    check("[w1=ERROR||w1=%WARN%, w2]", &["ERROR x", "[WARNING] x"], &["INFO x"]);
    check("[w1=\"[odd\"]", &["[odd one"], &["odd"]);
    check("[a=\"GET / x\", b]", &["\"GET / x\" 1", "[GET / x] 1"], &["GET / x"]);
    check("[n = 1e3]", &["1000", "1e3"], &["1001"]);
    check("[n != 5]", &["six", "6"], &["5", "5.0"]);
    check("[...]", &["", "a b"], &[]);
    refuse("[", 1);
    refuse("[a", 2);
    refuse("[a,]", 3);
    refuse("[a b]", 3);
    refuse("[a=1 || b=2]", 8);
    refuse("[a=]", 3);
    refuse("[a<x]", 3);
    refuse("[a] b", 4);
}

#[test]
fn wildcards_and_ellipses_stay_fast() {
    let message = "a ".repeat(100_000);
    let glob = FilterPattern::parse(&format!("[x={}b]", "*a".repeat(300))).unwrap();
    let fields = FilterPattern::parse(&format!("[{} y=b]", "..., x=a, ".repeat(90))).unwrap();
    let quotes = "\" [".repeat(100_000);
    let start = std::time::Instant::now();
    assert!(!glob.matches(&"a".repeat(200_000)));
    assert!(!fields.matches(&message));
    assert!(!fields.matches(&quotes));
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

proptest! {
    #[test]
    fn never_panics(pattern in "\\PC{0,60}", message in "\\PC{0,60}") {
        if let Ok(compiled) = FilterPattern::parse(&pattern) {
            compiled.matches(&message);
        }
    }

    #[test]
    fn near_patterns_never_panic(
        pattern in r#"[\[{] ?(\$?\.?[ab*\[\]0-9.]{0,4} ?(=|!=|>|&&|\|\||IS|,|\.\.\.|%|"|\(|\)) ?){0,8}[\]}]?"#,
        message in r#"[{\[]?("?[ab1é]"?[ :,"\[\]]){0,10}[}\]]?"#,
    ) {
        if let Ok(compiled) = FilterPattern::parse(&pattern) {
            compiled.matches(&message);
        }
    }

    #[test]
    fn a_quoted_phrase_finds_itself(text in "[^\"\\\\]{1,20}", around in "\\PC{0,10}") {
        let compiled = FilterPattern::parse(&format!("\"{text}\"")).unwrap();
        let message = format!("{around}{text}{around}");
        prop_assert!(compiled.matches(&message));
    }
}
