//! `wasi:filesystem`: each operation once, and single attempts of what may be refused.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::time::{Duration, UNIX_EPOCH};

/// Prints the name of a step and its result or error.
fn step<T: Display>(name: &str, result: io::Result<T>) {
    match result {
        Ok(value) => println!("{name}: {value}"),
        Err(error) => println!("{name}: {error}"),
    }
}

fn done(result: io::Result<()>) -> io::Result<&'static str> {
    result.map(|()| "done")
}

/// Works in an empty directory and leaves in it what the test then looks at.
pub(crate) fn tour(directory: &str) {
    std::env::set_current_dir("/").ok();
    let at = |name: &str| format!("{directory}/{name}");
    content(&at("a"));
    names(&at);
    directories(&at);
    links(&at);
}

fn content(file: &str) {
    step("create", done(fs::write(file, "hello, file")));
    step("create new", File::create_new(file).map(|_| "done"));
    step("read", fs::read_to_string(file));
    step("overwrite in the middle", done(overwrite(file)));
    step("read at an offset", read_from(file, SeekFrom::Start(7)));
    step("read from the end", read_from(file, SeekFrom::End(-4)));
    step("seek before the start", read_from(file, SeekFrom::End(-400)));
    step("truncate", done(OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(5))));
    step("append", done(append(file, "+end")));
    step("read", fs::read_to_string(file));
    step("extend", done(OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(12))));
    step("length", fs::metadata(file).map(|metadata| metadata.len()));
    step("read", fs::read(file).map(|bytes| format!("{:?}", &bytes[9..])));
    step("sync", done(File::open(file).and_then(|file| file.sync_all())));
    step("set times", done(set_modified(file)));
    step("modified", fs::metadata(file).and_then(|metadata| modified(&metadata)));
    let written = File::open(file).and_then(|mut file| file.write(b"x"));
    // The two versions of WASI have different words for it.
    println!("write through a reader: {}", written.map_or("refused", |_| "done"));
}

fn names(at: &impl Fn(&str) -> String) {
    step("rename", done(fs::rename(at("a"), at("b"))));
    step("the old name", fs::metadata(at("a")).map(|_| "is there"));
    step("copy", fs::copy(at("b"), at("c")));
    step("rename onto a file", done(fs::rename(at("c"), at("b"))));
    step("remove what is not there", done(fs::remove_file(at("c"))));
    step("a name of another script", done(fs::write(at("文書"), "x")));
    step("an empty name", File::open("").map(|_| "opened"));
    step("a long name", File::create(at(&"x".repeat(300))).map(|_| "created"));
}

fn directories(at: &impl Fn(&str) -> String) {
    step("make directory", done(fs::create_dir(at("d"))));
    step("make it again", done(fs::create_dir(at("d"))));
    for i in 0..100 {
        fs::write(at(&format!("d/{i:03}")), "").expect("a file in the directory");
    }
    step("list", list(&at("d")));
    step("list a file", list(&at("b")));
    step("remove it full", done(fs::remove_dir(at("d"))));
    step("remove it as a file", fs::remove_file(at("d")).map(|()| "removed"));
    step("remove all", done(fs::remove_dir_all(at("d"))));
    step("is a directory", fs::metadata(at("")).map(|metadata| metadata.is_dir()));
    step("open a file as a directory", fs::metadata(at("b/x")).map(|_| "is there"));
}

#[allow(deprecated, reason = "the other way of making a symbolic link is not stable for WASI")]
fn links(at: &impl Fn(&str) -> String) {
    step("hard link", done(fs::hard_link(at("b"), at("hard"))));
    step("read through it", fs::read(at("hard")).map(|bytes| bytes.len()));
    step("symbolic link", done(fs::soft_link("b", at("soft"))));
    step("where it leads", fs::read_link(at("soft")).map(|path| path.display().to_string()));
    step("read through it", fs::read(at("soft")).map(|bytes| bytes.len()));
    step("is a link", fs::symlink_metadata(at("soft")).map(|metadata| metadata.is_symlink()));
    step("is followed", fs::metadata(at("soft")).map(|metadata| metadata.is_file()));
    step("a link in a circle", fs::soft_link("circle", at("circle")).and_then(|()| fs::read(at("circle"))).map(|_| "read"));
}

fn overwrite(file: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.seek(SeekFrom::Start(7))?;
    file.write_all(b"F")
}

fn read_from(file: &str, position: SeekFrom) -> io::Result<String> {
    let mut file = File::open(file)?;
    file.seek(position)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn append(file: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())
}

fn set_modified(file: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(file)?;
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
}

fn modified(metadata: &fs::Metadata) -> io::Result<u64> {
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(since.as_secs())
}

fn list(directory: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let (first, last) = (names.first().cloned(), names.last().cloned());
    Ok(format!("{} from {} to {}", names.len(), first.unwrap_or_default(), last.unwrap_or_default()))
}

/// One operation: `done`, what was read, or its error.
#[allow(deprecated, reason = "the other way of making a symbolic link is not stable for WASI")]
pub(crate) fn attempt(operation: &[&str]) -> String {
    let result = match *operation {
        ["read", file] => fs::read_to_string(file),
        ["write", file, text] => fs::write(file, text).map(|()| "done".to_owned()),
        ["append", file, text] => append(file, text).map(|()| "done".to_owned()),
        ["truncate", file] => File::create(file).map(|_| "done".to_owned()),
        ["list", directory] => list(directory),
        ["make", directory] => fs::create_dir(directory).map(|()| "done".to_owned()),
        ["remove", file] => fs::remove_file(file).map(|()| "done".to_owned()),
        ["remove-directory", directory] => fs::remove_dir(directory).map(|()| "done".to_owned()),
        ["rename", from, to] => fs::rename(from, to).map(|()| "done".to_owned()),
        ["link", from, to] => fs::hard_link(from, to).map(|()| "done".to_owned()),
        ["symlink", to, at] => fs::soft_link(to, at).map(|()| "done".to_owned()),
        ["times", file] => set_modified(file).map(|()| "done".to_owned()),
        ["length", file] => fs::metadata(file).map(|metadata| metadata.len().to_string()),
        _ => std::process::exit(64),
    };
    result.unwrap_or_else(|error| error.to_string())
}
