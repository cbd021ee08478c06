//! Registers, features, the status, and where queues can be ("Virtio Over MMIO", "Device Initialization").

use guests::machine::machine;
use guests::mmio::{read8, read16, read64, write8, write16};
use guests::report::Report;
use guests::virtio::register::{
    CONFIG, DEVICE_FEATURES, DEVICE_FEATURES_SEL, INTERRUPT_STATUS, MAGIC_VALUE, QUEUE_READY,
    QUEUE_SEL, SHM_LEN_LOW, STATUS, VENDOR_ID, VERSION,
};
use guests::virtio::split::Split;
use guests::virtio::{Device, feature, status};

/// No device offers it: it is the transport's of another bus.
const SR_IOV: u64 = 1 << 37;

/// The first device for which something does not hold.
fn wrong(holds: impl Fn(Device) -> bool) -> Option<u16> {
    Device::all().find(|device| !holds(*device)).map(|device| device.slot)
}

pub fn ask(report: &mut Report) {
    report.holds("there are devices", Device::all().count() > 0, 0);
    let same = |device: Device| {
        [MAGIC_VALUE, VERSION].map(|at| device.read(at)) == [0x7472_6976, 2]
            && device.read(VENDOR_ID) != 0
    };
    report.equal("each says that it is one, of version 2", wrong(same), None);
    let empty =
        (0..32).map(|slot| Device { slot }).all(|device| same(device) || device.kind() == 0);
    report.equal("and a slot without one has device 0", empty, true);
    report.equal("other widths read no register, and write none", wrong(narrow), None);
    report.equal("the configuration reads the same by all widths", wrong(config), None);
    features(report);
    statuses(report);
    places(report);
    report.equal("there is no shared memory", wrong(|device| device.read(SHM_LEN_LOW) == !0), None);
}

fn narrow(device: Device) -> bool {
    device.reset();
    write8(device.base() + STATUS, 1);
    write16(device.base() + STATUS, 1);
    let read = [0, 4, 8].map(|at| (read8(device.base() + at), read16(device.base() + at)));
    device.status() == 0 && read == [(0, 0); 3]
}

fn config(device: Device) -> bool {
    let at = |offset| device.base() + CONFIG + offset;
    (0..64).step_by(8).all(|offset| {
        let bytes: [u8; 8] = core::array::from_fn(|n| device.config8(offset + n as u64));
        let halves: [u16; 4] = core::array::from_fn(|n| device.config16(offset + 2 * n as u64));
        let whole = u64::from_le_bytes(bytes);
        let of_halves = (0..4).fold(0, |sum, n| sum | u64::from(halves[n]) << (16 * n));
        whole == of_halves && whole == device.config64(offset) && whole == read64(at(offset))
    })
}

fn features(report: &mut Report) {
    let agrees = |device: Device, features: u64| {
        device.reset();
        device.set_status(status::ACKNOWLEDGE);
        device.set_status(status::DRIVER);
        device.set_features(features);
        device.set_status(status::FEATURES_OK);
        device.status() & status::FEATURES_OK != 0
    };
    let beyond = |device: Device| {
        [2, 3, u32::MAX].iter().all(|sel| {
            device.write(DEVICE_FEATURES_SEL, *sel);
            device.read(DEVICE_FEATURES) == 0
        })
    };
    report.equal("there are no features beyond 63", wrong(beyond), None);
    let all = |device: Device| agrees(device, device.features());
    report.equal("all that are offered are agreed to", wrong(all), None);
    let least = |device: Device| agrees(device, feature::VERSION_1);
    report.equal("and VERSION_1 alone", wrong(least), None);
    let each = |device: Device| {
        (24..41)
            .map(|bit| 1 << bit)
            .filter(|bit| device.features() & bit != 0)
            .all(|bit| agrees(device, feature::VERSION_1 | bit))
    };
    report.equal("and each of the transport's with it", wrong(each), None);
    let old = |device: Device| !agrees(device, device.features() & !feature::VERSION_1);
    report.equal("nothing is agreed to without VERSION_1", wrong(old), None);
    let others = |device: Device| {
        let offered = device.features();
        offered & SR_IOV == 0
            && (0..64)
                .map(|bit| 1 << bit)
                .filter(|bit| offered & bit == 0)
                .all(|bit| !agrees(device, feature::VERSION_1 | bit))
    };
    report.equal("nor with a feature that is not offered", wrong(others), None);
    let too_late = |device: Device| {
        let agreed = agrees(device, feature::VERSION_1);
        device.set_features(0);
        device.set_status(status::DRIVER_OK);
        agreed && device.status() == 15
    };
    report.equal("what is agreed to stays", wrong(too_late), None);
}

