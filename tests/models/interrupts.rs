//! vCPUs interrupt each other, and a device interrupts one, while they come from one CPU to another.

use plinth::exit::Width;
use plinth::host::allotment::Allotment;
use plinth::machine::CpuId;
use plinth::machine::fake::Op;
use plinth::sched::VmId;
use plinth::sched::policy::{CpuSet, Policy};
use plinth::vgic::GicVersion;

use crate::code::{Code, DONE, done, handler, store};
use crate::common::{ENTRY, RAM, SECOND, THIRD, bundle, cpu_on, gicd, guest, prologue, sgi};
use crate::stage::{Act, Actor, choose, explore, interrupt, room, run_with};

const SCHEDULES: usize = 100;
const UARTDR: u64 = 0x0900_0000;
/// The UART's interrupt.
const UART: u64 = 33;
/// How often the token goes round.
const ROUNDS: u64 = 2;
/// The SGI that goes to two vCPUs at once.
const BOTH: u64 = 14;
/// What the token was when it came last, and the last byte that came.
const TOKEN: u8 = 20;
const CALLED: u8 = 21;
const BYTE: u8 = 22;

/// The SGI by which the token comes to a vCPU.
fn token(round: u64, vcpu: u64) -> u64 {
    1 + 3 * round + vcpu
}

/// The number that an SGI is taken with.
fn taken(gic: GicVersion, from: u64, intid: u64) -> u64 {
    if gic == GicVersion::V2 { from << 10 | intid } else { intid }
}

/// What each vCPU does: the token goes from one to the next.
fn code(gic: GicVersion, vcpu: u64) -> Code {
    let entry = [ENTRY, SECOND, THIRD][usize::try_from(vcpu).unwrap()];
    let next = (vcpu + 1) % 3;
    let mut code = Code::at(entry).then(&prologue(gic, u8::try_from(vcpu).unwrap()));
    if vcpu == 0 {
        code = code.then(&[
            store(gicd(0x104), 1 << (UART - 32)),
            store(gicd(0x820), 0x0101_0101),
            store(UARTDR + 0x30, 0x301),
            store(UARTDR + 0x38, 1 << 4 | 1 << 6),
            cpu_on(1, SECOND),
            cpu_on(2, THIRD),
        ]);
    }
    for round in 0..ROUNDS {
        if vcpu > 0 {
            code = code.wait_for(TOKEN, token(round, vcpu));
        } else if round > 0 {
            code = code.then(&[sgi(gic, BOTH, 0b110)]);
        }
        let after = if next == 0 { token(round, 0) } else { token(round, next) };
        code = code.then(&[sgi(gic, after, 1 << next)]);
        if vcpu == 0 {
            code = code.wait_for(TOKEN, token(round, 0));
        }
    }
    let code = match vcpu {
        0 => code.wait_for(BYTE, u64::from(b'b')),
        _ => code.wait_for(CALLED, BOTH),
    };
    code.then(&done())
}

fn cases(gic: GicVersion) -> Vec<(u64, Op)> {
    let mut cases = vec![
        (UART, Op::Load(UARTDR, Width::Byte, BYTE)),
        (taken(gic, 0, BOTH), Op::Mov(CALLED, BOTH)),
    ];
    for round in 0..ROUNDS {
        for vcpu in 0..3 {
            let token = token(round, vcpu);
            cases.push((taken(gic, (vcpu + 2) % 3, token), Op::Mov(TOKEN, token)));
        }
    }
    cases
}

/// Bytes come by the serial line.
fn types(actor: &Actor, line: &plinth::device::serial::ScriptedLine, cpus: u64) {
    for byte in *b"ab" {
        actor.wait(choose(400));
        line.type_in(&[byte]);
        interrupt(actor.world(), choose(cpus), |hypervisor, machine| {
            use plinth::machine::Machine;
            let vm = hypervisor.vm(VmId(0)).unwrap();
            let notify = vm.serial_input(machine.now());
            hypervisor.notify(machine, &vm, notify);
        });
    }
}

/// Somebody wants the VM to be on one CPU, on another, and on any.
fn moves(actor: &Actor, cpus: u64) {
    for affinity in [CpuSet::EMPTY.with(CpuId(0)), CpuSet::EMPTY.with(CpuId(1)), CpuSet::ALL] {
        actor.wait(choose(400));
        interrupt(actor.world(), choose(cpus), move |hypervisor, machine| {
            let policy = Policy { affinity, ..Policy::default() };
            hypervisor.set_policy(machine, VmId(0), policy).unwrap();
        });
    }
}

fn no_interrupt_is_lost_or_doubled(gic: GicVersion) {
    let bundle = bundle(&[guest("one", 3)]);
    explore(SCHEDULES, move || {
        let cpus = 2;
        let mut room = room(gic, cpus, &bundle, RAM + (256 << 10), Allotment::default());
        let handler = handler(&cases(gic));
        for code in (0..3).map(|vcpu| code(gic, vcpu)).chain([handler]) {
            room.program(0, code.parts().0, code.parts().1);
        }
        let line = room.lines[0].clone();
        let acts: Vec<Act> = vec![
            Box::new(move |actor| types(actor, &line, cpus.into())),
            Box::new(move |actor| moves(actor, cpus.into())),
        ];
        run_with(&mut room, acts);
        for vcpu in 0..3 {
            assert_eq!(
                room.marks(0, vcpu),
                [DONE],
                "vCPU {vcpu} waits for ever: {:?}",
                room.took(0, vcpu)
            );
            let tokens = (0..ROUNDS).map(|round| token(round, vcpu.into()));
            let mut wanted: Vec<_> = tokens.map(|token| u16::try_from(token).unwrap()).collect();
            let mut took = room.took(0, vcpu);
            if vcpu > 0 {
                wanted.push(u16::try_from(BOTH).unwrap());
            } else {
                // One for each byte, or one for both.
                took.retain(|intid| u64::from(*intid) != UART);
            }
            took.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(took, wanted, "vCPU {vcpu} takes each once");
        }
        assert!(room.hypervisor.has_finished());
    });
}

#[test]
fn no_interrupt_is_lost_or_doubled_by_list_registers_of_version_2() {
    no_interrupt_is_lost_or_doubled(GicVersion::V2);
}

#[test]
fn no_interrupt_is_lost_or_doubled_by_list_registers_of_version_3() {
    no_interrupt_is_lost_or_doubled(GicVersion::V3);
}
