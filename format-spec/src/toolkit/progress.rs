//! Progress: workers bump a counter, one ticker draws it.
//!
//! A bar is drawn on stderr, and only when that is a terminal; a program can ask for lines in the
//! form of e2fsck (`pass done total device`) on a descriptor instead. Neither touches results.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the state is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Where progress goes.
#[derive(Debug, Default)]
pub enum Sink {
    /// Nowhere.
    #[default]
    Hidden,
    /// A bar on stderr.
    Bar,
    /// Lines for a program.
    Lines {
        /// Where to write them.
        to: File,
        /// Name of the device in each line.
        device: String,
    },
}

impl Sink {
    /// A bar when stderr is a terminal and the user did not ask for silence.
    #[must_use]
    pub fn for_terminal(quiet: bool) -> Self {
        if !quiet && std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Hidden
        }
    }

    /// Lines on the open descriptor `fd` of this process.
    ///
    /// # Errors
    /// There is no such descriptor, or it cannot be written.
    pub fn lines(fd: u32, device: String) -> std::io::Result<Self> {
        // Opening it again by name needs no unsafe code and leaves the caller's own alone.
        let to = File::options()
            .append(true)
            .open(format!("/proc/self/fd/{fd}"))?;
        Ok(Self::Lines { to, device })
    }
}

/// What the ticker and the workers share.
#[derive(Debug, Default)]
struct State {
    /// Passes with the time that they began.
    begun: Mutex<Vec<(u64, Instant)>>,
    pass: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
    finished: AtomicBool,
}

/// A handle to the progress of a run. Dropping it takes the bar away.
#[derive(Debug, Default)]
pub struct Progress {
    state: Arc<State>,
    ticker: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts drawing into `sink`.
    #[must_use]
    pub fn start(sink: Sink) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let ticker = match sink {
            Sink::Hidden => None,
            Sink::Bar => Some(std::thread::spawn(move || draw_bar(&shared))),
            Sink::Lines { to, device } => Some(std::thread::spawn(move || {
                write_lines(&shared, to, &device)
            })),
        };
        Self { state, ticker }
    }

    /// Begins pass `pass` of `total` steps.
    pub fn pass(&self, pass: u64, total: u64) {
        self.state.done.store(0, Ordering::Relaxed);
        self.state.total.store(total, Ordering::Relaxed);
        self.state.pass.store(pass, Ordering::Relaxed);
        if let Ok(mut begun) = self.state.begun.lock() {
            begun.push((pass, Instant::now()));
        }
    }

    /// How long each pass took so far, by number; a pass made again is added up.
    #[must_use]
    pub fn timings(&self) -> BTreeMap<u64, Duration> {
        let begun = self.state.begun.lock().map(|begun| begun.clone());
        let begun = begun.unwrap_or_default();
        let ends = begun
            .iter()
            .skip(1)
            .map(|(_, at)| *at)
            .chain([Instant::now()]);
        let mut all = BTreeMap::new();
        for ((pass, at), end) in begun.iter().zip(ends) {
            *all.entry(*pass).or_default() += end.saturating_duration_since(*at);
        }
        all
    }

    /// Counts `steps` as done.
    pub fn step(&self, steps: u64) {
        self.state.done.fetch_add(steps, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.state.finished.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
    }
}

/// Pass, steps done and steps in all; the steps never exceed the total.
fn read(state: &State) -> (u64, u64, u64) {
    let total = state.total.load(Ordering::Relaxed);
    let done = state.done.load(Ordering::Relaxed).min(total);
    (state.pass.load(Ordering::Relaxed), done, total)
}

fn draw_bar(state: &State) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("pass {msg}  [{bar:40}] {percent}%")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bar.set_style(style);
    while !state.finished.load(Ordering::Relaxed) {
        std::thread::park_timeout(TICK);
        let (pass, done, total) = read(state);
        if pass > 0 {
            bar.set_message(pass.to_string());
            bar.set_length(total);
            bar.set_position(done);
        }
    }
    bar.finish_and_clear();
}

fn write_lines(state: &State, mut to: File, device: &str) {
    let mut last = (0, 0, 0);
    loop {
        let finished = state.finished.load(Ordering::Relaxed);
        let now = read(state);
        if now != last && now.0 > 0 {
            let (pass, done, total) = now;
            if writeln!(to, "{pass} {done} {total} {device}").is_err() {
                return;
            }
            last = now;
        }
        if finished {
            return;
        }
        std::thread::park_timeout(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_the_last_state() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let to = file.reopen().unwrap();
        let device = "image".to_owned();
        let progress = Progress::start(Sink::Lines { to, device });
        progress.pass(2, 10);
        progress.step(10);
        drop(progress);
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().last(), Some("2 10 10 image"));
    }
}
