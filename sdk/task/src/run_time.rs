//! What the code that `#[task]` generates calls. Not for direct use.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The program of a function with an input that cannot fail.
pub fn run<T: DeserializeOwned, U: Serialize>(task: impl FnOnce(T) -> U) -> ExitCode {
    try_run(|input| Ok::<U, Infallible>(task(input)))
}

/// The program of a function with an input that can fail.
pub fn try_run<T, U, E>(task: impl FnOnce(T) -> Result<U, E>) -> ExitCode
where
    T: DeserializeOwned,
    U: Serialize,
    E: Into<Error>,
{
    finish(|| task(read_input(io::stdin().lock())?).map_err(Into::into))
}

/// The program of a function without input that cannot fail.
pub fn run_without_input<U: Serialize>(task: impl FnOnce() -> U) -> ExitCode {
    try_run_without_input(|| Ok::<U, Infallible>(task()))
}

/// The program of a function without input that can fail.
pub fn try_run_without_input<U: Serialize, E: Into<Error>>(task: impl FnOnce() -> Result<U, E>) -> ExitCode {
    finish(|| task().map_err(Into::into))
}

/// The handler of a function with an input that cannot fail.
pub fn handle<T: DeserializeOwned, U: Serialize>(
    task: impl FnOnce(T) -> U,
    input: Vec<u8>,
) -> Result<Vec<u8>, Error> {
    try_handle(|input| Ok::<U, Infallible>(task(input)), input)
}

/// The handler of a function with an input that can fail.
pub fn try_handle<T, U, E>(task: impl FnOnce(T) -> Result<U, E>, input: Vec<u8>) -> Result<Vec<u8>, Error>
where
    T: DeserializeOwned,
    U: Serialize,
    E: Into<Error>,
{
    to_line(task(read_input(&input[..])?).map_err(Into::into)?)
}

/// The handler of a function without input that cannot fail.
pub fn handle_without_input<U: Serialize>(
    task: impl FnOnce() -> U,
    input: Vec<u8>,
) -> Result<Vec<u8>, Error> {
    try_handle_without_input(|| Ok::<U, Infallible>(task()), input)
}

/// The handler of a function without input that can fail.
pub fn try_handle_without_input<U: Serialize, E: Into<Error>>(
    task: impl FnOnce() -> Result<U, E>,
    _input: Vec<u8>,
) -> Result<Vec<u8>, Error> {
    to_line(task().map_err(Into::into)?)
}

/// What the program would write.
fn to_line(value: impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = Vec::new();
    write_line(&mut line, &value).map_err(|error| Error::new(format_args!("write the output: {error}")))?;
    Ok(line)
}

fn finish<U: Serialize>(task: impl FnOnce() -> Result<U, Error>) -> ExitCode {
    ExitCode::from(report(task(), io::stdout().lock(), io::stderr().lock()))
}

/// The whole input as one JSON value.
fn read_input<T: DeserializeOwned>(mut input: impl Read) -> Result<T, Error> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| Error::new(format_args!("read the input: {error}")))?;
    let json = if bytes.trim_ascii().is_empty() { b"null" } else { &bytes[..] };
    serde_json::from_slice(json)
        .map_err(|error| Error::new(format_args!("read the input: {error}")).code("InvalidInput"))
}

/// Writes what came out and returns the exit code.
fn report<U: Serialize>(result: Result<U, Error>, output: impl Write, errors: impl Write) -> u8 {
    let written = result.and_then(|value| {
        write_line(output, &value).map_err(|error| Error::new(format_args!("write the output: {error}")))
    });
    match written {
        Ok(()) => 0,
        Err(error) => {
            // When standard error is closed too, the exit code has to say it alone.
            let _ = write_line(errors, &Failure { error });
            1
        }
    }
}

#[derive(Serialize)]
struct Failure {
    error: Error,
}

/// Serialises first, so that a value that cannot be written leaves no half a line.
fn write_line(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Runs a task that doubles a number, refuses 13 and calls nothing 0.
    fn check(input: &str, code: u8, output: &str, errors: &str) {
        let double = |number: Option<u32>| match number {
            Some(13) => Err(Error::new("unlucky").code("Thirteen")),
            Some(14) => Err("only words".into()),
            other => Ok(other.unwrap_or(0) * 2),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let found = report(read_input(input.as_bytes()).and_then(double), &mut out, &mut err);
        let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
        assert_eq!((found, out.as_str(), err.as_str()), (code, output, errors), "{input:?}");
    }

    #[test]
    fn input_output_and_errors() {
        check("21", 0, "42\n", "");
        check(" 21\n", 0, "42\n", "");
        check("", 0, "0\n", "");
        check(" \n", 0, "0\n", "");
        check("null", 0, "0\n", "");
        check("13", 1, "", "{\"error\":{\"message\":\"unlucky\",\"code\":\"Thirteen\"}}\n");
        check("14", 1, "", "{\"error\":{\"message\":\"only words\"}}\n");
        let invalid = |why: &str| {
            format!("{{\"error\":{{\"message\":\"read the input: {why}\",\"code\":\"InvalidInput\"}}}}\n")
        };
        check("-1", 1, "", &invalid("invalid value: integer `-1`, expected u32 at line 1 column 2"));
        check("1 2", 1, "", &invalid("trailing characters at line 1 column 3"));
        check("[1", 1, "", &invalid("invalid type: sequence, expected u32 at line 1 column 0"));
    }

    #[test]
    fn output_that_cannot_be_written() {
        // JSON has no keys that are arrays.
        let value = HashMap::from([(vec![1], 2)]);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(report(Ok(value), &mut out, &mut err), 1);
        assert_eq!(out, b"");
        assert_eq!(err, b"{\"error\":{\"message\":\"write the output: key must be a string\"}}\n");
    }

    #[test]
    fn handlers_say_what_programs_write() {
        let double = |number: u32| match number {
            13 => Err(Error::new("unlucky").code("Thirteen").retryable()),
            other => Ok(other * 2),
        };
        assert_eq!(try_handle(double, b" 21\n".to_vec()), Ok(b"42\n".to_vec()));
        assert_eq!(try_handle(double, b"13".to_vec()), double(13).map(|_| Vec::new()));
        assert_eq!(handle(|n: Option<u32>| n, Vec::new()), Ok(b"null\n".to_vec()));
        assert_eq!(handle_without_input(|| "hi", b"ignored".to_vec()), Ok(b"\"hi\"\n".to_vec()));
        let error = handle(|n: u32| n, b"x".to_vec()).unwrap_err();
        assert!(format!("{error:?}").contains("InvalidInput"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(report(double(13), &mut out, &mut err), 1);
        assert_eq!(
            String::from_utf8(err).unwrap(),
            "{\"error\":{\"message\":\"unlucky\",\"code\":\"Thirteen\",\"retryable\":true}}\n"
        );
    }

    #[test]
    fn every_displayed_error_becomes_an_error() {
        fn fails() -> Result<u32, Error> {
            Ok("x".parse::<u32>()?)
        }
        assert_eq!(fails(), Err(Error::new("invalid digit found in string")));
    }
}
