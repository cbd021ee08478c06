//! Replies as text. Whatever a reply is, it has one; tables for lists of objects. Only names say what a
//! number counts: sizes and times are shown as people read them.

use plinth::monitor::table::clean;
use serde_json::{Map, Value};

/// A reply to `command` as text that ends in a line feed.
pub fn render(result: &Value) -> String {
    value(result)
}

/// Members whose numbers are sizes in bytes.
const SIZES: [&str; 20] = [
    "memory",
    "available",
    "total",
    "free",
    "given_back",
    "largest_free",
    "min",
    "target",
    "actual",
    "reported",
    "guest_free",
    "guest_available",
    "heap_total",
    "heap_free",
    "kept",
    "heap",
    "ram",
    "tables",
    "disks",
    "size",
];

/// Whether a member of `object` is a size. The `target` of a balloon is one, that of an interrupt is a CPU.
fn is_size(object: &Map<String, Value>, name: &str) -> bool {
    SIZES.contains(&name) && !(name == "target" && object.contains_key("intid"))
}

/// `text` without control characters, which could change how the terminal shows other text.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn value(result: &Value) -> String {
    match result {
        Value::Null => "ok\n".to_owned(),
        Value::Object(object) => match output(object) {
            Some(text) => clean(text),
            None => members(object),
        },
        Value::Array(items) => match items.iter().map(Value::as_object).collect::<Option<Vec<_>>>()
        {
            Some(rows) => table(&rows.into_iter().flat_map(flatten).collect::<Vec<_>>()),
            None => items.iter().map(|item| cell(Some(item)) + "\n").collect(),
        },
        _ => cell(Some(result)) + "\n",
    }
}

/// A guest's output, in the reply to `console tail`.
fn output(object: &Map<String, Value>) -> Option<&str> {
    let is_tail = ["from", "next", "end"].iter().all(|name| object.contains_key(*name));
    object.get("text").filter(|_| is_tail)?.as_str()
}

/// A line for each member, and the tables among them below.
fn members(object: &Map<String, Value>) -> String {
    let is_table = |value: &Value| value.is_object() || is_list_of_objects(value);
    let plain = || object.iter().filter(|(_, value)| !is_table(value));
    let width = plain().map(|(key, _)| title(key).chars().count()).max().unwrap_or(0);
    let mut text: String = plain()
        .map(|(key, _)| format!("{:width$}  {}\n", title(key), named(object, key)))
        .collect();
    for (key, inner) in object.iter().filter(|(_, value)| is_table(value)) {
        text += &format!("{}:\n", title(key));
        text.extend(value(inner).lines().map(|line| format!("  {line}\n")));
    }
    text
}

fn is_list_of_objects(value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object))
}

/// An object with a list of objects in it as one object for each of these.
fn flatten(object: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let list = object.iter().find(|(_, value)| is_list_of_objects(value));
    let Some((list, inner)) = list else { return vec![object.clone()] };
    let with = |inner: &Map<String, Value>| {
        let mut row = object.clone();
        row.shift_remove(list);
        for (key, value) in inner {
            let key = if row.contains_key(key) { format!("{list}.{key}") } else { key.clone() };
            row.insert(key, value.clone());
        }
        row
    };
    inner.as_array().into_iter().flatten().filter_map(Value::as_object).map(with).collect()
}

