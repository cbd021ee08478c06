//! Ports that cannot be: each mistake on its way out and on its way in.

use super::networks::said;
use super::*;
use crate::testing::some;

fn with_ports(name: &str, ports: &[(&str, &str)]) -> VmConfig {
    let port = |(name, to): &(&str, &str)| ConsolePort { name: (*name).into(), to: (*to).into() };
    VmConfig { ports: ports.iter().map(port).collect(), ..config(name) }
}

fn mistake(vms: &[VmConfig]) -> Option<String> {
    said(&[], vms).map(|error| error.to_string())
}

#[test]
fn ports_that_lead_to_each_other_are_good() {
    let vms = [
        with_ports("a", &[("x", "b"), ("y", "c")]),
        with_ports("b", &[("x", "a")]),
        with_ports("c", &[("y", "a")]),
    ];
    assert_eq!(mistake(&vms), None);
}

#[test]
fn a_port_whose_other_end_is_not_there_is_refused() {
    let loose = |vms: &[VmConfig]| mistake(vms).is_some_and(|text| text.contains("leads back"));
    assert!(loose(&[with_ports("a", &[("x", "b")])]));
    assert!(loose(&[with_ports("a", &[("x", "a")])]));
    assert!(loose(&[with_ports("a", &[("x", "b")]), with_ports("b", &[])]));
    assert!(loose(&[with_ports("a", &[("x", "b")]), with_ports("b", &[("y", "a")])]));
    let third = [
        with_ports("a", &[("x", "b")]),
        with_ports("b", &[("x", "c")]),
        with_ports("c", &[("x", "b")]),
    ];
    assert!(loose(&third));
}

#[test]
fn the_agents_port_is_had_by_saying_so_and_who_is_stopped_by_it_has_one() {
    let name = "org.plinth.agent.0";
    let both = [with_ports("a", &[(name, "b")]), with_ports("b", &[(name, "a")])];
    assert!(mistake(&both).is_some_and(|text| text.contains("say `agent = true`")));
    let vm = |agent, shutdown| [VmConfig { agent, shutdown, ..config("a") }];
    let none = mistake(&vm(false, Shutdown::Agent)).unwrap();
    assert!(none.contains("VM 1 (\"a\"): its shutdown is by its agent"), "{none}");
    assert_eq!(mistake(&vm(true, Shutdown::Agent)), None);
    assert_eq!(mistake(&vm(true, Shutdown::Button)), None);
}

#[test]
fn names_are_few_printable_and_given_once() {
    let both = |name: &str| [with_ports("a", &[(name, "b")]), with_ports("b", &[(name, "a")])];
    for name in some(["", "a b", "a/b", "\u{e4}", &"n".repeat(65)]) {
        assert!(mistake(&both(name)).is_some_and(|text| text.contains("port 1: its name")));
    }
    assert_eq!(mistake(&both(&"n".repeat(64))), None);
    let twice = [with_ports("a", &[("x", "b"), ("x", "b")]), with_ports("b", &[("x", "a")])];
    assert!(mistake(&twice).is_some_and(|text| text.contains("port 2 has the name of port 1")));
    let names: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    let many = |to| names.iter().map(|name| (name.as_str(), to)).collect::<Vec<_>>();
    let many = [with_ports("a", &many("b")), with_ports("b", &many("a"))];
    assert!(mistake(&many).is_some_and(|text| text.contains("9 ports, at most 8")));
}
