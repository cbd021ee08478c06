//! The model with replies as the monitor gives them, and with others.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};

use super::{Model, Part};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn near(a: Option<f64>, b: f64) -> bool {
    a.is_some_and(|a| (a - b).abs() < 1e-9)
}

#[test]
fn a_cpus_time_is_split_into_what_it_did() {
    let mut model = Model::default();
    let cpu = |guest, hypervisor, idle| {
        json!([{"id": 0, "running": "web/0", "ready": 2, "guest_micros": guest,
                "hypervisor_micros": hypervisor, "idle_micros": idle}])
    };
    model.take(Part::Cpus, at(1), &Ok(cpu(0, 0, 0)));
    assert_eq!(model.cpus()[0].busy(), None, "one sample is no rate");
    model.take(Part::Cpus, at(2), &Ok(cpu(600_000, 150_000, 250_000)));
    let row = &model.cpus()[0];
    assert!(near(row.guests, 0.6) && near(row.hypervisor, 0.15) && near(row.busy(), 0.75));
    assert_eq!((row.ready, row.running.as_deref()), (Some(2), Some("web/0")));
}

#[test]
fn a_vms_share_is_in_cpus_and_a_counter_that_went_back_is_unknown() {
    let mut model = Model::default();
    let vm =
        |cpu, exits| json!([{"name": "a", "state": "running", "cpu_micros": cpu, "exits": exits}]);
    model.take(Part::Vms, at(1), &Ok(vm(1_000_000, 100)));
    model.take(Part::Vms, at(3), &Ok(vm(4_000_000, 500)));
    let row = &model.vms()[0];
    assert!(near(row.share, 1.5) && near(row.exits_per_second, 200.0));
    model.take(Part::Vms, at(4), &Ok(vm(10, 5)));
    assert_eq!((model.vms()[0].share, model.vms()[0].exits_per_second), (None, None));
    assert_eq!((model.state("a"), model.state("b")), (Some("running"), None));
}

#[test]
fn exits_are_summed_by_reason_and_the_most_frequent_stand_first() {
    let mut model = Model::default();
    let stats = |web: u64, db: u64, new: bool| {
        let mut exits = vec![json!({"reason": "wfi", "count": web, "nanos": 1000 * web})];
        if new {
            exits.push(json!({"reason": "hvc", "count": 500, "nanos": 500}));
        }
        json!([{"name": "web", "vcpu": null, "exits": exits},
               {"name": "db", "exits": [{"reason": "wfi", "count": db, "nanos": 3000 * db}]}])
    };
    model.take(Part::Stats, at(0), &Ok(stats(10, 10, false)));
    assert_eq!(model.exits(None)[0].per_second, None);
    model.take(Part::Stats, at(2), &Ok(stats(30, 30, true)));
    let rows = model.exits(None);
    assert_eq!((rows[0].reason.as_str(), rows[1].reason.as_str()), ("hvc", "wfi"));
    assert!(near(rows[0].per_second, 250.0) && near(rows[1].per_second, 20.0));
    assert!(near(rows[1].cost, 2000.0));
    assert_eq!(model.exits(Some("db"))[0].count, Some(30));
    assert!(model.exits(Some("nobody")).is_empty());
}

#[test]
fn vcpus_run_or_are_kept_from_it_and_go_with_their_vm() {
    let mut model = Model::default();
    let vm = |ran: u64, stolen: u64| json!({"vcpu_list": [{"id": 0, "state": "ready", "cpu": 1, "cpu_micros": ran, "steal_micros": stolen}]});
    let part = || Part::Vcpus("a".to_owned());
    model.take(part(), at(0), &Ok(vm(0, 0)));
    model.take(part(), at(1), &Ok(vm(250_000, 500_000)));
    let row = &model.vcpus("a")[0];
    assert!(near(row.share, 0.25) && near(row.stolen, 0.5) && row.vcpu.cpu == Some(1));
    model.take(Part::Vms, at(1), &Ok(json!([])));
    assert!(model.vcpus("a").is_empty());
}

#[test]
fn a_refusal_is_told_until_it_is_over_and_the_rest_goes_on() {
    let mut model = Model::default();
    model.take(Part::Sched, at(0), &Err("no scheduler".to_owned()));
    assert_eq!(model.refusal().as_deref(), Some("sched: no scheduler"));
    model.take(Part::Sched, at(1), &Ok(json!([{"name": "a", "weight": 5}])));
    model.take(Part::Vms, at(1), &Ok(json!([{"name": "a"}])));
    assert_eq!(model.refusal(), None);
    assert_eq!(model.vms()[0].sched.as_ref().and_then(|sched| sched.weight), Some(5));
}

/// Replies that are almost, or not at all, what is wanted.
pub fn odd_reply() -> impl Strategy<Value = Value> {
    let names = [
        "id",
        "name",
        "state",
        "cpu_micros",
        "exits",
        "reason",
        "count",
        "nanos",
        "total",
        "free",
        "vcpu_list",
        "running",
        "guest_micros",
        "idle_micros",
        "hypervisor_micros",
        "memory",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u64..3).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-b]{0,2}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        let member = (prop::sample::select(names.to_vec()), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(member, 0..12).prop_map(|members| {
                let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect())
            }),
        ]
    })
}

/// Any part.
pub fn any_part() -> impl Strategy<Value = Part> {
    let parts = [Part::Vms, Part::Cpus, Part::Memory, Part::Stats, Part::Sched];
    prop_oneof![prop::sample::select(parts.to_vec()), "[a-b]{1,2}".prop_map(Part::Vcpus)]
}

proptest! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn rates_are_never_negative_or_without_a_number(
        replies in prop::collection::vec((any_part(), odd_reply(), 0u64..3), 0..12),
    ) {
        let mut model = Model::default();
        let mut now = 0;
        for (part, reply, later) in replies {
            now += later;
            model.take(part, at(now), &Ok(reply));
        }
        let cpus = model.cpus().into_iter().flat_map(|cpu| [cpu.guests, cpu.hypervisor]);
        let vms = model.vms().into_iter().flat_map(|vm| [vm.share, vm.exits_per_second]);
        let vcpus = model.vcpus("a").into_iter().flat_map(|vcpu| [vcpu.share, vcpu.stolen]);
        let exits = model.exits(None).into_iter().flat_map(|exit| [exit.per_second, exit.cost]);
        for rate in cpus.chain(vms).chain(vcpus).chain(exits).flatten() {
            prop_assert!(rate.is_finite() && rate >= 0.0, "{rate}");
        }
    }
}
