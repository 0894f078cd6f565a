//! Inputs that fuzzing kept, and inputs without a pattern, on the stable toolchain.
//!
//! `tests/support/fuzz.rs` says what is done with an input. Nothing may panic, run on, or take memory without end.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cowfs_tests::fuzz::{self, peak};
use debugfs_cowfs::table::{self, Needs};

/// Longest time that an input may take, in a build that is hardly optimised, beside other tests.
const LONGEST: Duration = Duration::from_secs(60);
/// Most memory that the process may ever have: five images are held, and a command may take 64 MiB or so.
const MEMORY: u64 = 1 << 30;

fn timed(target: &str, run: fn(&[u8]), input: &[u8]) {
    let start = Instant::now();
    run(input);
    let took = start.elapsed();
    assert!(took < LONGEST, "{target}: {took:?} for {input:02x?}");
}

#[test]
fn kept_inputs_do_no_harm() {
    for (target, run) in fuzz::TARGETS {
        let inputs = fuzz::kept(target).unwrap();
        assert!(!inputs.is_empty(), "{target}");
        for input in &inputs {
            timed(target, run, input);
        }
    }
    assert!(peak() < MEMORY, "{} MiB", peak() >> 20);
}

/// Steele and others, "Fast splittable pseudorandom number generators".
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// As many inputs as `HOSTILE_ROUNDS` says, by default few; `HOSTILE_SEED` begins elsewhere.
#[test]
fn inputs_without_a_pattern_do_no_harm() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let rounds = number("HOSTILE_ROUNDS").unwrap_or(300);
    let first = number("HOSTILE_SEED").unwrap_or(0);
    for seed in first..first + rounds {
        let mut state = seed;
        for (target, run) in fuzz::TARGETS {
            let len = usize::try_from(4 + next(&mut state) % 200).unwrap();
            let mut input: Vec<u8> = (0..len)
                .map(|_| next(&mut state).to_le_bytes()[0])
                .collect();
            if target == "volume" && seed % 2 == 0 {
                // Most of the numbers that steer stand at the start of a block.
                for change in input[4..].chunks_mut(7) {
                    if let Some(high) = change.get_mut(2) {
                        *high = 0;
                    }
                }
            }
            timed(target, run, &input);
        }
    }
    assert!(peak() < MEMORY, "{} MiB", peak() >> 20);
}

/// The lines that are run on changed volumes are all commands that only read.
#[test]
fn commands_that_read_are_all_tried() {
    let left = fuzz::commands_left_out();
    let known = [
        // Of the session, not of a volume.
        "cd", "chroot", "close", "curdev", "decode", "help", "lcd", "lpwd", "open", "pwd", "quit",
        // They write to the host; debugfs/tests/hostile.rs runs them.
        "dump", "rdump", "image", "diff", "verify",
    ];
    for name in left {
        let command = table::find(name.as_bytes()).unwrap();
        let kernel = command.summary == "Needs a running kernel; fails.";
        let writes = command.needs == Needs::Writing;
        assert!(
            kernel || writes || known.contains(&name),
            "{name} is tried nowhere"
        );
    }
}
