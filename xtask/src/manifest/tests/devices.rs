//! Ports, agents and sockets.

use plinth::manifest::{Keys, Rights, Shutdown, VsockConfig};

use super::{good, guest, mistake, mistakes, vm};

#[test]
fn ports_are_joined_by_their_names_and_keys_are_one_devices() {
    let two = |first: &str, second: &str| {
        format!(
            "[[vm]]\nname = \"a\"\nkernel = \"k\"\nports = [{first}]\n\
             [[vm]]\nname = \"b\"\nkernel = \"k\"\nports = [{second}]\nkeys = \"virtio\"\n"
        )
    };
    let (to_b, to_a) = ("{ name = \"x\", to = \"b\" }", "{ name = \"x\", to = \"a\" }");
    let draft = good(&two(to_b, to_a));
    let guests: Vec<_> = draft.entries.iter().map(|entry| &entry.guest).collect();
    assert_eq!((guests[0].ports[0].name.as_str(), guests[0].ports[0].to.as_str()), ("x", "b"));
    assert_eq!((guests[0].keys, guests[1].keys), (Keys::Uart, Keys::Virtio));
    let loose =
        "4:9: vm 1, ports: `x` leads to `b`, which has no port { name = \"x\", to = \"a\" }";
    assert_eq!(mistakes(&two(to_b, "")), [loose]);
    for (ports, said) in [
        ("3", "vm 1, ports: 3 will not do; want a table as in { name"),
        ("{ name = \"a b\", to = \"b\" }", "vm 1, ports.name: a port's name has 1 to 64 printable"),
        (
            "{ name = \"org.plinth.agent.0\", to = \"b\" }",
            "vm 1, ports.name: `org.plinth.agent.0` is the port of the guest's agent; say `agent = true` for it",
        ),
        ("{ nam = \"x\", to = \"b\" }", "vm 1, ports.nam: unknown field; did you mean `name`?"),
        ("{ name = \"x\" }", "vm 1, ports.to: the field is missing"),
    ] {
        let found = mistakes(&two(ports, ""));
        assert!(found.iter().any(|one| one.contains(said)), "{ports}: {found:?}");
    }
    let twice = mistakes(&two(&format!("{to_b}, {to_b}"), to_a)).concat();
    assert!(twice.contains("vm 1, ports: `x` is the name of port 1 already"), "{twice}");
    assert!(mistake("keys = \"both\"").contains("want \"uart\" or \"virtio\""));
}

#[test]
fn an_agent_is_had_by_saying_so() {
    assert!(guest("agent = true").agent && !guest("").agent);
    assert!(
        mistake("agent = \"yes\"").contains("vm 1, agent: `yes` will not do; want true or false")
    );
    assert_eq!(guest("shutdown = \"agent\"\nagent = true").shutdown, Shutdown::Agent);
    let without = &good(&vm("shutdown = \"agent\"")).entries[0];
    let problems = crate::guest::look_over(&without.guest);
    let why = problems.iter().map(|one| without.mistake(one).text).collect::<Vec<_>>().concat();
    assert!(
        why.contains("vm 1, shutdown: by its agent, and it has none; say `agent = true`"),
        "{why}"
    );
}

#[test]
fn a_socket_device_has_the_guests_number_and_no_rights_unless_its_manifest_says_so() {
    let three = |fields: [&str; 3]| {
        let vm = |field| format!("[[vm]]\nkernel = \"k\"\nname = \"NAME\"\n{field}\n");
        let vms = fields.into_iter().zip(["a", "b", "c"]);
        vms.map(|(field, name)| vm(field).replace("NAME", name)).collect::<String>()
    };
    let table = "vsock = { cid = 0x11, monitor = \"control\", group = \"talk\" }";
    let draft = good(&three(["vsock = true", table, "vsock = false"]));
    let found: Vec<_> = draft.entries.iter().map(|entry| entry.guest.vsock.clone()).collect();
    let control = VsockConfig { cid: 17, monitor: Rights::Control, group: Some("talk".into()) };
    assert_eq!(found, [Some(VsockConfig::new(3)), Some(control), None]);
    let found = mistakes(&three(["vsock = { cid = 5 }", "vsock = { cid = 2 }", "vsock = true"]));
    assert_eq!(
        found,
        [
            "8:17: vm 2, vsock.cid: 2 will not do; want a whole number from 3 to 4294967294",
            "12:9: vm 3, vsock: the CID 5 is that of vm 1; give one another",
        ]
    );
    for (value, said) in [
        ("3", "vsock: 3 will not do; want true, or a table as in { monitor = \"read\""),
        ("{ group = \"a b\" }", "vsock.group: a name has 1 to 32 printable ASCII characters"),
        ("{ cid = 4294967295 }", "vsock.cid: 4294967295 will not do; want a whole number from 3"),
        ("{ monitor = \"all\" }", "want \"none\" or \"read\" or \"control\""),
        ("{ monitr = \"read\" }", "vsock.monitr: unknown field; did you mean `monitor`?"),
    ] {
        let found = mistake(&format!("vsock = {value}"));
        assert!(found.contains(said), "{value}: {found}");
    }
}
