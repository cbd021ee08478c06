//! Any syndrome decodes, and an access that a device may answer is one the syndrome describes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth::exit::{Direction, Exit};
use plinth::vm::sysreg::SysReg;

fuzz_target!(|input: (u64, u64, u64, u64)| {
    let (esr, far, hpfar, value) = input;
    match Exit::decode(esr, || (far, hpfar)) {
        Exit::Mmio(access) => {
            assert_eq!((esr >> 26 & 0x3f, esr >> 24 & 1), (0x24, 1));
            assert_eq!(access.ipa.raw() & 0xfff, far & 0xfff);
            assert!(access.ipa.raw() < 1 << 52);
            assert!(access.gpr.index().is_none_or(|index| index < 31));
            let register = access.extend(value);
            if let Direction::Read { sixty_four, .. } = access.direction {
                assert_eq!(register & access.width.mask(), value & access.width.mask() & register);
                assert!(sixty_four || register <= u64::from(u32::MAX));
            }
        }
        Exit::Fault(fault) | Exit::ExternalAbort(fault) => {
            assert!(matches!(esr >> 26 & 0x3f, 0x20 | 0x24));
            assert!(fault.ipa.is_none_or(|ipa| ipa.raw() < 1 << 52));
        }
        Exit::Sysreg { iss } => {
            let (reg, _, rt) = SysReg::from_iss(iss);
            assert!(rt < 32 && !format!("{reg}").is_empty());
        }
        _ => {}
    }
});
