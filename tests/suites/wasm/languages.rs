//! The examples of every language do what their first comment says.

use anyhow::Result;
use neargate_tests::cli::Cli;
use neargate_tests::fixtures::{example, language_example};
use neargate_tests::process;

use crate::suite::{Case, Needs};
use crate::{FIRST_START_LIMIT, text};

pub(crate) const CASES: &[Case] = &[
    ("languages/programs", Needs::Wasm, programs),
    ("languages/rust_task", Needs::Wasm, rust_task),
    ("languages/typed_functions", Needs::Wasm, typed_functions),
];

/// Programs of five languages, which take arguments beyond ASCII and print them.
fn programs() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let images = [
        example("hello")?,
        language_example("assemblyscript/hello")?,
        language_example("c/hello")?,
        language_example("javascript/hello")?,
        language_example("python/hello")?,
    ];
    for image in images {
        let mut command = cli.run_command(&["--quiet", &text(&image), "--", "Ada", "Grace 漢字"]);
        let finished = process::run(&mut command, b"", FIRST_START_LIMIT)?;
        let seen = (finished.text(), finished.stderr.as_str(), finished.code);
        assert_eq!(seen, ("hello, Ada Grace 漢字\n".to_owned(), "", 0), "{}", image.display());
    }
    Ok(())
}

/// A task of the SDK is a program, and `neargate:task/handler` to who asks for that: both do the same.
fn rust_task() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let image = text(&example("greet-task")?);
    for form in [&["--quiet"][..], &["--quiet", "--invoke", "handle"]] {
        let call = |input: &[u8]| cli.run_with(&[form, &[image.as_str()]].concat(), input);
        let finished = call(br#"{"name": "Ada", "times": 2}"#)?;
        let expect = "{\"greeting\":\"hello, Ada! hello, Ada!\"}\n";
        assert_eq!((finished.text().as_str(), finished.code), (expect, 0), "{form:?}: {}", finished.stderr);
        let finished = call(br#"{"name": ""}"#)?;
        let expect = "{\"error\":{\"message\":\"nobody to greet\",\"code\":\"NoName\"}}\n";
        let seen = (finished.text(), finished.stderr, finished.code);
        assert_eq!(seen, (String::new(), expect.to_owned(), 1), "{form:?}");
    }
    Ok(())
}

/// The same typed function in three languages: the same answers and the same errors.
fn typed_functions() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in [example("greet")?, language_example("javascript/greet")?, language_example("python/greet")?]
    {
        let image = text(&image);
        let call = |arguments: &[&str]| {
            let all = [&["--quiet", "--invoke", "greet", &image, "--"], arguments].concat();
            process::run(&mut cli.run_command(&all), b"", FIRST_START_LIMIT)
        };
        let finished = call(&["\"Ada\"", "2"])?;
        assert_eq!(finished.text(), "[\"hello, Ada!\",\"hello, Ada!\"]\n", "{image}: {}", finished.stderr);
        assert_eq!(finished.code, 0);
        let finished = call(&["\"Ada\"", "0"])?;
        assert_eq!((finished.text().as_str(), finished.code), ("[]\n", 0), "{image}: {}", finished.stderr);
        let finished = call(&["\"\"", "2"])?;
        assert_eq!(finished.stderr, "\"nobody to greet\"\n", "{image}: {}", finished.text());
        assert_eq!(finished.code, 1, "{image}");
        let wrong: [(&[&str], &str); 3] =
            [(&["\"Ada\"", "-1"], "u32"), (&["7", "1"], "string"), (&["\"Ada\""], "2 argument")];
        for (arguments, says) in wrong {
            let finished = call(arguments)?;
            assert_eq!((finished.text().as_str(), finished.code), ("", 2), "{image} {arguments:?}");
            assert!(finished.stderr.contains(says), "{says:?} is not in {:?}", finished.stderr);
        }
        // What is no JSON is seen before anything is started.
        let finished = call(&["Ada", "1"])?;
        assert_eq!((finished.text().as_str(), finished.code), ("", 125), "{image}");
        assert!(finished.stderr.contains("not JSON"), "{:?}", finished.stderr);
        let finished = cli.run(&["--invoke", "no-such-function", &image])?;
        assert_ne!(finished.code, 0);
        assert!(finished.stderr.contains("no-such-function"), "{:?}", finished.stderr);
    }
    Ok(())
}
