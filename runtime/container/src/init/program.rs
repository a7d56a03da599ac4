//! The program that a container runs, laid out for `execve(2)` before the clone.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::sys;

/// Where programs are looked for when the environment has no PATH; Docker's default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments, environment and the files to try, with the pointer arrays that the kernel wants.
pub(crate) struct Program {
    name: String,
    candidates: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// What the pointers point to. Never changed after they were taken.
    _texts: Vec<CString>,
}

impl fmt::Debug for Program {
    /// Shows the name only: arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({:?})", self.name)
    }
}

impl Program {
    /// Lays out a program. Of several values for a name, the last wins.
    pub(crate) fn new(argv: &[String], env: &[(String, String)]) -> Result<Self, Failure> {
        let invalid =
            |what: &str, why: &str| Failure::Unsupported { what: what.to_owned(), why: why.to_owned() };
        let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
            return Err(invalid("an empty command", "name a program to run"));
        };
        let text = |bytes: Vec<u8>, what: &str| {
            CString::new(bytes).map_err(|_| invalid(what, "it contains a NUL character"))
        };
        let mut texts = Vec::with_capacity(argv.len() + env.len());
        for argument in argv {
            texts.push(text(argument.clone().into_bytes(), "an argument")?);
        }
        for (key, value) in last_wins(env) {
            if key.is_empty() || key.contains('=') {
                return Err(invalid(
                    &format!("environment variable {key:?}"),
                    "its name is empty or contains '='",
                ));
            }
            texts.push(text(format!("{key}={value}").into_bytes(), "an environment variable")?);
        }
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (arguments, variables) = texts.split_at(argv.len());
        let candidates = candidates(name, env).into_iter().map(|path| text(path.into_bytes(), "the program"));
        Ok(Self {
            name: name.clone(),
            candidates: candidates.collect::<Result<_, _>>()?,
            argv: pointers(arguments),
            env: pointers(variables),
            _texts: texts,
        })
    }

    /// Becomes the program; returns why it could not. Tries PATH like `execvp(3)`.
    pub(super) fn execute(&self) -> Failure {
        let mut refused = None;
        for candidate in &self.candidates {
            let error = sys::execve(candidate, &self.argv, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if !exists(candidate) => {}
                Some(libc::ENOENT) => refused = Some("its interpreter does not exist in the image"),
                Some(libc::EACCES) if is_dir(candidate) => refused = Some("it is a directory"),
                Some(libc::EACCES) => refused = refused.or(Some("permission denied")),
                Some(libc::ENOEXEC) => return self.refuse("it is not a program for this machine"),
                Some(libc::E2BIG) => return self.refuse("arguments and environment are too long"),
                _ => return self.refuse(&error.to_string()),
            }
        }
        match refused {
            Some(why) => self.refuse(why),
            None => Failure::NotFound { program: self.name.clone() },
        }
    }

    fn refuse(&self, why: &str) -> Failure {
        Failure::NotExecutable { program: self.name.clone(), why: why.to_owned() }
    }
}

fn exists(path: &CStr) -> bool {
    let found = rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty());
    !matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
}

fn is_dir(path: &CStr) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Variables in order of their first appearance, each with its last value.
fn last_wins(env: &[(String, String)]) -> Vec<(&str, &str)> {
    let mut index = HashMap::with_capacity(env.len());
    let mut out: Vec<(&str, &str)> = Vec::with_capacity(env.len());
    for (key, value) in env {
        match index.get(key.as_str()) {
            Some(&at) => {
                let pair: &mut (&str, &str) = &mut out[at];
                pair.1 = value;
            }
            None => {
                index.insert(key.as_str(), out.len());
                out.push((key, value));
            }
        }
    }
    out
}

/// The files to try for a program. Empty and relative elements of PATH are left out: they would make it
/// depend on the working directory.
fn candidates(name: &str, env: &[(String, String)]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| format!("{dir}/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
        env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn check_path(name: &str, env: &[(&str, &str)], expect: &[&str]) {
        assert_eq!(candidates(name, &pairs(env)), expect, "{name} with {env:?}");
    }

    #[test]
    fn path_is_searched_for_bare_names_only() {
        check_path("sh", &[("PATH", "/bin:/x")], &["/bin/sh", "/x/sh"]);
        check_path("sh", &[("PATH", "/a"), ("PATH", "/b")], &["/b/sh"]);
        check_path("sh", &[("PATH", ":.:rel:/b:")], &["/b/sh"]);
        check_path("/bin/sh", &[("PATH", "/x")], &["/bin/sh"]);
        check_path("./sh", &[], &["./sh"]);
        assert_eq!(candidates("sh", &[]).len(), 6);
    }

    #[test]
    fn later_names_win() {
        let env = pairs(&[("A", "1"), ("B", "2"), ("A", "3")]);
        assert_eq!(last_wins(&env), [("A", "3"), ("B", "2")]);
    }

    #[test]
    fn what_execve_cannot_take_is_refused() {
        let check = |argv: &[&str], env: &[(&str, &str)], ok: bool| {
            let argv: Vec<String> = argv.iter().map(|&a| a.to_owned()).collect();
            assert_eq!(Program::new(&argv, &pairs(env)).is_ok(), ok, "{argv:?} {env:?}");
        };
        check(&["sh", ""], &[("A", "")], true);
        check(&[], &[], false);
        check(&[""], &[], false);
        check(&["a\0b"], &[], false);
        check(&["a"], &[("A=B", "")], false);
        check(&["a"], &[("", "x")], false);
        check(&["a"], &[("A", "x\0y")], false);
    }
}
