//! Every function identifier, and what is answered, against a reviewed list (`golden.txt`).

use core::fmt::Write;
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::testing::bound;

/// First arguments of which each function that there is knows one: nothing, the version's own identifier, and those of
/// TRNG, stolen time and PSCI, of which others are asked.
const FIRST: [u64; 5] = [0, 0x8000_0000, 0x8400_0050, 0xc500_0020, 0x8400_0003];

fn facts() -> Facts {
    let mitigations = Mitigations {
        branch_target: Mitigation::Firmware,
        store_bypass_not_needed: true,
        branch_history: Mitigation::NotNeeded,
    };
    let ram = Region::new(Ipa::new(0x4000_0000), 0x1000_0000).unwrap();
    Facts { ram, stolen_time: Ipa::new(0x090a_0000), mitigations }
}

fn ask(function: u32, first: u64, facts: &Facts) -> Response {
    let mut power = [Power::On, Power::Off];
    let registers = [function.into(), first, 0, 0, 0, 0, 0, 0];
    call(&registers, VcpuId(0), &mut power, facts, &mut |out| {
        out.fill(0x5a);
        true
    })
}

fn is_refused(response: &Response) -> bool {
    response.results() == [u64::MAX] && response.effect == Effect::None
}

/// What each of the first arguments gets, once where all get the same: the results and the effect.
fn line(function: u32, facts: &Facts) -> String {
    let mut line = format!("{function:#010x}");
    let mut all = [0; FIRST.len()].map(|_| String::new());
    for (first, line) in FIRST.into_iter().zip(&mut all) {
        let response = ask(function, first, facts);
        let results = response.results().iter().map(|result| match result.cast_signed() {
            error @ -16..0 => format!("{error}"),
            value => format!("{value:#x}"),
        });
        write!(line, "  [{}]", results.collect::<Vec<_>>().join(" ")).unwrap();
        if response.effect != Effect::None {
            write!(line, " {:?}", response.effect).unwrap();
        }
    }
    let same = all.windows(2).all(|pair| pair[0] == pair[1]);
    all.iter().take(if same { 1 } else { all.len() }).for_each(|one| line.push_str(one));
    line
}

/// Numbers of functions: all 2^16, or in the ordinary run those around which somebody has some.
fn numbers() -> impl Iterator<Item = u32> {
    const ALL: u32 = bound(0x1_0000, 0x120, 0x60);
    let few = (0x3ff0..0x4000).chain(0x7ff0..0x8010).chain(0xff00..0x1_0000);
    (0..ALL).chain(few.filter(|number| *number >= ALL))
}

/// Every owner, fast and yielding, of 32 and 64 bits, every number: nothing is answered but what the list has, and that as the list
/// has it; what is answered at once is what a call gets.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn nothing_is_answered_but_what_the_reviewed_list_has() {
    let facts = facts();
    let (mut found, mut asked) = (String::new(), 0u64);
    for function in (0..=0xff).flat_map(|top| numbers().map(move |number| top << 24 | number)) {
        asked += 1;
        let response = ask(function, FIRST[0], &facts);
        if let Some(value) = answer(function) {
            assert_eq!(response.results(), [value], "{function:#x}");
            assert_eq!(response.effect, Effect::None, "{function:#x}");
        }
        let of_others = |first| !is_refused(&ask(function, first, &facts));
        if !is_refused(&response) || FIRST.into_iter().any(of_others) {
            writeln!(found, "{}", line(function, &facts)).unwrap();
        }
    }
    println!("{asked} identifiers");
    let (_, listed) = include_str!("golden.txt").split_once("\n\n").unwrap();
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        listed.lines().collect::<Vec<_>>(),
        "as found:\n{found}"
    );
}

/// Bits 16 to 23 are 0 in every call that there is ("Fast Calls", "Yielding Calls"): with any of them set nothing is answered.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn nothing_is_answered_where_bits_are_set_that_have_to_be_zero() {
    let facts = facts();
    for high in (1..0x100).step_by(bound(1, 51, 127)) {
        for top in 0..=0xff {
            let refused = numbers().all(|number| {
                let function = top << 24 | high << 16 | number;
                // A call that is answered at once is not asked further.
                answer(function) == Some(u64::MAX) || is_refused(&ask(function, 0, &facts))
            });
            assert!(refused, "{top:#x} {high:#x}");
        }
    }
}
