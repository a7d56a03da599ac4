//! Damage to inputs.

/// Most changes to one input. Few changes come far, many find what few do not.
const CHANGES_MAX: usize = 6;
/// Most bytes that are inserted, repeated or taken from another input at a time.
const PART_BYTES_MAX: usize = 64;
/// Bytes at the edges of what decoders tell apart.
const EDGES: [u8; 8] = [0x00, 0x01, 0x40, 0x7f, 0x80, 0x81, 0xfe, 0xff];
/// The same of little-endian lengths.
const LENGTHS: [u32; 6] = [0, 1, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];

/// Makes damaged inputs. All of them follow from the seed.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// One that starts here.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of the corpus, damaged. An empty corpus gives an empty input.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() {
            return Vec::new();
        }
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let length = 1 + self.below(PART_BYTES_MAX);
        let end = (at + length).min(input.len());
        match self.below(8) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = EDGES[self.below(EDGES.len())],
            3 if at + 4 <= input.len() => {
                input[at..at + 4].copy_from_slice(&LENGTHS[self.below(LENGTHS.len())].to_le_bytes());
            }
            // Seldom, for little is left to be looked at afterwards.
            4 if self.below(4) == 0 => input.truncate(at),
            5 => drop(input.drain(at..end)),
            6 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            7 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let part = other[from..(from + length).min(other.len())].to_vec();
                input.splice(at..end, part);
            }
            _ => input.insert(at, EDGES[self.below(EDGES.len())]),
        }
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        // The bias for bounds far below 2^64 does not matter here.
        (self.next() % bound as u64) as usize
    }

    /// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_algorithm() {
        // The first three for this seed in the reference implementation.
        let mut numbers = Mutator::new(1_234_567);
        let expect = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expect.map(|_| numbers.next()), expect);
    }

    #[test]
    fn inputs_stay_small_and_any_is_taken() {
        let mut mutator = Mutator::new(7);
        assert!(mutator.mutate(&[]).is_empty());
        for corpus in [vec![Vec::new()], vec![vec![1]], vec![vec![2; 10], vec![3; 100]]] {
            for _ in 0..2000 {
                assert!(mutator.mutate(&corpus).len() <= 100 + CHANGES_MAX * PART_BYTES_MAX);
            }
        }
    }
}
