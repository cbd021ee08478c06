//! Networks, and guests' cards on them: the values of `[[network]]` and `nets`.

use plinth::manifest::{CardConfig, MAX_CARDS, MAX_NAME, NetworkConfig, is_network};
use plinth::monitor::command::NAME_RULE;
use plinth::net::{BURSTS, MAX_TRUNK, MacAddr, PortConfig, RATES, Rate, STORMS, VIDS, Vlans};
use toml::de::{DeTable, DeValue};

use super::nearest;
use super::values::{self, Meaning, Value, Wrong, below, each, want, wrong};
use crate::size;

const NETWORK: [&str; 2] = ["name", "uplink"];
const CARD: [&str; 9] =
    ["network", "mac", "vlan", "trunk", "native", "rate", "burst", "storm", "spoof"];

/// The address of a card whose own is not told. It is no station's.
pub const UNTOLD: MacAddr = MacAddr([0; 6]);

/// Reads the fields of a table: what `set` cannot make sense of, and unknown ones, is noted.
pub(super) fn fields<'a>(
    table: &'a DeTable<'_>,
    known: &[&str],
    wrongs: &mut Vec<Wrong>,
    mut set: impl FnMut(&str, &'a Value<'a>) -> Meaning<()>,
) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if known.contains(&name) {
            let noted = set(name, value).err().into_iter().flatten();
            wrongs.extend(noted.map(|one| below(one, name)));
        } else {
            let text = format!("unknown field{}", nearest::hint(name, known));
            wrongs.push(Wrong { at: key.span().start, part: format!(".{name}"), text });
        }
    }
}

/// One `[[network]]`, as far as it can be made out, and what is wrong with it. A network that has no name that could be
/// told has an empty one.
pub fn network(at: usize, table: &DeTable<'_>) -> (NetworkConfig, Vec<Wrong>) {
    let mut network = NetworkConfig { name: String::new(), uplink: false };
    let mut wrongs = Vec::new();
    fields(table, &NETWORK, &mut wrongs, |name, value| {
        match name {
            "name" => network.name = values::text(value, check_name)?,
            _ => network.uplink = values::truth(value)?,
        }
        Ok(())
    });
    missing("name", table, at, &mut wrongs);
    (network, wrongs)
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let rule = || {
        format!(
            "a name has 1 to {MAX_NAME} printable ASCII characters and no space, and {NAME_RULE}"
        )
    };
    is_network(name).then_some(()).ok_or_else(rule)
}

pub(super) fn missing(name: &str, table: &DeTable<'_>, at: usize, wrongs: &mut Vec<Wrong>) {
    if !table.keys().any(|key| key.get_ref() == name) {
        let text = "the field is missing".to_owned();
        wrongs.push(Wrong { at, part: format!(".{name}"), text });
    }
}

/// A guest's cards: a list of names of networks, and of tables. A card whose address is not told has [`UNTOLD`].
pub fn cards(value: &Value<'_>, networks: &[NetworkConfig]) -> Meaning<Vec<CardConfig>> {
    let list = match value.get_ref().as_array() {
        Some(list) if list.len() <= MAX_CARDS => list,
        Some(list) => return wrong(value, format!("{} cards; {MAX_CARDS} at most", list.len())),
        None => {
            return want(
                value,
                "a list of networks as in [\"lan\", { network = \"dmz\", vlan = 10 }]",
            );
        }
    };
    each(list, |one| match one.get_ref() {
        DeValue::Table(table) => card(one, table, networks),
        DeValue::String(_) => {
            Ok(CardConfig { network: named(one, networks)?, port: PortConfig::new(UNTOLD) })
        }
        _ => want(one, "the name of a network, or a table as in { network = \"lan\", vlan = 10 }"),
    })
}

/// The place of the network with this name.
fn named(value: &Value<'_>, networks: &[NetworkConfig]) -> Meaning<u8> {
    values::parsed(value, |name| {
        let place = networks.iter().position(|network| network.name == name);
        let place = place.and_then(|place| u8::try_from(place).ok());
        place.ok_or_else(|| {
            let known: Vec<_> = networks.iter().map(|network| network.name.as_str()).collect();
            match known.as_slice() {
                [] => format!("there is no network `{name}`; the manifest has no [[network]]"),
                known => format!("there is no network `{name}`{}", nearest::hint(name, known)),
            }
        })
    })
}

