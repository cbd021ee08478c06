//! What holds for guests that do not say otherwise.

use plinth::addr::Ipa;
use plinth::manifest::{Devices, MachineConfig, OnBadAccess, OnCrash, OnReboot, Shutdown};
use plinth::sched::policy::{Class, CpuSet, Wfi};

use super::{cpus, good, mistakes, vm};

#[test]
fn what_is_left_out_has_a_default() {
    let draft = good(&vm(""));
    let guest = &draft.entries[0].guest;
    assert_eq!((guest.memory, guest.vcpus), (512 << 20, 1));
    assert_eq!(guest.policy.class, Class::Fair { weight: 100, cap: None });
    assert_eq!((guest.policy.affinity, guest.devices), (CpuSet::ALL, Devices::RTC));
    assert_eq!((guest.on_crash, guest.on_reboot), (OnCrash::Preserve, OnReboot::Restart));
    assert_eq!((guest.policy.wfi, &guest.shutdown), (Wfi::Auto, &Shutdown::Button));
    assert_eq!(guest.on_bad_access, OnBadAccess::Abort);
    assert!(guest.autostart && guest.ram_base == Ipa::new(0x4000_0000));
    assert_eq!(draft.machine, MachineConfig::default());
}

#[test]
fn defaults_hold_for_every_guest_that_does_not_say_otherwise() {
    let text = "[machine.defaults]\nmemory = \"64M\"\nvcpus = 2\nweight = 200\non_crash = \"destroy\"\n\
                autostart = false\ncpus = [1]\nwfi = \"trap\"\n";
    let text = format!(
        "{text}{}{}",
        vm("vcpus = 3\ncap = 250"),
        vm("reservation = { budget = \"500us\", period = \"1s\" }\nautostart = true\nwfi = \"auto\"")
            .replace("\"a\"", "\"b\"")
    );
    let draft = good(&text);
    let [first, second] = draft.entries.as_slice() else { panic!("two guests") };
    let (first, second) = (&first.guest, &second.guest);
    assert_eq!((first.memory, first.vcpus, first.autostart), (64 << 20, 3, false));
    assert_eq!(first.policy.class, Class::Fair { weight: 200, cap: Some(250) });
    assert_eq!((first.on_crash, first.policy.affinity), (OnCrash::Destroy, cpus(&[1])));
    assert_eq!((second.vcpus, second.autostart), (2, true));
    assert_eq!((first.policy.wfi, second.policy.wfi), (Wfi::Trap, Wfi::Auto));
    assert_eq!(second.policy.class, Class::Reserved { budget: 500, period: 1_000_000 });
}

#[test]
fn a_guests_weight_replaces_a_reservation_of_the_defaults() {
    let defaults = "[machine.defaults]\nreservation = { budget = \"1ms\", period = \"10ms\" }\n";
    let draft = good(&format!("{defaults}{}", vm("weight = 5")));
    assert_eq!(draft.entries[0].guest.policy.class, Class::Fair { weight: 5, cap: None });
}

#[test]
fn a_mistake_in_the_defaults_is_told_once_and_where_it_is() {
    let text = format!("[machine.defaults]\nvcpus = 9\n{}", [vm(""), vm("")].concat());
    let text = text.replacen("\"a\"", "\"b\"", 1);
    assert_eq!(
        mistakes(&text),
        ["2:9: machine.defaults, vcpus: 9 will not do; want a whole number from 1 to 8"]
    );
    let text = "[machine.defaults]\nkernel = \"k\"\n";
    assert!(
        mistakes(&format!("{text}{}", vm("")))[0].starts_with("2:1: machine.defaults, kernel: ")
    );
}

#[test]
fn a_problem_with_a_default_is_told_where_the_default_is() {
    let text = format!("[machine.defaults]\ncap = 200\n{}", vm("vcpus = 1"));
    let found = mistakes(&text);
    assert!(found[0].starts_with("2:7: vm 1, cap: 200 % is more than 1 vCPUs"), "{found:?}");
}
