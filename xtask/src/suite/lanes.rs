//! Steps side by side: most leave a CPU to spare, as a machine that boots has one thread that works, and one that waits
//! has none.
//!
//! A lane is a process that reads names of steps and answers each with what came of it, a line of JSON. It has a folder of its own
//! for sockets and files, so that a step finds what it made, and no run but its own. What measures who has how much of
//! the PC's CPUs is left for the end, and then nothing else is under way.

use std::io::{BufRead, BufReader, Lines, Write};
use std::num::NonZeroUsize;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::command::{self, Bystander};
use super::{Bench, Counts, Outcome, Step};
use crate::paths;

/// More would want more memory than CPUs.
const MOST: usize = 4;
/// What is compared with a share of the PC's CPUs, or has virtual time in instructions and waits in it: then that time is the PC's.
const ALONE: [&str; 5] =
    ["shares/a-cap", "soak/storms", "waits/", "guests/stolen", "debian/uses-stolen"];
/// What takes whole CPUs, and no QEMU: the first lane begins with it, the others with all else.
const ON_THE_PC: [&str; 2] = ["host/", "image/"];

/// What an answer begins with.
const ANSWER: &str = "answer: ";

/// What came of a step.
#[derive(Debug, Deserialize, Serialize)]
pub struct Answer {
    pub name: String,
    pub counts: Counts,
    /// In a word or two.
    pub text: String,
    /// What shows why it failed.
    pub output: String,
    pub seconds: f64,
}

impl Answer {
    /// Runs `step`.
    pub fn of(step: &Step, bench: &Bench) -> Self {
        let start = Instant::now();
        let outcome = (step.run)(bench);
        Self::new(&step.name, &outcome, start.elapsed().as_secs_f64())
    }

    fn new(name: &str, outcome: &Outcome, seconds: f64) -> Self {
        let (counts, text, output) = outcome.describe();
        Self { name: name.to_owned(), counts, text, output: output.to_owned(), seconds }
    }
}

/// How many lanes there are for as many steps.
pub fn count(steps: usize) -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(steps).min(MOST)
}

/// Runs the steps with these names in so many lanes; `done` has each answer as it comes.
pub fn run(
    names: &[&str],
    lanes: usize,
    bare: bool,
    done: impl FnMut(Answer) + Send,
) -> Result<()> {
    let begins = |name: &str, with: &[&str]| with.iter().any(|start| name.starts_with(start));
    let (alone, together): (Vec<&str>, Vec<_>) =
        names.iter().partition(|name| begins(name, &ALONE));
    let (pc, machines) = together.into_iter().partition(|name| begins(name, &ON_THE_PC));
    let queues = Mutex::new([Queue::new(pc), Queue::new(machines)]);
    let done = Mutex::new(done);
    let lanes: Vec<Mutex<Lane>> =
        (0..lanes).map(|lane| Lane::start(lane, bare).map(Mutex::new)).collect::<Result<_>>()?;
    let work = |lane: usize, next: &dyn Fn() -> Option<String>| {
        let mut process = lanes[lane].lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(name) = next() {
            let answer = process.ask(&name);
            let ended = answer.is_err();
            let failed = |why| Answer::new(&name, &Outcome::Failed(format!("{why:#}")), 0.0);
            let answer = answer.unwrap_or_else(failed);
            (done.lock().unwrap_or_else(PoisonError::into_inner))(answer);
            if ended {
                break;
            }
        }
    };
    thread::scope(|scope| {
        for lane in 0..lanes.len() {
            let (work, queues) = (&work, &queues);
            scope.spawn(move || {
                work(lane, &|| {
                    let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
                    let [pc, machines] = &mut *queues;
                    let (first, second) = if lane == 0 { (pc, machines) } else { (machines, pc) };
                    first.next().or_else(|| second.next())
                });
            });
        }
    });
    let alone = Mutex::new(Queue::new(alone));
    for lane in 0..lanes.len() {
        // The next one has what a lane leaves that has ended.
        work(lane, &|| alone.lock().unwrap_or_else(PoisonError::into_inner).next());
    }
    let left = queues.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left = left.map(Iterator::count).into_iter().sum::<usize>();
    let left = left + alone.into_inner().unwrap_or_else(PoisonError::into_inner).count();
    ensure!(left == 0, "all lanes have ended, and {left} steps are left");
    Ok(())
}

/// Answers names of steps, until there are no more.
pub fn serve(steps: &[Step], bench: &Bench) -> Result<ExitCode> {
    std::fs::create_dir_all(paths::work()).context("cannot make a folder for files")?;
    for name in std::io::stdin().lines() {
        let name = name?;
        let step = steps.iter().find(|step| step.name == name).context("there is no such step")?;
        println!("{ANSWER}{}", serde_json::to_string(&Answer::of(step, bench))?);
    }
    Ok(ExitCode::SUCCESS)
}

type Queue = std::vec::IntoIter<String>;

trait Names {
    fn new(names: Vec<&str>) -> Self;
}

impl Names for Queue {
    fn new(names: Vec<&str>) -> Self {
        names.into_iter().map(str::to_owned).collect::<Vec<_>>().into_iter()
    }
}

/// Our end of a lane.
struct Lane {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _bystander: Bystander,
}

impl Lane {
    fn start(lane: usize, bare: bool) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("exec-with-parent").arg(std::process::id().to_string()).arg("--");
        command.args(["/proc/self/exe", "test-lane"]).args(bare.then_some("--bare"));
        command.env(paths::WORK, paths::work().join(format!("lane-{lane}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a lane")?;
        let bystander = command::tell_at_the_end(&child);
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, input, output, _bystander: bystander })
    }

    fn ask(&mut self, name: &str) -> Result<Answer> {
        writeln!(self.input, "{name}").context("its lane has ended")?;
        loop {
            let line = self.output.next().context("its lane has ended before it was done")??;
            match line.strip_prefix(ANSWER) {
                Some(answer) => {
                    return serde_json::from_str(answer).context("its lane does not answer");
                }
                // A step has something to say.
                None => println!("{line}"),
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::{ALONE, ON_THE_PC};

    #[test]
    fn what_is_treated_specially_is_there() {
        let steps = crate::suite::steps(false).expect("the payloads are listed");
        for start in ALONE.into_iter().chain(ON_THE_PC) {
            assert!(steps.iter().any(|step| step.name.starts_with(start)), "{start}");
        }
    }

    #[test]
    fn no_two_steps_have_one_name() {
        let steps = crate::suite::steps(false).expect("the payloads are listed");
        let mut names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