fn card(value: &Value<'_>, table: &DeTable<'_>, networks: &[NetworkConfig]) -> Meaning<CardConfig> {
    let mut card = CardConfig { network: 0, port: PortConfig::new(UNTOLD) };
    let (mut vlan, mut trunk, mut native) = (None, None, None);
    let (mut rate, mut burst) = (None, None);
    let mut wrongs = Vec::new();
    fields(table, &CARD, &mut wrongs, |name, value| {
        match name {
            "network" => card.network = named(value, networks)?,
            "mac" => card.port.mac = values::parsed(value, mac)?,
            "vlan" => vlan = Some(values::whole(value, VIDS)?),
            "trunk" => trunk = Some(trunked(value)?),
            "native" => native = Some(values::whole(value, VIDS)?),
            "rate" => rate = Some(bits(value)?),
            "burst" => burst = Some(bytes(value)?),
            "storm" => card.port.storm = values::whole(value, STORMS)?,
            _ => card.port.spoof = values::truth(value)?,
        }
        Ok(())
    });
    missing("network", table, value.span().start, &mut wrongs);
    let has = |name: &str| table.keys().find(|key| key.get_ref() == name);
    let mut clash = |name: &str, other: &str, both: bool, text: &str| {
        if let Some(key) = has(name).filter(|_| has(other).is_some() == both) {
            let part = format!(".{name}");
            wrongs.push(Wrong { at: key.span().start, part, text: text.to_owned() });
        }
    };
    clash("vlan", "trunk", true, "there is a trunk as well; a card has either");
    clash(
        "native",
        "trunk",
        false,
        "it is the VLAN that a trunk has without a tag; there is no trunk",
    );
    clash("burst", "rate", false, "it goes with a rate; there is none");
    if !wrongs.is_empty() {
        return Err(wrongs);
    }
    if let Some(vlan) = vlan {
        card.port.vlans = Vlans::Access(vlan);
    }
    if let Some(tagged) = trunk {
        card.port.vlans = Vlans::Trunk { tagged, native };
    }
    card.port.rate = rate.map(|bits| {
        let rate = Rate::new(bits);
        Rate { burst: burst.unwrap_or(rate.burst), ..rate }
    });
    Ok(card)
}

fn mac(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|why| format!("`{text}` will not do: {why}"))?;
    match mac.is_station() {
        true => Ok(mac),
        false => Err(format!("{mac} is not the address of one station")),
    }
}

/// The VLANs of a trunk that have tags.
fn trunked(value: &Value<'_>) -> Meaning<Vec<u16>> {
    let list = match value.get_ref().as_array() {
        Some(list) if (1..=MAX_TRUNK).contains(&list.len()) => list,
        Some(list) => {
            return wrong(value, format!("{} VLANs; a trunk has 1 to {MAX_TRUNK}", list.len()));
        }
        None => return want(value, "a list of VLANs as in [10, 20]"),
    };
    let vids = each(list, |one| values::whole(one, VIDS))?;
    let twice = (1..vids.len()).find(|at| vids[..*at].contains(&vids[*at]));
    match twice.and_then(|at| Some((vids[at], list.get(at)?))) {
        Some((vid, value)) => wrong(value, format!("VLAN {vid} is there already")),
        None => Ok(vids),
    }
}

/// Bits a second: `"100Mbit"`.
fn bits(value: &Value<'_>) -> Meaning<u64> {
    let wanted = format!(
        "a whole number and a unit Kbit, Mbit or Gbit (thousands), {} to {}, as in \"100Mbit\"",
        show_bits(*RATES.start()),
        show_bits(*RATES.end())
    );
    let bits = value.get_ref().as_str().and_then(|text| {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text[digits.len()..].trim() {
            "Kbit" | "kbit" => 1_000,
            "Mbit" => 1_000_000,
            "Gbit" => 1_000_000_000,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    });
    match bits {
        Some(bits) if RATES.contains(&bits) => Ok(bits),
        _ => want(value, &wanted),
    }
}

/// Bits a second for people.
pub fn show_bits(bits: u64) -> String {
    match bits {
        _ if bits.is_multiple_of(1_000_000_000) => format!("{}Gbit", bits / 1_000_000_000),
        _ if bits.is_multiple_of(1_000_000) => format!("{}Mbit", bits / 1_000_000),
        _ if bits.is_multiple_of(1_000) => format!("{}Kbit", bits / 1_000),
        _ => format!("{bits}bit"),
    }
}

fn bytes(value: &Value<'_>) -> Meaning<u32> {
    let (least, most) = (*BURSTS.start(), *BURSTS.end());
    let check = |bytes| match u32::try_from(bytes) {
        Ok(bytes) if BURSTS.contains(&bytes) => Ok(()),
        _ => {
            let (least, most) = (size::show(least.into()), size::show(most.into()));
            Err(format!("{}; a burst is {least} to {most}", size::show(bytes)))
        }
    };
    Ok(u32::try_from(values::memory(value, check)?).unwrap_or(most))
}
