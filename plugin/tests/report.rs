//! What is written of a machine whose instructions are counted.

#[path = "../src/report.rs"]
mod report;
#[path = "../src/stretch.rs"]
mod stretch;

use report::{Now, Report};
use stretch::{Entry, KEPT, Stretches, Tally};

const IRQ: Entry = Entry { vector: 0x480, class: 0, detail: 0 };
const HVC: Entry = Entry { vector: 0x400, class: 0x16, detail: 0x8400_0000 };

#[test]
fn a_stretch_has_its_first_and_its_last_instruction() {
    let mut stretches = Stretches::default();
    stretches.begin(1, IRQ, 0x480, 1000);
    stretches.end(1, 0x5000, 1009, false);
    let longest: Vec<_> = stretches.longest().collect();
    let [(1, stretch)] = longest.as_slice() else { panic!("{longest:?}") };
    assert_eq!((stretch.length, stretch.start, stretch.end), (10, 0x480, 0x5000));
}

#[test]
fn a_look_for_interrupts_divides_a_stretch() {
    let mut stretches = Stretches::default();
    stretches.look(0, 0x300, 5);
    stretches.begin(0, IRQ, 0x480, 10);
    stretches.look(0, 0x500, 14);
    stretches.end(0, 0x600, 17, false);
    let all: Vec<_> = stretches.longest().map(|(_, it)| (it.length, it.entry.vector)).collect();
    assert_eq!(all, [(5, IRQ.vector), (3, Entry::LOOK)]);
}

#[test]
fn the_longest_are_kept_for_each_vcpu_and_all_are_added_up() {
    let mut stretches = Stretches::default();
    for length in [3, 9, 1, 7, 9, 5, 8, 2] {
        stretches.begin(0, HVC, 0x400, 100);
        stretches.end(0, 0x5000, 99 + length, false);
    }
    stretches.begin(1, HVC, 0x400, 0);
    stretches.end(1, 0x5000, 3, false);
    let lengths: Vec<_> = stretches.longest().map(|(vcpu, it)| (vcpu, it.length)).collect();
    assert_eq!(lengths, [(0, 9), (0, 8), (0, 7), (0, 5), (0, 3), (1, 4)]);
    assert_eq!(lengths.len(), KEPT + 1);
    let all = Tally { count: 9, instructions: 48, longest: 9 };
    assert_eq!(stretches.tallies.into_iter().collect::<Vec<_>>(), [(HVC, all)]);
}

#[test]
fn one_in_ten_thousand_is_longer_than_usual() {
    for (rare, usual) in [(1, 5), (2, 5), (3, 90)] {
        let mut stretches = Stretches::default();
        let lengths = (0..20_000).map(|at| if at < rare { 90 } else { 2 + at % 4 });
        for length in lengths {
            stretches.begin(0, HVC, 0x400, 100);
            stretches.end(0, 0x5000, 99 + length, false);
        }
        let reasons: Vec<_> = stretches.reasons().collect();
        assert_eq!(reasons, [(HVC.vector, HVC.class, [20_000, usual, 90])], "{rare}");
    }
}

#[test]
fn an_end_without_a_beginning_is_the_boots() {
    let mut stretches = Stretches::default();
    stretches.end(0, 0x5000, 70_000, true);
    assert!(stretches.waits(0));
    assert_eq!(stretches.longest().count(), 0);
    stretches.begin(0, Entry { vector: Entry::WAKE, ..IRQ }, 0x5004, 70_001);
    stretches.end(0, 0x6000, 70_001, false);
    assert!(!stretches.waits(0));
    assert_eq!(stretches.longest().count(), 1);
}

#[test]
fn a_report_tells_what_happened_and_how_many_markers_it_had_no_room_for() {
    let mut text = Vec::new();
    let mut report = Report::new(&mut text, 1).expect("memory takes it");
    let now = Now { all: [0, 0, 0, 4, 10, 0], own: [0, 0, 0, 3, 5, 0] };
    report.first("guest", 1, &now).expect("memory takes it");
    report.mark(0x70, 1, &now, 31).expect("memory takes it");
    report.mark(0x71, 1, &now, 32).expect("memory takes it");
    let mut stretches = Stretches::default();
    stretches.begin(0, HVC, 0x400, 0);
    stretches.end(0, 0x500, 1, false);
    report.end(&stretches, &[[0, 0, 0, 1, 6, 0], now.own]).expect("memory takes it");
    let text = String::from_utf8(text).expect("it is text");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "plinth-count version=1",
            "first-guest vcpu=1 all=0,0,0,4,10,0 own=0,0,0,3,5,0",
            "mark number=0x70 vcpu=1 all=0,0,0,4,10,0 own=0,0,0,3,5,0 exits=31",
            "stretch vcpu=0 length=2 start=0x400 end=0x500 vector=0x400 class=0x16 detail=0x84000000",
            "entry vector=0x400 class=0x16 detail=0x84000000 count=1 instructions=2 longest=2",
            "reason vector=0x400 class=0x16 detail=0x0 count=1 usual=2 longest=2",
            "vcpu number=0 own=0,0,0,1,6,0",
            "vcpu number=1 own=0,0,0,3,5,0",
            "end all=0,0,0,4,11,0 dropped=1",
        ]
    );
}
