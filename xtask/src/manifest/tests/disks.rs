//! Disks, the machine's and those in memory.

use std::path::PathBuf;

use plinth::manifest::{DiskConfig, DiskContents, DiskName, DiskPart, HostDiskConfig};

use super::{guest, mistake, mistakes};
use crate::source::Source;

#[test]
fn disks_are_read_with_their_defaults_and_images_are_relative_to_the_file() {
    let disks = guest(
        "disks = [ { image = \"a.qcow2\" }, { image = \"/b\", read_only = true }, \
         { size = \"128M\", space = \"8K\", serial = \"log\" } ]",
    )
    .disks;
    let image = |path: &str| DiskContents::Image(Source::Disk(PathBuf::from(path)));
    let disk = |contents, space, read_only, serial: &str| DiskConfig {
        contents,
        space,
        read_only,
        serial: serial.to_owned(),
    };
    let wanted = [
        disk(image("/base/a.qcow2"), None, false, "disk0"),
        disk(image("/b"), None, true, "disk1"),
        disk(DiskContents::Empty(128 << 20), Some(8192), false, "log"),
    ];
    assert_eq!(disks, wanted);
}

#[test]
fn parts_of_the_machines_disks_are_read() {
    let disks = guest(
        "disks = [ { host = 0 }, { host = \"data\", partition = \"root\", read_only = true }, \
         { host = 1, partition = 3, serial = \"p3\" }, { host = 2, start = \"1M\", size = \"64K\" }, \
         { host = 3, size = \"4K\" }, { host = 4, start = \"2M\" } ]",
    )
    .disks;
    let parts: Vec<_> = disks.iter().map(|disk| disk.host().unwrap().clone()).collect();
    let part = |disk, part| HostDiskConfig { disk, part };
    let wanted = [
        part(DiskName::Number(0), DiskPart::Whole),
        part(DiskName::Serial("data".to_owned()), DiskPart::Named("root".to_owned())),
        part(DiskName::Number(1), DiskPart::Partition(3)),
        part(DiskName::Number(2), DiskPart::Range(1 << 20, Some(64 << 10))),
        part(DiskName::Number(3), DiskPart::Range(0, Some(4096))),
        part(DiskName::Number(4), DiskPart::Range(2 << 20, None)),
    ];
    assert_eq!(parts, wanted);
    assert_eq!((disks[1].read_only, disks[0].serial.as_str()), (true, "disk0"));
}

#[test]
fn what_two_guests_cannot_both_have_of_a_disk_is_told() {
    let vms = |one: &str, two: &str| {
        format!(
            "[[vm]]\nname = \"a\"\nkernel = \"k\"\ndisks = [{{ {one} }}]\n\
             [[vm]]\nname = \"b\"\nkernel = \"k\"\ndisks = [{{ size = \"4K\" }}, {{ {two} }}]\n"
        )
    };
    for (one, two) in [
        ("host = 0", "host = 0, partition = 1"),
        ("host = 0, size = \"1M\"", "host = 0, start = \"512K\", read_only = true"),
    ] {
        let told = mistakes(&vms(one, two));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("vm 2, disks: disk 2 has something of a disk"), "{told:?}");
        assert!(told[0].contains("in common with disk 1 of vm 1"), "{told:?}");
    }
    for (one, two) in [
        ("host = 0, read_only = true", "host = 0, partition = 1, read_only = true"),
        ("host = 0, size = \"1M\"", "host = 0, start = \"1M\""),
        ("host = 0", "host = 1"),
    ] {
        assert_eq!(mistakes(&vms(one, two)), Vec::<String>::new());
    }
}

#[test]
fn what_is_wrong_with_a_disk_is_told_where_it_stands() {
    for (line, told) in [
        ("disks = 3", "9: vm 1, disks: 3 will not do; want a list of disks"),
        ("disks = [3]", "10: vm 1, disks 1: 3 will not do; want a table"),
        ("disks = [{}]", "10: vm 1, disks 1: it has neither an `image` nor a `size`"),
        (
            "disks = [{ size = \"4M\" }, { sise = \"4M\", image = \"a\" }]",
            "29: vm 1, disks 2.sise: unknown field; did you mean `size`?",
        ),
        (
            "disks = [{ size = \"3K\" }]",
            "19: vm 1, disks 1.size: 3K; it is a multiple of 4K up to 1024G",
        ),
        (
            "disks = [{ size = \"4M\", space = \"0K\" }]",
            "33: vm 1, disks 1.space: `0K` is not a size",
        ),
        (
            "disks = [{ image = \"a\", size = \"4M\" }]",
            "25: vm 1, disks 1.size: there is an image as well",
        ),
        (
            "disks = [{ image = \"a\", read_only = true, space = \"4M\" }]",
            "43: vm 1, disks 1.space: nothing is written",
        ),
        (
            "disks = [{ size = \"4M\", read_only = true }]",
            "25: vm 1, disks 1.read_only: an empty disk",
        ),
        (
            "disks = [{ size = \"4M\", serial = \"a b\" }]",
            "34: vm 1, disks 1.serial: a serial has 1 to 20",
        ),
        ("disks = [{ host = 32 }]", "19: vm 1, disks 1.host: 32 will not do; want a whole number"),
        ("disks = [{ host = true }]", "19: vm 1, disks 1.host: want a disk's number from 0 to 31"),
        ("disks = [{ host = \"a b\" }]", "19: vm 1, disks 1.host: a serial has 1 to 20"),
        (
            "disks = [{ host = 0, partition = 0 }]",
            "34: vm 1, disks 1.partition: 0 will not do; want a whole number from 1 to 1024",
        ),
        (
            "disks = [{ host = 0, partition = \"\" }]",
            "34: vm 1, disks 1.partition: a partition's name has 1 to 36",
        ),
        (
            "disks = [{ host = 0, partition = 1, start = \"1M\" }]",
            "37: vm 1, disks 1.start: there is a partition as well",
        ),
        (
            "disks = [{ host = 0, image = \"a\" }]",
            "22: vm 1, disks 1.image: the disk is the machine's",
        ),
        (
            "disks = [{ host = 0, space = \"4K\" }]",
            "22: vm 1, disks 1.space: the disk is the machine's",
        ),
        (
            "disks = [{ size = \"4K\", partition = 1 }]",
            "25: vm 1, disks 1.partition: that is for a disk of the machine's",
        ),
    ] {
        let found = mistake(line);
        assert!(found.starts_with(told), "{line}\n{found}");
    }
    let many = "{ size = \"4M\" }, ".repeat(9);
    assert!(mistake(&format!("disks = [{many}]")).contains("9 disks; 8 at most"));
    let text = "[machine.defaults]\ndisks = []\n[[vm]]\nname = \"a\"\nkernel = \"k\"\n";
    assert!(mistakes(text)[0].contains("unknown field"));
}
