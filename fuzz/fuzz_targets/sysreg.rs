//! Any trapped accesses to system registers, decided and performed. A read is never answered with a
//! write's action or the other way round, EL0 never reaches a register of EL1.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::time::Ticks;
use plinth::vcpu::VcpuId;
use plinth::vgic::{GicVersion, Vgic};
use plinth::vm::debug::{DebugReg, DebugRegs};
use plinth::vm::idregs::{IdFacts, IdRegs};
use plinth::vm::ptimer::PhysicalTimer;
use plinth::vm::sysreg::{Access, Action, Direction, GuestLevel, SysReg, TrapFacts, decide, names};
use plinth_fuzz::gic;

#[derive(Debug)]
struct Step {
    access: Access,
    value: u64,
    count: u64,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let reg = match u.ratio(3, 4)? {
            true => u.choose(names::TABLE)?.0,
            false => SysReg::from_iss(u.arbitrary()?).0,
        };
        let access = Access {
            reg,
            direction: *u.choose(&[Direction::Read, Direction::Write])?,
            level: *u.choose(&[GuestLevel::El0, GuestLevel::El1])?,
        };
        Ok(Self { access, value: u.arbitrary()?, count: u.arbitrary()? })
    }
}

#[derive(Debug)]
struct Input {
    gic: GicVersion,
    ids: IdRegs,
    actlr: u64,
    steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let gic = gic(u)?;
        let facts = IdFacts { ipa_bits: u.int_in_range(32..=48)?, gicv3: gic == GicVersion::V3 };
        let raw: [u64; 8] = u.arbitrary()?;
        let ids = IdRegs::new(&facts, |reg| raw[usize::from(reg.bits() & 7)]);
        Ok(Self { gic, ids, actlr: u.arbitrary()?, steps: u.arbitrary()? })
    }
}

fuzz_target!(|input: Input| {
    let Input { gic, ids, actlr, steps } = input;
    let facts = TrapFacts { ids: &ids, actlr, gic };
    let mut vgic = Vgic::new(gic, 8);
    let mut debug = DebugRegs::default();
    let mut timer = PhysicalTimer::default();
    for Step { access, value, count } in steps {
        let action = decide(access, &facts);
        let read = access.direction == Direction::Read;
        if access.level == GuestLevel::El0 && access.reg.op1() != 3 {
            assert_eq!(action, Action::Undefined);
        }
        match action {
            Action::Read(_) | Action::ReadCounter => assert!(read),
            Action::Ignore | Action::SetWay(_) => assert!(!read),
            Action::Sgi(register) => {
                assert!(!read && gic == GicVersion::V3);
                let _ = vgic.send_sgi(VcpuId(0), register, value);
            }
            Action::PhysicalTimer(register) if read => {
                timer.read(register, Ticks(count));
            }
            Action::PhysicalTimer(register) => {
                timer.write(register, value, Ticks(count));
                if let Some(deadline) = timer.deadline(Ticks(count), 0) {
                    assert!(timer.output(deadline));
                    assert!(deadline >= Ticks(count));
                }
            }
            Action::Debug(register) if read => {
                debug.read(register);
            }
            Action::Debug(register) => {
                debug.write(register, value);
                let written = debug.read(DebugReg::Mdscr);
                assert_eq!(debug.mdscr_in_effect() & !written, 0);
            }
            Action::Undefined | Action::VmControl(_) => {}
        }
    }
});
