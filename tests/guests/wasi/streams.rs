//! Standard streams.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

/// Copies input to output, a buffer at a time.
pub(crate) fn copy() {
    let mut buffer = vec![0; 64 << 10];
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    loop {
        let length = input.read(&mut buffer).expect("readable input");
        if length == 0 {
            break;
        }
        output.write_all(&buffer[..length]).expect("writable output");
    }
    output.flush().expect("writable output");
}

/// Writes as many bytes as asked for, which count up.
pub(crate) fn flood(bytes: usize) {
    let buffer: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
    let mut output = io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(buffer.len());
        output.write_all(&buffer[..length]).expect("writable output");
        left -= length;
    }
}

/// Reads to the end twice: an ended input stays ended.
pub(crate) fn ends() {
    let mut bytes = Vec::new();
    let first = io::stdin().read_to_end(&mut bytes).expect("readable input");
    let second = io::stdin().read_to_end(&mut bytes).expect("readable input");
    println!("{first} {second}");
    eprintln!("this is standard error");
}

/// Whether the streams are terminals.
pub(crate) fn terminals() {
    println!("{} {}", io::stdin().is_terminal(), io::stdout().is_terminal());
}