/// A row for each object, a column for each name that one of them has.
fn table(objects: &[Map<String, Value>]) -> String {
    if objects.is_empty() {
        return "none\n".to_owned();
    }
    let mut names: Vec<&String> = Vec::new();
    for name in objects.iter().flat_map(|object| object.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let heading = names.iter().map(|name| title(name)).collect();
    let row = |object: &Map<String, Value>| names.iter().map(|name| named(object, name)).collect();
    let rows: Vec<Vec<String>> = [heading].into_iter().chain(objects.iter().map(row)).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..names.len()).map(|column| width(column).unwrap_or(0)).collect();
    let numeric = |name: &String| {
        objects
            .iter()
            .all(|object| object.get(name).is_none_or(|value| value.is_number() || value.is_null()))
    };
    let numeric: Vec<bool> = names.iter().map(|name| numeric(name)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).zip(&numeric);
        let cells = cells.map(|((cell, width), numeric)| match numeric {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// What stands above or before a member.
fn title(name: &str) -> String {
    let words = match name.strip_suffix("_micros") {
        Some(what) if what.ends_with("time") => what.to_owned(),
        Some(what) => format!("{what} time"),
        None if name == "nanos" => "time".to_owned(),
        None => name.to_owned(),
    };
    printable(&words.replace('_', " "))
}

/// The value of a member of `object`, with its unit where its name tells it.
fn named(object: &Map<String, Value>, name: &str) -> String {
    let value = object.get(name);
    match value.and_then(Value::as_u64) {
        Some(micros) if name.ends_with("_micros") => time(u128::from(micros) * 1000),
        Some(nanos) if name == "nanos" => time(nanos.into()),
        Some(bytes) if is_size(object, name) => match bytes {
            10_485_760.. => format!("{} MiB", bytes >> 20),
            1..1024 => format!("{bytes} B"),
            _ => format!("{} KiB", bytes >> 10),
        },
        _ => cell(value),
    }
}

/// In seconds, or microseconds when there are few.
fn time(nanos: u128) -> String {
    match nanos {
        1_000_000.. => format!("{}.{:03} s", nanos / 1_000_000_000, nanos / 1_000_000 % 1000),
        _ => format!("{}.{:03} us", nanos / 1000, nanos % 1000),
    }
}

/// A value in a few words.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(Value::Object(members)) => {
            let member = |(key, value): (&String, &Value)| {
                format!("{}={}", printable(key), cell(Some(value)))
            };
            members.iter().map(member).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::Config;
    use serde_json::{Value, json};

    use super::render;

    #[test]
    fn a_list_becomes_a_table_with_numbers_to_the_right() {
        let list = json!([{"x": "web", "n": 1, "on": true}, {"x": "control", "n": 100}]);
        assert_eq!(render(&list), "x          n  on\nweb        1  true\ncontrol  100  -\n");
        assert_eq!(render(&json!([])), "none\n");
        assert_eq!(render(&Value::Null), "ok\n");
    }

    #[test]
    fn an_object_becomes_lines_and_what_is_in_it_tables() {
        let object =
            json!({"free": 1, "cpus": [0, 2], "vms": [{"name": "a"}], "sched": {"weight": 5}});
        let text = "free  1 B\ncpus  0,2\nvms:\n  name\n  a\nsched:\n  weight  5\n";
        assert_eq!(render(&object), text);
    }

    #[test]
    fn times_and_sizes_have_units_and_lists_in_lists_are_one_table() {
        let stats = json!([{"name": "web", "vcpu": null, "exits": [
            {"reason": "wfi", "count": 12, "nanos": 1500},
            {"reason": "hvc", "count": 3, "nanos": 2_500_000_000_u64},
        ]}]);
        let text = "name  vcpu  reason  count      time\n\
                    web      -  wfi        12  1.500 us\n\
                    web      -  hvc         3   2.500 s\n";
        assert_eq!(render(&stats), text);
        let vm = json!({"memory": 536_870_912, "cpu_micros": 3_217_000, "uptime_micros": 5});
        let text = "memory    512 MiB\ncpu time  3.217 s\nuptime    5.000 us\n";
        assert_eq!(render(&vm), text);
    }

    #[test]
    fn the_target_of_a_balloon_is_a_size_and_that_of_an_interrupt_is_a_cpu() {
        let irq = json!([{"intid": 48, "target": 1, "count": null}]);
        assert_eq!(render(&irq), "intid  target  count\n   48       1      -\n");
        let balloon = json!({"min": 0, "target": 268_435_456, "available": 474_636_288});
        assert_eq!(render(&balloon), "min        0 KiB\ntarget     256 MiB\navailable  452 MiB\n");
    }

    #[test]
    fn a_guests_output_is_shown_as_lines() {
        let text = "\u{1b}[31mboot\r\n10%\r20%\u{7}\r\nlogin: ";
        let tail = json!({"from": 4, "next": 9, "end": 9, "text": text});
        assert_eq!(render(&tail), "boot\n10%\n20%\nlogin: \n");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

        #[test]
        fn any_reply_has_a_text_of_printable_lines(value in any_json()) {
            let text = render(&value);
            prop_assert!(text.is_empty() || text.ends_with('\n'));
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
