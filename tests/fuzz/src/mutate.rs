//! Changes inputs, the same way for the same seed on every machine.

/// A small generator of pseudo-random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; zero when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A part of `length` bytes, mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let longest = if self.below(4) == 0 { length - start } else { 16.min(length - start) };
        start..start + 1.min(length) + self.below(longest)
    }
}

/// Longest input that a mutation makes, in bytes.
pub const LONGEST: usize = 16 << 10;

/// Numbers at which lengths and counts go wrong.
const BOUNDARIES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Another input, made from one of the `corpus` (from nothing when it is empty) by a few changes. `words` are pieces that
/// mean something to the target.
#[must_use]
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut input = random.pick(corpus).cloned().unwrap_or_default();
    loop {
        change(random, &mut input, corpus, words);
        input.truncate(LONGEST);
        if random.below(3) == 0 {
            return input;
        }
    }
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.below(input.len() + 1);
    match random.below(12) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.byte();
            }
        }
        2 => input.truncate(at),
        3 => {
            let gone = random.range(input.len());
            input.drain(gone);
        }
        4 => {
            let again = input[random.range(input.len())].to_vec();
            let most = if random.below(8) == 0 { 40 } else { 3 };
            let times = 1 + random.below(most);
            insert(input, at, &again.repeat(times));
        }
        5 => {
            let bytes: Vec<u8> = (0..1 + random.below(12)).map(|_| random.byte()).collect();
            insert(input, at, &bytes);
        }
        6 | 7 => {
            if let Some(word) = random.pick(words) {
                insert(input, at, word);
            }
        }
        8 => {
            if let Some(word) = random.pick(words) {
                overwrite(input, at, word);
            }
        }
        9 => {
            if let Some(other) = random.pick(corpus) {
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        10 => {
            // A length, perhaps: nudged.
            if let Some(byte) = input.get_mut(at) {
                let by = 1 + random.below(4) as u8;
                *byte = if random.below(2) == 0 { byte.wrapping_add(by) } else { byte.wrapping_sub(by) };
            }
        }
        _ => {
            let number = random.pick(&BOUNDARIES).copied().unwrap_or(0).to_be_bytes();
            let width = 1 << random.below(4);
            overwrite(input, at, &number[8 - width..]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = input.len().min(at + bytes.len());
    input.splice(at..end, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_inputs_and_another_seed_others() {
        let corpus = [b"some bytes".to_vec(), b"and others".to_vec()];
        let inputs = |seed| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(&mut random, &corpus, &[b"word"])).collect()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        let distinct: std::collections::BTreeSet<_> = inputs(1).into_iter().collect();
        assert!(distinct.len() > 150, "{} of 200 inputs differ", distinct.len());
    }

    #[test]
    fn nothing_can_be_mutated_too() {
        let mut random = Random::new(3);
        assert!((0..500).map(|_| mutate(&mut random, &[], &[])).any(|input| !input.is_empty()));
    }
}
