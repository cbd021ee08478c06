//! Steps that measure what Plinth costs, in instructions, and hold it to the baseline.

use super::{Bench, Outcome, Step};
use crate::bench::{GICS, check};

pub fn steps() -> Vec<Step> {
    let step =
        |gic| Step::new(format!("bench/instructions-gicv{gic}"), move |bench| held(bench, gic));
    GICS.map(step).into()
}

/// Without Plinth there is nothing to measure.
fn held(bench: &Bench, gic: u8) -> Outcome {
    if bench.bare {
        return Outcome::Skipped("measures Plinth".to_owned());
    }
    match check(gic) {
        Ok(figures) => Outcome::Remarked(format!("{} figures, none has grown", figures.len())),
        Err(why) => Outcome::Failed(format!("{why:#}")),
    }
}
