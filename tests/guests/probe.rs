//! A Wasm program that does what its first argument says, so that a suite needs only one image.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => println!("probe"),
        ["echo", ..] => println!("{}", arguments[1..].join(" ")),
        ["error", ..] => eprintln!("{}", arguments[1..].join(" ")),
        ["cat"] => cat(),
        ["env", name] => println!("{}", std::env::var(name).unwrap_or_default()),
        ["vars"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["exit", code] => std::process::exit(code.parse().expect("a code")),
        ["trap"] => std::process::abort(),
        ["spin"] => loop {
            std::hint::black_box(());
        },
        ["grow"] => grow(),
        ["recurse"] => println!("{}", recurse(1)),
        ["sleep", ms] => std::thread::sleep(Duration::from_millis(ms.parse().expect("milliseconds"))),
        ["tick", ms] => tick(Duration::from_millis(ms.parse().expect("milliseconds"))),
        ["read", file] => print!("{}", fs::read_to_string(file).expect("a readable file")),
        ["write", file, text] => fs::write(file, text).expect("a writable file"),
        ["append", file, text] => append(file, text),
        ["lines", count] => {
            for i in 0..count.parse::<u64>().expect("a count") {
                println!("line {i}");
            }
        }
        _ => std::process::exit(64),
    }
}

fn cat() {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).expect("stdin");
    io::stdout().write_all(&bytes).expect("stdout");
}

fn grow() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![1; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

fn recurse(depth: u64) -> u64 {
    let padding = std::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(depth + 1) + padding[7] }
}

/// Prints a line, then works until the time is over: seen by `logs -f` while it runs.
fn tick(length: Duration) {
    println!("started");
    let end = Instant::now() + length;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("finished");
}

fn append(file: &str, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("an appendable file");
    writeln!(file, "{text}").expect("a writable file");
}
