//! The parallel scan driver.
//!
//! A scan is a list of work items (usually allocator groups), a function that looks at one item
//! and returns what it found, and a fold over the results *in the order of the items*. Workers
//! share nothing but what the caller's function shares itself, so the result is the same for any
//! number of threads. Results are folded batch by batch, which bounds how many of them wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Items whose results may wait for the fold at a time.
const BATCH: usize = 4096;

/// Threads that scan, a counter of what they did, and a switch that stops them.
#[derive(Debug)]
pub struct Scanner {
    pool: rayon::ThreadPool,
    done: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Scanner {
    /// A scanner with `threads` threads; `None` = one a processor.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .build()
            .map_err(|error| Error::Input {
                what: format!("cannot start the scan's threads: {error}"),
            })?;
        Ok(Self {
            pool,
            done: AtomicU64::new(0),
            stop: Arc::default(),
        })
    }

    /// Applies `work` to all items in parallel and `merge` to the results in the order of the
    /// items. A stopped scan leaves items out.
    pub fn run<I: Sync, T: Send>(
        &self,
        items: &[I],
        work: impl Fn(&I) -> T + Sync,
        mut merge: impl FnMut(T),
    ) {
        for batch in items.chunks(BATCH) {
            if self.stopped() {
                return;
            }
            let step = |item: &I| {
                let found = (!self.stopped()).then(|| work(item));
                self.done.fetch_add(1, Ordering::Relaxed);
                found
            };
            let results: Vec<Option<T>> = if batch.len() == 1 {
                batch.iter().map(step).collect()
            } else {
                self.pool.install(|| {
                    batch
                        .par_iter()
                        .with_max_len(batch.len().div_ceil(256).max(1))
                        .map(step)
                        .collect()
                })
            };
            results.into_iter().flatten().for_each(&mut merge);
        }
    }

    /// Items done since the scanner was made.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends all scans as soon as the items under way are done. May be called from any thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The switch behind [`Scanner::stop`], for signal handlers.
    pub fn stop_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether [`Scanner::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..10_000).collect();
        for threads in [1, 4] {
            let scanner = Scanner::new(Some(threads)).unwrap();
            let mut seen = Vec::new();
            scanner.run(&items, |item| item * 2, |twice| seen.push(twice));
            assert!(seen.iter().copied().eq(items.iter().map(|item| item * 2)));
            assert_eq!(scanner.done(), 10_000);
        }
    }

    #[test]
    fn a_stopped_scan_ends() {
        let scanner = Scanner::new(Some(2)).unwrap();
        let items: Vec<u32> = (0..100_000).collect();
        let mut seen = 0;
        scanner.run(
            &items,
            |&item| {
                if item == 10 {
                    scanner.stop();
                }
            },
            |()| seen += 1,
        );
        assert!(scanner.stopped() && seen < items.len());
    }
}
