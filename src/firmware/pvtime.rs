//! Paravirtualised time: how long a vCPU could have run but did not (DEN0057A, "Paravirtualized Time for
//! Arm-based Systems").
//!
//! Only stolen time, of which the hypervisor keeps one structure for each vCPU; [`crate::vm::stolen`]
//! has the memory they lie in. Live physical time (`PV_TIME_LPT`) is not there.

use super::smccc::{Call, NOT_SUPPORTED, Response};
use crate::addr::Ipa;
use crate::vcpu::VcpuId;

/// `PV_TIME_FEATURES`.
pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// `PV_TIME_ST`.
pub const PV_TIME_ST: u32 = 0xc500_0021;

/// The size of a stolen time structure, and its alignment ("Stolen time").
pub const STRUCTURE_SIZE: u64 = 64;
/// Where in the structure the stolen time is: nanoseconds, 64 bits, little-endian. Revision and
/// attributes come before it, 32 bits each, both 0.
pub const STOLEN_TIME: u64 = 8;

/// Answers the call if it is one of these. `structures` is where vCPU 0's structure lies in guest memory;
/// those of the others follow.
pub fn call(call: &Call, caller: VcpuId, structures: Ipa) -> Option<Response> {
    Some(match call.function.0 {
        PV_TIME_FEATURES => match call.first_word() {
            PV_TIME_FEATURES | PV_TIME_ST => Response::value(0),
            _ => Response::code(NOT_SUPPORTED),
        },
        PV_TIME_ST => match structures.checked_add(u64::from(caller.0) * STRUCTURE_SIZE) {
            Some(own) => Response::value(own.raw()),
            None => Response::code(NOT_SUPPORTED),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x090a_0000;

    fn ask(function: u32, argument: u64, caller: u8) -> Option<Vec<u64>> {
        let registers = [function.into(), argument, 0, 0, 0, 0, 0, 0];
        let response = call(&Call::new(&registers), VcpuId(caller), Ipa::new(PAGE))?;
        Some(response.results().to_vec())
    }

    #[test]
    fn each_vcpu_is_told_where_its_own_structure_is() {
        for vcpu in 0..8 {
            let own = PAGE + 64 * u64::from(vcpu);
            assert_eq!(ask(0xc500_0021, 0, vcpu), Some(vec![own]));
        }
    }

    #[test]
    fn stolen_time_is_offered_and_live_physical_time_is_not() {
        const UNKNOWN: u64 = u64::MAX;
        let features = |function| ask(0xc500_0020, function, 0);
        assert_eq!(features(0xc500_0020), Some(vec![0]));
        assert_eq!(features(0xc500_0021), Some(vec![0]));
        assert_eq!(features(0xffff_ffff_c500_0021), Some(vec![0]));
        for function in [0xc500_0022, 0xc500_0000, 0x8500_0021, 0x8400_0000, 0] {
            assert_eq!(features(function), Some(vec![UNKNOWN]), "{function:#x}");
        }
    }

    #[test]
    fn no_other_function_is_answered() {
        // Not those with 32-bit arguments either: DEN0057 has none.
        for function in [0x8500_0020, 0x8500_0021, 0xc500_0022, 0xc500_0000, 0x8400_0000] {
            assert_eq!(ask(function, 0, 0), None, "{function:#x}");
        }
    }
}
