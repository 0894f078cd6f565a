//! Running a program and telling what it cost.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wait4::Wait4;

/// What one run cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// From the start until what it wrote is on stable storage.
    pub(crate) wall_s: f64,
    /// User and system time.
    pub(crate) cpu_s: f64,
    /// The most memory it held at once.
    pub(crate) memory_bytes: u64,
    /// What its output takes on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocated_bytes: Option<u64>,
}

impl Cost {
    /// One after the other.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            wall_s: self.wall_s + next.wall_s,
            cpu_s: self.cpu_s + next.cpu_s,
            memory_bytes: self.memory_bytes.max(next.memory_bytes),
            allocated_bytes: next.allocated_bytes.or(self.allocated_bytes),
        }
    }
}

/// Runs a command to its end. Exit statuses in `fine` are no failure.
pub(crate) fn run(command: &mut Command, fine: &[i32]) -> Result<Cost> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Until it becomes another program, the child shares the memory of this one, and the most that this
    // one ever held would count as the child's. Now that is what it holds at this moment.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let began = Instant::now();
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let ended = child.wait4()?;
    let wall = began.elapsed();
    if !ended.status.code().is_some_and(|code| fine.contains(&code)) {
        bail!("{command:?} ended with {}", ended.status);
    }
    Ok(Cost {
        wall_s: wall.as_secs_f64(),
        cpu_s: (ended.rusage.utime + ended.rusage.stime).as_secs_f64(),
        memory_bytes: ended.rusage.maxrss,
        allocated_bytes: None,
    })
}

/// Runs a command that writes a file. The time ends when the file is on stable storage, whether the
/// program saw to that or not.
pub(crate) fn run_writing(command: &mut Command, output: &Path) -> Result<Cost> {
    let mut cost = run(command, &[0])?;
    let began = Instant::now();
    let file = File::open(output).with_context(|| output.display().to_string())?;
    file.sync_data()?;
    cost.wall_s += began.elapsed().as_secs_f64();
    cost.allocated_bytes = Some(file.metadata()?.blocks() * 512);
    Ok(cost)
}

/// The costs of several runs of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Samples {
    pub(crate) name: String,
    pub(crate) runs: Vec<Cost>,
}

impl Samples {
    /// The median of each figure by itself.
    pub(crate) fn median(&self) -> Cost {
        let wall = middle(self.runs.iter().map(|cost| cost.wall_s));
        let cpu = middle(self.runs.iter().map(|cost| cost.cpu_s));
        let most = self.runs.iter().map(|cost| cost.memory_bytes).max();
        let allocated = self.runs.iter().map(|cost| cost.allocated_bytes).max();
        Cost {
            wall_s: wall,
            cpu_s: cpu,
            memory_bytes: most.unwrap_or(0),
            allocated_bytes: allocated.flatten(),
        }
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// One contender of a race: a name, and what makes one run of it.
pub(crate) type Contender<'c> = (&'c str, Box<dyn FnMut(usize) -> Result<Cost> + 'c>);

/// Runs the contenders in turn, so that what else the machine does falls on all alike: A B C, then
/// B C A, and so on. Before each run the disk is quiet: nobody pays for what another one wrote.
pub(crate) fn race(
    place: &Path,
    runs: usize,
    mut field: Vec<Contender<'_>>,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = field
        .iter()
        .map(|(name, _)| Samples {
            name: (*name).to_owned(),
            runs: Vec::new(),
        })
        .collect();
    for turn in 0..runs {
        for step in 0..field.len() {
            let who = (turn + step) % field.len();
            let (name, contender) = &mut field[who];
            rustix::fs::syncfs(File::open(place)?)?;
            std::thread::sleep(Duration::from_millis(50));
            let cost = contender(turn).with_context(|| (*name).to_owned())?;
            eprintln!("  {name}: {:.3} s", cost.wall_s);
            samples[who].runs.push(cost);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(middle([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(middle([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(middle([].into_iter()).is_nan());
    }

    #[test]
    fn a_program_that_fails_is_no_result() {
        assert!(run(&mut Command::new("false"), &[0]).is_err());
        let cost = run(&mut Command::new("false"), &[1]).unwrap();
        assert!(cost.memory_bytes > 0 && cost.wall_s > 0.0);
    }
}
