//! Any SMCCC calls by any vCPUs of a VM. Power states change only as the answer says, and a vCPU is
//! never started outside RAM.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::Ipa;
use plinth::firmware::psci::Power;
use plinth::firmware::smccc::{Effect, Facts, Mitigation, Mitigations, call};
use plinth::vcpu::VcpuId;
use plinth_fuzz::{RAM, often, ram};

#[derive(Debug)]
struct Step {
    caller: u8,
    registers: [u64; 8],
    entropy: bool,
    /// The vCPU that starts afterwards, if it has been turned on.
    starts: u8,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut registers: [u64; 8] = u.arbitrary()?;
        let owner = often(u, &[0x84, 0xc4, 0xc5, 0x80, 0xc0, 0x86, 0xc6])?;
        registers[0] = match u.ratio(7, 8)? {
            true => owner << 24 | u64::from(*u.choose(&[0u16, 0x50, 0x3ff0, 0x8000, 0xff00])?),
            false => u.arbitrary()?,
        };
        registers[0] = registers[0].wrapping_add(u64::from(u.arbitrary::<u8>()? & 0x1f));
        registers[1] = often(u, &[0, 1, 2, 3, 7, 8, 0x8400_0003, 0x8000_8000])?;
        registers[2] = often(u, &[0, 1, RAM, RAM + 2, RAM + 0x8_0000])?;
        Ok(Self {
            caller: u.arbitrary()?,
            registers,
            entropy: u.arbitrary()?,
            starts: u.arbitrary()?,
        })
    }
}

#[derive(Debug)]
struct Machine(Facts);

impl<'a> Arbitrary<'a> for Machine {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const ALL: [Mitigation; 3] =
            [Mitigation::Unknown, Mitigation::NotNeeded, Mitigation::Firmware];
        let mitigations = Mitigations {
            branch_target: *u.choose(&ALL)?,
            store_bypass_not_needed: u.arbitrary()?,
            branch_history: *u.choose(&ALL)?,
        };
        Ok(Self(Facts { ram: ram(u)?, stolen_time: Ipa::new(u.arbitrary()?), mitigations }))
    }
}

fuzz_target!(|input: (Machine, u8, Vec<Step>)| {
    let (Machine(facts), vcpus, steps) = input;
    let mut power = vec![Power::Off; usize::from(vcpus % 9)];
    power.iter_mut().take(1).for_each(|boot| *boot = Power::On);
    for Step { caller, registers, entropy, starts } in steps {
        let before = power.clone();
        let response = call(&registers, VcpuId(caller), &mut power, &facts, &mut |_| entropy);
        assert!(response.results().len() <= 4);
        let changed: Vec<usize> = (0..power.len()).filter(|&n| power[n] != before[n]).collect();
        match response.effect {
            Effect::CpuOn { target } => {
                assert_eq!(changed, [target.index()]);
                assert_eq!(before[target.index()], Power::Off);
                assert_eq!(response.results(), [0]);
            }
            Effect::CpuOff => {
                assert_eq!(power.get(usize::from(caller)), Some(&Power::Off));
                assert!(changed.iter().all(|&n| n == usize::from(caller)));
                assert!(response.results().is_empty());
            }
            Effect::SystemOff | Effect::SystemReset => {
                assert!(changed.is_empty() && response.results().is_empty());
            }
            Effect::None | Effect::Suspend => {
                assert!(changed.is_empty() && !response.results().is_empty());
            }
        }
        if let Some(start) = power.get_mut(usize::from(starts)).and_then(Power::take_start) {
            assert!(start.entry.is_aligned(4) && facts.ram.contains_bytes(start.entry, 4));
            assert!(start.entry >= Ipa::new(RAM));
        }
    }
});
