//! Socket devices that cannot be: each mistake on its way out and on its way in.

use super::networks::said;
use super::*;

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
    for cid in [0, 1, 2, u32::MAX] {
        assert!(mistake(&[7, cid]).is_some_and(|text| text.contains(&format!("the CID {cid};"))));
    }
    assert_eq!(mistake(&[3, u32::MAX - 1]), None);
}

#[test]
fn each_cid_is_given_once() {
    let text = mistake(&[3, 9, 3]).unwrap();
    assert_eq!(text, "VM 3 (\"c\"): the CID 3 is that of VM 1; give it another");
}
