//! Several CPUs forward frames at once.

use std::thread;

use super::*;
use crate::testing::pick;

const ROUNDS: u64 = pick(20_000, 20);

#[test]
fn what_cpus_do_at_once_adds_up_and_crosses_no_vlan() {
    let ports = vec![access(0, 10), spoofing(1), spoofing(2), access(3, 10), plain(4)];
    let switch = switch(&[(ports, true)]);
    thread::scope(|scope| {
        for cpu in 0..3u8 {
            let switch = &switch;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Two ports that learn and the uplink have the same stations in turn.
                    let [low, ..] = round.to_le_bytes();
                    let from = [1, 2, 5][usize::from(cpu + low % 3) % 3];
                    let frame = frame(foreign(low % 5), foreign(low % 7), &[], 0x0800);
                    for (to, _) in send(switch, port(0, from), &frame, round).unwrap_or_default() {
                        assert!([1, 2, 4, 5].contains(&to.index) && to.index != from);
                        switch.went_out(to, frame.len());
                    }
                }
            });
        }
    });
    let counts: Vec<_> = switch.ports().map(|port| switch.counts(port)).collect();
    assert_eq!(counts.iter().map(|count| count.frames_in).sum::<u64>(), 3 * ROUNDS);
    assert_eq!((counts[0].frames_out, counts[3].frames_out), (0, 0));
    let out: u64 = counts.iter().map(|count| count.frames_out).sum();
    assert_eq!(out * 16, counts.iter().map(|count| count.bytes_out).sum::<u64>());
}

#[test]
fn a_rate_is_one_for_all_cpus() {
    let rate = Some(Rate { bits: 8_000_000, burst: 16_000 });
    let limited = PortConfig { rate, ..plain(0) };
    let switch = switch(&[(vec![limited, plain(1)], false)]);
    let header = Header::parse(&frame(own(0, 1), own(0, 0), &[], 0x0800)).unwrap();
    let through = |_| {
        let sent = |now| switch.forward(port(0, 0), &header, 1000, Ticks(now / 10)).is_ok();
        (0..ROUNDS).filter(|now| sent(*now)).count() as u64
    };
    let total: u64 = thread::scope(|scope| {
        let cpus: Vec<_> = (0..3).map(|cpu| scope.spawn(move || through(cpu))).collect();
        cpus.into_iter().map(|cpu| cpu.join().unwrap()).sum()
    });
    // A frame each tick, and sixteen at once.
    assert!((16..=16 + ROUNDS / 10).contains(&total), "{total}");
}
