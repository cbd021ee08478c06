//! Every syndrome of a data or instruction abort, against the manual's table of its fields.

use super::*;
use crate::testing::bound;

/// What a fault status code says (Arm ARM, "ISS encoding for an exception from a Data Abort", `DFSC`), by its number:
/// `A`, an address size, translation or access flag fault, of which `HPFAR_EL2` has the address; `P`, a permission
/// fault, of which it has it on a walk of the guest's only; `E`, an external abort, and parity and ECC errors, or what is
/// reserved among those; `-`, what is neither (alignment, TLB conflict, unsupported accesses), or reserved.
const STATUS: &[u8; 64] = b"AAAAAAAAAAAAPPPPEEEEEEEEEEEEEEEE--------------------------------";

const FAR: u64 = 0xffff_8000_1234_5abc;
const HPFAR: u64 = 0x0000_0987_6543_21f0;
/// `FIPA` from bit 12 on, and the byte in the page.
const FAULT: Ipa = Ipa::new(0x0009_8765_4321_fabc);

/// The number in bits `high` to `low`.
fn field(iss: u32, high: u32, low: u32) -> u32 {
    (0..=high - low).map(|bit| (iss >> (low + bit) & 1) << bit).sum()
}

/// What the manual says of a data abort's syndrome.
fn data(iss: u32) -> Exit {
    let has = |bit| field(iss, bit, bit) == 1;
    let (described, unknown_far, maintenance, walk, write) =
        (has(24), has(10), has(8), has(7), has(6));
    let status = STATUS[field(iss, 5, 0) as usize];
    let ipa = match status {
        b'A' => Some(FAULT),
        b'P' if walk => Some(FAULT),
        _ => None,
    };
    let source = if maintenance { FaultSource::Maintenance } else { FaultSource::Data { write } };
    let fault = StageTwoFault { ipa, far: Some(FAR), source, walk };
    match (status, ipa) {
        (b'E', _) => {
            Exit::ExternalAbort(StageTwoFault { far: (!unknown_far).then_some(FAR), ..fault })
        }
        (_, Some(ipa)) if described && !maintenance && !walk => Exit::Mmio(MmioAccess {
            ipa,
            far: FAR,
            width: [Width::Byte, Width::Half, Width::Word, Width::Double]
                [field(iss, 23, 22) as usize],
            direction: match write {
                true => Direction::Write,
                false => Direction::Read { sign_extend: has(21), sixty_four: has(15) },
            },
            gpr: Gpr(u8::try_from(field(iss, 20, 16)).unwrap()),
            swapped: false,
        }),
        _ => Exit::Fault(fault),
    }
}

/// What it says of an instruction abort's, which has fewer fields.
fn instruction(iss: u32) -> Exit {
    let (source, walk) = (FaultSource::Fetch, field(iss, 7, 7) == 1);
    let status = STATUS[field(iss, 5, 0) as usize];
    let ipa = (status == b'A' || status == b'P' && walk).then_some(FAULT);
    let fault = StageTwoFault { ipa, far: Some(FAR), source, walk };
    if status == b'E' {
        let far = (field(iss, 10, 10) == 0).then_some(FAR);
        return Exit::ExternalAbort(StageTwoFault { far, ..fault });
    }
    Exit::Fault(fault)
}

#[test]
fn every_syndrome_of_an_abort_is_decoded_as_the_manual_says() {
    for iss in (0..1 << 25).step_by(bound(1, 37, 4099)) {
        let syndrome = u64::from(iss) | 1 << 25;
        let exit = Exit::decode(0x24 << 26 | syndrome, || (FAR, HPFAR));
        assert_eq!(exit, data(iss), "{iss:#x}");
        let exit = Exit::decode(0x20 << 26 | syndrome, || (FAR, HPFAR));
        assert_eq!(exit, instruction(iss), "{iss:#x}");
    }
}

/// A load's register, and a store's value, for every width, extension and byte order, against arithmetic without bits.
#[test]
fn what_a_load_leaves_is_what_the_instruction_says_for_every_form() {
    let values = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        1 << 63,
        u64::MAX,
        0x8192_a3b4_c5d6_e7f8,
    ];
    for iss in
        (0..1u32 << 25).step_by(1 << 15).filter(|iss| iss >> 24 == 1).map(|iss| iss | 0b000111)
    {
        let Exit::Mmio(access) = Exit::decode(0x24 << 26 | u64::from(iss), || (FAR, HPFAR)) else {
            panic!("{iss:#x}")
        };
        let Direction::Read { sign_extend, sixty_four } = access.direction else {
            panic!("{iss:#x}")
        };
        let bytes = 1usize << field(iss, 23, 22);
        for value in values {
            for swapped in [false, true] {
                let mut moved = value.to_le_bytes()[..bytes].to_vec();
                if swapped {
                    moved.reverse();
                }
                let negative = sign_extend && moved[bytes - 1] >= 0x80;
                moved.resize(8, if negative { 0xff } else { 0 });
                if !sixty_four {
                    moved.splice(4.., [0; 4]);
                }
                let register = u64::from_le_bytes(moved.try_into().unwrap());
                assert_eq!(
                    MmioAccess { swapped, ..access }.extend(value),
                    register,
                    "{iss:#x} {value:#x} {swapped}"
                );
            }
        }
        assert_eq!(
            access.gpr.index(),
            Some(field(iss, 20, 16) as usize).filter(|number| *number < 31)
        );
    }
}
