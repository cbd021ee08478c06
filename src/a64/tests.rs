//! What is decoded, against a disassembler; and what an address comes to.

use proptest::prelude::*;
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::{
    ARMv8, InstDecoder, Instruction, Operand, SIMDSizeCode, ShiftStyle, SizeCode,
};

use super::*;

/// What `yaxpeax-arm` makes of an instruction.
fn disassembled(instruction: u32) -> Option<Instruction> {
    let bytes = instruction.to_le_bytes();
    <InstDecoder as Decoder<ARMv8>>::decode(&InstDecoder::default(), &mut U8Reader::new(&bytes))
        .ok()
}

/// The same as a transfer, if it is a load or store of the kind that is decoded here.
fn expected(instruction: u32) -> Option<Transfer> {
    let Instruction { opcode, operands } = disassembled(instruction)?;
    let name = opcode.to_string();
    let store = name.starts_with("st");
    // What is behind `ldr`, `ldur`, `ldp` and `ldnp`: the width and the sign of what is loaded.
    let rest = name.strip_prefix("ld").or_else(|| name.strip_prefix("st"))?;
    let pair = ["np", "p"].iter().find_map(|prefix| rest.strip_prefix(prefix));
    let single = ["ur", "r"].iter().find_map(|prefix| rest.strip_prefix(prefix));
    let (suffix, registers) = match (pair, single) {
        (Some(suffix), _) => (suffix, 2),
        (_, Some(suffix)) => (suffix, 1),
        _ => return None,
    };
    let (general, scale) = match operands[0] {
        Operand::Register(SizeCode::X, _) => (Some(true), 3),
        Operand::Register(SizeCode::W, _) => (Some(false), 2),
        Operand::SIMDRegister(size, _) => (None, simd(size)),
        _ => return None,
    };
    let (scale, sign_extend) = match suffix {
        "" => (scale, false),
        "b" => (0, false),
        "h" => (1, false),
        "sb" => (0, true),
        "sh" => (1, true),
        "sw" => (2, true),
        _ => return None,
    };
    let bank = match general {
        Some(sixty_four) => Bank::General { sign_extend, sixty_four },
        None => Bank::Vector,
    };
    let number = |operand| match operand {
        Operand::Register(_, number) | Operand::SIMDRegister(_, number) => {
            u8::try_from(number).ok()
        }
        _ => None,
    };
    let (base, address) = match operands[registers] {
        Operand::RegPreIndex(base, by, true) => (base, Address::PreIndex(by.into())),
        Operand::RegPreIndex(base, by, false) => (base, Address::Offset(by.into())),
        Operand::RegPostIndex(base, by) => (base, Address::PostIndex(by.into())),
        Operand::RegRegOffset(base, index, _, style, shift) => {
            let extend = match style {
                ShiftStyle::UXTW => Extend::Uxtw,
                ShiftStyle::SXTW => Extend::Sxtw,
                ShiftStyle::LSL | ShiftStyle::SXTX | ShiftStyle::UXTX => Extend::Whole,
                // No such address is in the manual ("option").
                _ => return None,
            };
            let (index, shift) = (Gpr::new(index.into()), shift.into());
            (base, Address::Register { index, extend, shift })
        }
        _ => return None,
    };
    let second = if registers == 2 { Some(number(operands[1])?) } else { None };
    let first = number(operands[0])?;
    let transfer =
        Transfer { store, scale, bank, first, second, base: Gpr::new(base.into()), address };
    // What the manual leaves open, and the stack pointer.
    let writes_back = matches!(address, Address::PreIndex(_) | Address::PostIndex(_));
    let moved = [Some(first), second];
    let open = base == 31
        || general.is_some() && writes_back && moved.contains(&u8::try_from(base).ok())
        || registers == 2 && !store && moved[0] == moved[1];
    (!open).then_some(transfer)
}

fn simd(size: SIMDSizeCode) -> u32 {
    match size {
        SIMDSizeCode::B => 0,
        SIMDSizeCode::H => 1,
        SIMDSizeCode::S => 2,
        SIMDSizeCode::D => 3,
        SIMDSizeCode::Q => 4,
    }
}

fn same(instruction: u32) -> Result<(), TestCaseError> {
    let (found, expected) = (Transfer::decode(instruction), expected(instruction));
    let text = disassembled(instruction).map(|it| it.to_string());
    prop_assert_eq!(found, expected, "{:#010x} {:?}", instruction, text);
    Ok(())
}

#[test]
fn every_form_of_the_two_classes_is_what_a_disassembler_says() {
    // All but the fields of registers and immediates, which have few values here.
    let fixed = (0..1u32 << 11).step_by(crate::testing::pick(1, 7)).map(|high| high << 21);
    let (mut forms, mut decoded) = (0, 0);
    for high in fixed.filter(|high| matches!(high >> 27 & 0b111, 0b101 | 0b111)) {
        // Bits 20 to 10 hold what is fixed, immediates and a second register.
        for middle in (0..1u32 << 11).step_by(crate::testing::pick(1, 1999)) {
            let instruction = high | middle << 10 | 3 << 5 | 4;
            same(instruction).unwrap();
            forms += 1;
            decoded += u32::from(Transfer::decode(instruction).is_some());
        }
    }
    assert!(cfg!(miri) || decoded > forms / 4, "{decoded} of {forms}");
}

proptest! {
    #![proptest_config(crate::testing::cases(20_000, 4))]

    #[test]
    fn any_load_or_store_is_what_a_disassembler_says(any: u32, single: bool) {
        let class = if single { 0b111 } else { 0b101 };
        same(any & !(0b111 << 27) | class << 27)?;
    }

    #[test]
    fn any_instruction_is_decoded_as_such_or_not_at_all(instruction: u32) {
        same(instruction)?;
    }
}

/// One that moves `X4` by `X3`.
fn by(address: Address) -> Transfer {
    let bank = Bank::General { sign_extend: false, sixty_four: true };
    Transfer { store: true, scale: 3, bank, first: 4, second: None, base: Gpr::new(3), address }
}

#[test]
fn an_address_is_what_the_registers_make_it() {
    let registers = |gpr: Gpr| match gpr.index() {
        Some(3) => 0x1000,
        Some(5) => 0xffff_fff0_ffff_ffff,
        _ => 0,
    };
    let address = |address| by(address).address(registers);
    assert_eq!(address(Address::Offset(-8)), 0xff8);
    assert_eq!(address(Address::PreIndex(8)), 0x1008);
    assert_eq!(address(Address::PostIndex(8)), 0x1000);
    let indexed = |extend, shift| Address::Register { index: Gpr::new(5), extend, shift };
    assert_eq!(address(indexed(Extend::Uxtw, 0)), 0x1_0000_0fff);
    assert_eq!(address(indexed(Extend::Sxtw, 3)), 0xff8);
    assert_eq!(address(indexed(Extend::Whole, 0)), 0xffff_fff1_0000_0fff);
    let back = |address| by(address).write_back(registers);
    assert_eq!(back(Address::PreIndex(8)), Some(0x1008));
    assert_eq!(back(Address::PostIndex(-16)), Some(0xff0));
    assert_eq!(back(Address::Offset(8)), None);
}
