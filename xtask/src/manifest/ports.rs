//! The named ports of a guest's virtio console: the values of `ports`.

use plinth::manifest::{ConsolePort, MAX_PORT_NAME, is_port};
use plinth::monitor::agent;
use plinth::virtio::console::MAX_PORTS;

use super::networks::{fields, missing};
use super::values::{Meaning, Value, Wrong, each, text, want, wrong};
use crate::guest;

const PORT: [&str; 2] = ["name", "to"];

/// A list of ports: `[{ name = "data", to = "other" }]`.
pub fn ports(value: &Value<'_>) -> Meaning<Vec<ConsolePort>> {
    let example = "a list of ports as in [{ name = \"data\", to = \"other\" }]";
    let list = match value.get_ref().as_array() {
        Some(list) if list.len() <= MAX_PORTS => list,
        Some(list) => return wrong(value, format!("{} ports; {MAX_PORTS} at most", list.len())),
        None => return want(value, example),
    };
    let mut ports: Vec<ConsolePort> = Vec::new();
    each(list, |one| {
        let port = port(one)?;
        if let Some(first) = ports.iter().position(|other| other.name == port.name) {
            return wrong(
                one,
                format!("`{}` is the name of port {} already", port.name, first + 1),
            );
        }
        ports.push(port.clone());
        Ok(port)
    })
}

fn port(value: &Value<'_>) -> Meaning<ConsolePort> {
    let Some(table) = value.get_ref().as_table() else {
        return want(value, "a table as in { name = \"data\", to = \"other\" }");
    };
    let mut port = ConsolePort { name: String::new(), to: String::new() };
    let mut wrongs: Vec<Wrong> = Vec::new();
    fields(table, &PORT, &mut wrongs, |name, value| {
        match name {
            "name" => port.name = text(value, check_name)?,
            _ => port.to = text(value, guest::check_name)?,
        }
        Ok(())
    });
    for field in PORT {
        missing(field, table, value.span().start, &mut wrongs);
    }
    if wrongs.is_empty() { Ok(port) } else { Err(wrongs) }
}

fn check_name(name: &str) -> Result<(), String> {
    let rule = || {
        format!(
            "a port's name has 1 to {MAX_PORT_NAME} printable ASCII characters, no space and no `/`"
        )
    };
    if name == agent::PORT {
        return Err(format!(
            "`{}` is the port of the guest's agent; say `agent = true` for it",
            agent::PORT
        ));
    }
    is_port(name).then_some(()).ok_or_else(rule)
}
