//! vCPUs turn another one on while that turns itself off.

use plinth::host::allotment::Allotment;
use plinth::machine::fake::Op;
use plinth::vgic::GicVersion::V3;

use crate::code::{Code, DONE, done};
use crate::common::{CPU_ON, ENTRY, RAM, SECOND, THIRD, bundle, cpu_on, guest};
use crate::stage::{choose, explore, room, run_with};

const SCHEDULES: usize = 150;
/// How often each caller succeeds.
const TIMES: u64 = 2;
/// Where what the callers start begins, for each.
const STARTS: [u64; 2] = [THIRD, THIRD + 0x80];
/// The mark of one that was started otherwise than somebody has asked.
const WRONG: u64 = 666;

fn context(caller: u64, time: u64) -> u64 {
    0x100 + 0x10 * caller + time
}

#[test]
fn each_cpu_on_that_succeeds_is_one_start_with_what_its_caller_asked_for() {
    let bundle = bundle(&[guest("one", 3)]);
    explore(SCHEDULES, move || {
        let cpus = if choose(2) == 0 { 2 } else { 3 };
        let mut room = room(V3, cpus, &bundle, RAM + (256 << 10), Allotment::default());
        for (caller, entry) in (0..).zip([ENTRY, SECOND]) {
            let mut code = Code::at(entry);
            if caller == 0 {
                code = code.until_done(cpu_on(1, SECOND));
            }
            for time in 0..TIMES {
                let context = context(caller, time);
                let start = STARTS[usize::try_from(caller).unwrap()];
                code = code
                    .until_done(Op::Hvc([CPU_ON, 2, start, context]))
                    .then(&[Op::Mark(context)]);
            }
            let code = code.then(&done());
            room.program(0, code.parts().0, code.parts().1);
        }
        for (caller, start) in (0..).zip(STARTS) {
            let code = (0..TIMES).map(|time| context(caller, time)).fold(
                Code::at(start),
                |code, context| {
                    code.if_is(
                        0,
                        context,
                        &[Op::Mark(context), crate::common::psci(crate::common::CPU_OFF)],
                    )
                },
            );
            let code = code.then(&[Op::Mark(WRONG)]);
            room.program(0, code.parts().0, code.parts().1);
        }
        run_with(&mut room, Vec::new());
        assert!(room.hypervisor.has_finished(), "somebody waits for ever");
        let wanted: Vec<Vec<u64>> =
            (0..2).map(|caller| (0..TIMES).map(|time| context(caller, time)).collect()).collect();
        for (caller, wanted) in (0u8..).zip(&wanted) {
            let marks = [wanted.as_slice(), &[DONE]].concat();
            assert_eq!(room.marks(0, caller), marks, "caller {caller}");
        }
        let mut started = room.marks(0, 2);
        started.sort_unstable();
        assert_eq!(started, wanted.concat(), "each success is one start");
    });
}
