//! Socket devices that cannot be: each mistake on its way out and on its way in.

use super::networks::said;
use super::*;
use crate::testing::some;

fn with_cid(name: &str, cid: u32) -> VmConfig {
    VmConfig { vsock: Some(VsockConfig::new(cid)), ..config(name) }
}

fn mistake(cids: &[u32]) -> Option<String> {
    let named = cids.iter().zip(["a", "b", "c"]);
    let vms: Vec<_> = named.map(|(cid, name)| with_cid(name, *cid)).collect();
    said(&[], &vms).map(|error| error.to_string())
}

#[test]
fn cids_that_are_kept_for_others_are_refused() {
    for cid in some([0, 1, 2, u32::MAX]) {
        assert!(mistake(&[7, cid]).is_some_and(|text| text.contains(&format!("the CID {cid};"))));
    }
    assert_eq!(mistake(&[3, u32::MAX - 1]), None);
}

#[test]
fn each_cid_is_given_once() {
    let text = mistake(&[3, 9, 3]).unwrap();
    assert_eq!(text, "VM 3 (\"c\"): the CID 3 is that of VM 1; give it another");
}

#[test]
fn a_groups_name_is_one_that_a_network_could_have() {
    let said_of = |name: &str| {
        let group = Some(name.to_owned());
        let vsock = Some(VsockConfig { group, ..VsockConfig::new(3) });
        said(&[], &[VmConfig { vsock, ..config("a") }]).map(|error| error.to_string())
    };
    assert_eq!(said_of("talk"), None);
    for name in some(["", "a b", "a=b", &"n".repeat(33)]) {
        assert!(said_of(name).is_some_and(|text| text.contains("its group's name will not do")));
    }
}