fn statuses(report: &mut Report) {
    let early = |device: Device| {
        device.reset();
        device.write(STATUS, 3);
        device.write(STATUS, 7);
        device.status() == 3
    };
    report.equal("no driver is ready without its features", wrong(early), None);
    let kept = |device: Device| {
        device.reset();
        device.write(STATUS, 1);
        device.write(STATUS, 2);
        device.write(STATUS, 128);
        device.status() == 131
    };
    report.equal("a driver takes no bit of the status back", wrong(kept), None);
    let all_gone = |device: Device| {
        device.write(STATUS, 0);
        [STATUS, QUEUE_READY, INTERRUPT_STATUS].iter().all(|at| device.read(*at) == 0)
    };
    report.equal("but all of them at once, which is a reset", wrong(all_gone), None);
}

fn places(report: &mut Report) {
    let largest = |device: Device| {
        let sizes = || (0..64).map(|index| device.largest(index));
        let count = sizes().take_while(|size| *size > 0).count();
        let possible = |size: u16| size.is_power_of_two() && size <= 1 << 15;
        device.reset();
        count > 0 && sizes().take(count).all(possible) && sizes().skip(count).all(|size| size == 0)
    };
    report.equal("queues come first to last, of possible sizes", wrong(largest), None);
    let queue = Split::new(8, false);
    let right = (8, queue.table, queue.avail, queue.used);
    let end = machine().ram + machine().ram_size;
    let place =
        |device: Device, (size, table, avail, used)| device.place(0, size, table, avail, used);
    let early = |device: Device| {
        device.reset();
        device.write(STATUS, 3);
        !place(device, right)
    };
    report.equal("none is ready before the features are known", wrong(early), None);
    let taken = |device: Device| {
        let agreed = device.negotiate(0).is_some();
        agreed && place(device, right) && device.status() & status::DEVICE_NEEDS_RESET == 0
    };
    report.equal("one that can be is", wrong(taken), None);
    let refused = |device: Device| {
        let most = device.largest(0);
        let (size, table, avail, used) = right;
        let wrong = [
            (0, table, avail, used),
            (3, table, avail, used),
            (most.saturating_mul(2), table, avail, used),
            (size, table + 8, avail, used),
            (size, table, avail + 1, used),
            (size, table, avail, used + 2),
            (size, 0, avail, used),
            (size, table, end - 2, used),
            (size, table, avail, u64::MAX - 3),
            (size, u64::MAX - 15, avail, used),
        ];
        wrong.into_iter().all(|wrong| {
            let agreed = device.negotiate(0).is_some();
            agreed && !place(device, wrong) && device.status() & status::DEVICE_NEEDS_RESET != 0
        })
    };
    report.equal("one that cannot be is not, and a reset is needed", wrong(refused), None);
    let nowhere = |device: Device| {
        device.negotiate(0);
        !device.place(999, 8, queue.table, queue.avail, queue.used)
    };
    report.equal("one that there is not is not either", wrong(nowhere), None);
    let stages = |device: Device| (0..5).all(|stage| reset_after(device, stage, right));
    report.equal("a reset at any stage is one", wrong(stages), None);
    Device::all().for_each(|device| device.reset());
}

/// Whether a device is new after it has come so far.
fn reset_after(device: Device, stage: u32, right: (u16, u64, u64, u64)) -> bool {
    let (size, table, avail, used) = right;
    device.reset();
    device.set_status(status::ACKNOWLEDGE);
    if stage > 0 {
        device.set_status(status::DRIVER);
    }
    if stage > 1 {
        device.set_features(feature::VERSION_1);
        device.set_status(status::FEATURES_OK);
    }
    let placed = stage <= 2 || device.place(0, size, table, avail, used);
    if stage > 3 {
        device.start();
    }
    device.write(STATUS, 0);
    device.write(QUEUE_SEL, 0);
    placed && [STATUS, QUEUE_READY, INTERRUPT_STATUS].iter().all(|at| device.read(*at) == 0)
}
