//! The examples of every language do what their first comment says.

use std::time::Duration;

use anyhow::Result;
use neargate_tests::cli::Cli;
use neargate_tests::fixtures::{example, language_example};
use neargate_tests::process;

use crate::suite::{Case, Needs};
use crate::text;

pub(crate) const CASES: &[Case] =
    &[("languages/programs", Needs::Wasm, programs), ("languages/rust_task", Needs::Wasm, rust_task)];

/// A Python interpreter is 18 MB of code, which is compiled at its first start, here on a busy machine.
const FIRST_START_LIMIT: Duration = Duration::from_secs(300);

/// Programs of five languages, which take arguments beyond ASCII and print them.
fn programs() -> Result<()> {
    let cli = Cli::new()?;
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

fn rust_task() -> Result<()> {
    let cli = Cli::new()?;
    let image = text(&example("greet-task")?);
    let finished = cli.run_with(&["--quiet", &image], br#"{"name": "Ada", "times": 2}"#)?;
    assert_eq!(finished.text(), "{\"greeting\":\"hello, Ada! hello, Ada!\"}\n", "{}", finished.stderr);
    assert_eq!(finished.code, 0);
    let finished = cli.run_with(&["--quiet", &image], br#"{"name": ""}"#)?;
    let expect = "{\"error\":{\"message\":\"nobody to greet\",\"code\":\"NoName\"}}\n";
    assert_eq!((finished.text().as_str(), finished.stderr.as_str()), ("", expect));
    assert_eq!(finished.code, 1);
    Ok(())
}
