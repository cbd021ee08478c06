//! Steps about the linked image, which is not run.

use anyhow::Result;

use super::{Bench, Outcome, Step};
use crate::bounds::Bounds;
use crate::build;

pub fn steps() -> Vec<Step> {
    vec![
        Step::new("image/stacks-are-deep-enough", |bench| {
            remarked(look(bench).and_then(|it| Ok(it.stacks(false)?.join(", "))))
        }),
        Step::new("image/panics-are-known", |bench| {
            let text =
                |count| format!("{count} places where one may begin, all in xtask/panics.txt");
            remarked(look(bench).and_then(|it| Ok(text(it.panics(false)?))))
        }),
    ]
}

fn look(bench: &Bench) -> Result<Bounds> {
    bench.machine()?;
    Bounds::of(&build::hypervisor()?.elf)
}

fn remarked(found: Result<String>) -> Outcome {
    match found {
        Ok(what) => Outcome::Remarked(what),
        Err(why) => Outcome::Failed(format!("{why:#}")),
    }
}
