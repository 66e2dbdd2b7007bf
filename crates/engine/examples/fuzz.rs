//! Fuzzes a target for some seconds with mutations of its corpus; keeps what makes it panic.
//!
//! ```text
//! cargo run --release -p waymark-engine --example fuzz -- pair 60
//! ```
//!
//! It is blind: where libFuzzer can be had, its `fuzz_target!` around the same function finds more.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use waymark_engine::fuzz;

/// A small generator: what is wanted is many different inputs, not good ones.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }
}

/// Changes a few places of `input`, in the ways that protocols trip over.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 => input.insert(at, random.below(256) as u8),
            1 if at < input.len() => drop(input.remove(at)),
            2 if at < input.len() => input[at] ^= 1 << random.below(8),
            3 if at < input.len() => input[at] = [0, 1, 4, 0x7f, 0x80, 0xff][random.below(6)],
            4 => {
                let from = random.below(input.len() + 1).min(at);
                let piece = input[from..at].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => input.truncate(at.max(8)),
        }
    }
    input.truncate(8192);
}

#[expect(clippy::print_stdout, reason = "the result is what it is run for")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "pair".into());
    let seconds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(60);
    let target: fn(&[u8]) = match name.as_str() {
        "server" => fuzz::fuzz_server,
        "client" => fuzz::fuzz_client,
        "hpack" => fuzz::fuzz_hpack,
        _ => fuzz::fuzz_pair,
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(&name);
    let corpus: Vec<Vec<u8>> = std::fs::read_dir(&directory)
        .expect("a target with a corpus")
        .map(|entry| std::fs::read(entry.expect("a file").path()).expect("a readable file"))
        .collect();
    let start = Instant::now();
    let mut random = Random(std::process::id().into());
    random.0 |= 1 << 40;
    let mut pool = corpus.clone();
    let mut runs = 0u64;
    while start.elapsed() < Duration::from_secs(seconds) {
        let other = pool[random.below(pool.len())].clone();
        let mut input = pool[random.below(pool.len())].clone();
        mutate(&mut input, &other, &mut random);
        if std::panic::catch_unwind(|| target(&input)).is_err() {
            let kept = directory.join(format!("panic-{runs}-{}", std::process::id()));
            std::fs::write(&kept, &input).expect("a writable corpus");
            println!("{name}: kept {}", kept.display());
            std::process::abort();
        }
        runs += 1;
        // Some of what was made is built on, so that inputs drift away from the corpus and come back.
        let place = random.below(corpus.len() + 64);
        if place < pool.len() && place >= corpus.len() {
            pool[place] = input;
        } else if pool.len() < corpus.len() + 64 {
            pool.push(input);
        }
        if runs.is_multiple_of(4096) {
            pool.truncate(corpus.len());
        }
    }
    println!("{name}: {runs} inputs, none panics");
}
