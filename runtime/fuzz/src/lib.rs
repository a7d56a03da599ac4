//! For tests: inputs that are nearly right, the same in every run.
//!
//! Property tests make inputs from nothing, so that most are refused at their first bytes. Here valid inputs are
//! damaged a little, which comes further: bits flipped, bytes that decoders dislike, parts cut off, repeated,
//! removed, and exchanged between two inputs. What is called with them must come back in time, must not panic, and
//! must not take more memory than it may.
//!
//! It is no coverage-guided fuzzer: it runs on stable Rust, in seconds, with every test run. Two variables change that:
//!
//! | variable | value |
//! |---|---|
//! | `NEARGATE_FUZZ_CASES` | how many inputs each test damages, instead of its own number |
//! | `NEARGATE_FUZZ_SEED` | another series of them; a failure names its own |

#![forbid(unsafe_code)]

mod mutate;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use mutate::Mutator;

/// How many inputs each test damages, instead of its own number.
const CASES: &str = "NEARGATE_FUZZ_CASES";
/// The number from which all damage follows.
const SEED: &str = "NEARGATE_FUZZ_SEED";
/// Bytes of an input that a failure prints.
const TOLD_BYTES_MAX: usize = 4096;

/// Wasm modules and components that are valid, of every kind that is run.
const CORPUS: [(&str, &str); 5] = [
    ("program", include_str!("../corpus/program.wat")),
    ("library", include_str!("../corpus/library.wat")),
    ("component", include_str!("../corpus/component.wat")),
    ("types", include_str!("../corpus/types.wat")),
    ("concurrent", include_str!("../corpus/concurrent.wat")),
];

/// What is tested, and how far it may go.
#[derive(Clone, Copy, Debug)]
pub struct Fuzz {
    /// How many inputs are made, unless `NEARGATE_FUZZ_CASES` says otherwise.
    pub cases: u32,
    /// Memory, in bytes, by which the process may grow while they are used. Other tests of the process count too.
    pub memory_bytes_max: u64,
}

impl Fuzz {
    /// Calls `target` with all of `corpus` as it is, and then with damaged ones.
    ///
    /// # Panics
    ///
    /// If `target` panics, or if the process grew too much: after printing how to see it again. Where `target`
    /// does not come back within five minutes the process is aborted, for nothing else ends it.
    pub fn run(self, corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
        let cases = variable(CASES).and_then(|cases| u32::try_from(cases).ok()).unwrap_or(self.cases);
        let seed = variable(SEED).unwrap_or(1);
        let mut mutator = Mutator::new(seed);
        let memory = watch::Memory::now();
        let watch = watch::Watch::start();
        let damaged = (0..cases).map(|_| mutator.mutate(corpus));
        for (case, input) in corpus.iter().cloned().chain(damaged).enumerate() {
            let told = format!("input {case} of {SEED}={seed}: {}", hex(&input));
            watch.begin(told.clone());
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
                eprintln!("it panicked with {told}");
                resume_unwind(panic);
            }
            let grown = memory.growth_bytes();
            assert!(grown <= self.memory_bytes_max, "the process grew by {grown} bytes with {told}");
        }
    }
}

/// The Wasm binaries of the corpus.
pub fn binaries() -> Vec<Vec<u8>> {
    CORPUS.into_iter().map(|(_, text)| encode(text)).collect()
}

/// One binary of the corpus, by the name of its file.
///
/// # Panics
///
/// If there is none of that name.
pub fn binary(name: &str) -> Vec<u8> {
    let found = CORPUS.into_iter().find(|(known, _)| *known == name);
    encode(found.unwrap_or_else(|| panic!("the corpus has no {name}")).1)
}

fn encode(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?}: say a whole number")))
}

fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(TOLD_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
    match bytes.len().saturating_sub(TOLD_BYTES_MAX) {
        0 => shown,
        more => format!("{shown}… and {more} bytes more"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const FUZZ: Fuzz = Fuzz { cases: 500, memory_bytes_max: 256 << 20 };

    fn seen(corpus: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let seen = RefCell::new(Vec::new());
        FUZZ.run(corpus, |input| seen.borrow_mut().push(input.to_vec()));
        seen.into_inner()
    }

    #[test]
    fn inputs_are_the_corpus_and_then_others_the_same_in_every_run() {
        let corpus = vec![b"the first one".to_vec(), b"another".to_vec()];
        let first = seen(&corpus);
        assert_eq!(&first[..2], &corpus[..]);
        assert!(first[2..].iter().filter(|input| !corpus.contains(input)).count() > 450);
        assert_eq!(first, seen(&corpus));
    }

    #[test]
    fn what_panics_or_grows_is_found() {
        let corpus = vec![vec![0; 32]];
        let is_found = |target: &dyn Fn(&[u8])| {
            let fuzz = Fuzz { memory_bytes_max: 64 << 20, ..FUZZ };
            catch_unwind(AssertUnwindSafe(|| fuzz.run(&corpus, target))).is_err()
        };
        assert!(!is_found(&|_| {}));
        // One wrong bit is enough.
        assert!(is_found(&|input| assert!(!input.contains(&0x80))));
        assert!(is_found(&|input| assert!(input.len() < 40)));
        let kept = RefCell::new(Vec::new());
        assert!(is_found(&|_| kept.borrow_mut().push(vec![1_u8; 1 << 20])));
    }

    #[test]
    fn the_corpus_is_wasm_of_both_layers() {
        let layers: Vec<u8> = binaries().iter().map(|wasm| wasm[6]).collect();
        assert_eq!(layers, [0, 0, 1, 1, 1]);
        assert_eq!(binary("types"), binaries()[3]);
    }
}
