//! From the text of a manifest to the guests it describes, and every mistake in it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use plinth::manifest::{
    Keys, MAX_VMS, MachineConfig, NetworkConfig, OnBadAccess, OnCrash, OnReboot, View, WhenIdle,
    is_joined, shared,
};
use plinth::net::{MAX_NETWORKS, MAX_PORTS, MacAddr};
use plinth::sched::policy::{Class, DEFAULT_WEIGHT, MAX_WEIGHT, Wfi};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::disks;
use super::nearest;
use super::networks;
use super::ports;
use super::values::{self, Meaning, Value};
use super::vsock;
use crate::guest::{self, Field, Guest, Problem};
use crate::source::Source;

/// A mistake and the byte of the file where it is.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Mistake {
    pub at: usize,
    pub text: String,
}

/// What a manifest says, as far as it could be made out.
#[derive(Debug, Default)]
pub struct Draft {
    pub machine: MachineConfig,
    pub networks: Vec<NetworkConfig>,
    pub entries: Vec<Entry>,
}

/// One `[[vm]]` and where its parts stand in the file.
#[derive(Debug)]
pub struct Entry {
    pub guest: Guest,
    number: usize,
    at: usize,
    places: Places,
}

/// Where each field's value stands; of several the last counts.
type Places = Vec<(Field, usize)>;

impl Entry {
    /// A problem of the guest, at the field it is about.
    pub fn mistake(&self, problem: &Problem) -> Mistake {
        let place = self.places.iter().rfind(|(field, _)| *field == problem.field);
        let at = place.map_or(self.at, |(_, at)| *at);
        let text = format!("vm {}, {}: {}", self.number, problem.field.key(), problem.text);
        Mistake { at, text }
    }
}

/// Reads the text of a manifest: what can be made out, and all mistakes.
pub fn parse(text: &str, folder: &Path) -> (Draft, Vec<Mistake>) {
    let mut reader = Reader { folder, networks: Vec::new(), mistakes: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.wrong(at, error.message().lines().collect::<Vec<_>>().join(" "));
    }
    // A file that is not TOML has been told so; what is left of it would only add noise.
    if errors.iter().any(|error| !error.message().starts_with("duplicate key")) {
        return (Draft::default(), reader.mistakes);
    }
    let draft = reader.root(root.get_ref());
    (draft, reader.mistakes)
}

const ROOT: [&str; 3] = ["machine", "network", "vm"];
const MACHINE: [&str; 5] = ["escape", "view", "scrollback", "when_idle", "defaults"];

const VIEWS: [(&str, View); 2] = [("all", View::All), ("focus", View::Focus)];
const WHEN_IDLE: [(&str, WhenIdle); 2] =
    [("power-off", WhenIdle::PowerOff), ("wait", WhenIdle::Wait)];
const ON_BAD_ACCESS: [(&str, OnBadAccess); 2] =
    [("abort", OnBadAccess::Abort), ("crash", OnBadAccess::Crash)];
const ON_CRASH: [(&str, OnCrash); 3] =
    [("preserve", OnCrash::Preserve), ("restart", OnCrash::Restart), ("destroy", OnCrash::Destroy)];
const KEYS: [(&str, Keys); 2] = [("uart", Keys::Uart), ("virtio", Keys::Virtio)];
const ON_REBOOT: [(&str, OnReboot); 3] =
    [("restart", OnReboot::Restart), ("stop", OnReboot::Stop), ("destroy", OnReboot::Destroy)];

/// What every VM starts from.
struct Defaults {
    guest: Guest,
    places: Places,
}

struct Reader<'a> {
    folder: &'a Path,
    networks: Vec<NetworkConfig>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn wrong(&mut self, at: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake { at, text: text.into() });
    }

    /// What a field means; what is wrong with it is noted, and `None`.
    fn noted<T>(&mut self, owner: &str, key: &str, meaning: Meaning<T>) -> Option<T> {
        let wrongs = match meaning {
            Ok(meaning) => return Some(meaning),
            Err(wrongs) => wrongs,
        };
        for wrong in wrongs {
            self.wrong(wrong.at, format!("{owner}, {key}{}: {}", wrong.part, wrong.text));
        }
        None
    }

    fn unknown(&mut self, owner: &str, key: &Spanned<Cow<'_, str>>, known: &[&str]) {
        let name = key.get_ref();
        let text = format!("{owner}{name}: unknown field{}", nearest::hint(name, known));
        self.wrong(key.span().start, text);
    }

    fn root(&mut self, root: &DeTable<'_>) -> Draft {
        let mut draft = Draft::default();
        let guest = Guest::new(String::new(), Source::Untold);
        let mut defaults = Defaults { guest, places: Vec::new() };
        let mut tables = None;
        // Whatever stands before it may name a network.
        if let Some((key, value)) = root.iter().find(|(key, _)| key.get_ref() == "network") {
            match value.get_ref() {
                DeValue::Array(list) => self.read_networks(list),
                _ => self.wrong(key.span().start, "networks are written as [[network]] tables"),
            }
        }
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("vm", DeValue::Array(list)) => tables = Some(list),
                ("vm", _) => {
                    self.wrong(key.span().start, "guests are written as [[vm]] tables");
                    return draft;
                }
                ("machine", DeValue::Table(table)) => {
                    draft.machine = self.machine(table, &mut defaults);
                }
                ("machine", _) => {
                    self.wrong(key.span().start, "the machine is written as a [machine] table");
                }
                ("network", _) => {}
                _ => self.unknown("", key, &ROOT),
            }
        }
        let tables: Vec<_> = tables.into_iter().flat_map(|list| list.iter()).collect();
        if tables.is_empty() {
            self.wrong(0, "no [[vm]]: the manifest describes no guest");
        }
        for (index, value) in tables.into_iter().enumerate() {
            let number = index + 1;
            let at = value.span().start;
            if number == MAX_VMS + 1 {
                self.wrong(at, format!("vm {number} is one too many; {MAX_VMS} are possible"));
            }
            match value.get_ref() {
                DeValue::Table(table) => {
                    let entry = self.entry(number, at, table, &defaults);
                    self.name_is_new(&entry, &draft.entries);
                    draft.entries.push(entry);
                }
                _ => self.wrong(at, format!("vm {number} is not a table")),
            }
        }
        self.cards_go_together(&draft.entries);
        self.disks_go_together(&draft.entries);
        self.ports_are_joined(&draft.entries);
        for (index, problem) in vsock::together(&draft.entries) {
            self.mistakes.push(draft.entries[index].mistake(&problem));
        }
        draft.networks = std::mem::take(&mut self.networks);
        draft
    }

    fn read_networks(&mut self, list: &DeArray<'_>) {
        for (index, value) in list.iter().enumerate() {
            let (number, at) = (index + 1, value.span().start);
            if number == MAX_NETWORKS + 1 {
                self.wrong(
                    at,
                    format!("network {number} is one too many; {MAX_NETWORKS} are possible"),
                );
            }
            let DeValue::Table(table) = value.get_ref() else {
                self.wrong(at, format!("network {number} is not a table"));
                continue;
            };
            let (network, wrongs) = networks::network(at, table);
            for wrong in wrongs {
                self.wrong(
                    wrong.at,
                    format!("network {number}, {}: {}", &wrong.part[1..], wrong.text),
                );
            }
            let place = |key: &str| table.get(key).map_or(at, |value| value.span().start);
            let first = self.networks.iter().position(|one| one.name == network.name);
            if let Some(first) = first.filter(|_| !network.name.is_empty()) {
                let (name, first) = (&network.name, first + 1);
                let text = format!(
                    "network {number}, name: `{name}` is the name of network {first} already; each name is given once"
                );
                self.wrong(place("name"), text);
            }
            if let Some(first) = self.networks.iter().position(|one| one.uplink && network.uplink) {
                let text = format!(
                    "network {number}, uplink: network {} has it already; one network can",
                    first + 1
                );
                self.wrong(place("uplink"), text);
            }
            self.networks.push(network);
        }
    }

    /// Each port has another end.
    fn ports_are_joined(&mut self, entries: &[Entry]) {
        let guests: Vec<_> = entries.iter().map(|entry| &entry.guest).collect();
        for (index, entry) in entries.iter().enumerate() {
            for port in entry.guest.ports.iter().filter(|port| !is_joined(&guests, index, port)) {
                let (name, to, own) = (&port.name, &port.to, &entry.guest.name);
                let text = format!(
                    "`{name}` leads to `{to}`, which has no port {{ name = \"{name}\", to = \"{own}\" }}"
                );
                let mistake = entry.mistake(&Problem { field: Field::Ports, text });
                self.mistakes.push(mistake);
            }
        }
    }

    /// What holds of all cards together: each address is given once, and no network has too many.
    fn cards_go_together(&mut self, entries: &[Entry]) {
        let mut ports: Vec<_> = self.networks.iter().map(|one| usize::from(one.uplink)).collect();
        let mut seen: HashMap<MacAddr, (usize, usize)> = HashMap::new();
        for entry in entries {
            let mut wrong = |text| {
                let mistake = entry.mistake(&Problem { field: Field::Nets, text });
                self.mistakes.push(mistake);
            };
            for (index, card) in entry.guest.nets.iter().enumerate() {
                let (mac, here) = (card.port.mac, (entry.number, index + 1));
                let (vm, first) = *seen.entry(mac).or_insert(here);
                if (vm, first) != here {
                    wrong(format!(
                        "card {} has the address {mac}, as card {first} of vm {vm}; give one another",
                        index + 1
                    ));
                }
                let network = usize::from(card.network);
                ports[network] += 1;
                if ports[network] == MAX_PORTS + 1 {
                    let name = &self.networks[network].name;
                    wrong(format!(
                        "{name} has one port too many; {MAX_PORTS} are possible, the uplink among them"
                    ));
                }
            }
        }
    }

    /// No two guests have one part of a disk of the machine's, if one of them can write to it.
    fn disks_go_together(&mut self, entries: &[Entry]) {
        for ((vm, disk), (other, other_disk)) in shared(entries.iter().map(|entry| &entry.guest)) {
            let text = format!(
                "disk {} has something of a disk of the machine's in common with disk {} of vm {}; not both are read-only",
                disk + 1,
                other_disk + 1,
                entries[other].number
            );
            let mistake = entries[vm].mistake(&Problem { field: Field::Disks, text });
            self.mistakes.push(mistake);
        }
    }

    fn name_is_new(&mut self, entry: &Entry, earlier: &[Entry]) {
        if let Some(first) = earlier.iter().find(|other| other.guest.name == entry.guest.name) {
            let text = format!(
                "`{}` is the name of vm {} already; each name is given once",
                first.guest.name, first.number
            );
            let mistake = entry.mistake(&Problem { field: Field::Name, text });
            self.mistakes.push(mistake);
        }
    }

    fn machine(&mut self, table: &DeTable<'_>, defaults: &mut Defaults) -> MachineConfig {
        let mut machine = MachineConfig::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "escape" => {
                    let escape = self.noted("machine", name, values::escape(value));
                    machine.escape = escape.unwrap_or(machine.escape);
                }
                "view" => {
                    let view = self.noted("machine", name, values::choice(value, &VIEWS));
                    machine.view = view.unwrap_or(machine.view);
                }
                "scrollback" => {
                    let bytes = self.noted("machine", name, values::scrollback(value));
                    machine.scrollback = bytes.unwrap_or(machine.scrollback);
                }
                "when_idle" => {
                    let idle = self.noted("machine", name, values::choice(value, &WHEN_IDLE));
                    machine.when_idle = idle.unwrap_or(machine.when_idle);
                }
                "defaults" => match value.get_ref() {
                    DeValue::Table(table) => {
                        let Defaults { guest, places } = defaults;
                        let owner = "machine.defaults";
                        self.fields(
                            owner,
                            table,
                            &Field::defaults().collect::<Vec<_>>(),
                            guest,
                            places,
                        );
                    }
                    _ => self.wrong(key.span().start, "machine, defaults: it is not a table"),
                },
                _ => self.unknown("machine, ", key, &MACHINE),
            }
        }
        machine
    }

    fn entry(
        &mut self,
        number: usize,
        at: usize,
        table: &DeTable<'_>,
        defaults: &Defaults,
    ) -> Entry {
        let mut guest = Guest { name: format!("vm{number}"), ..defaults.guest.clone() };
        let mut places = defaults.places.clone();
        let owner = format!("vm {number}");
        self.fields(&owner, table, &Field::all().collect::<Vec<_>>(), &mut guest, &mut places);
        for (card, index) in guest.nets.iter_mut().zip(0..) {
            if card.port.mac == networks::UNTOLD {
                card.port.mac = MacAddr::derived(&guest.name, index);
            }
        }
        if let Some(vsock) = guest.vsock.as_mut().filter(|vsock| vsock.cid == vsock::UNTOLD) {
            vsock.cid = vsock::cid_of(number);
        }
        for field in [Field::Name, Field::Kernel] {
            if !table.keys().any(|key| key.get_ref() == field.key()) {
                self.wrong(at, format!("{owner}, {}: the field is missing", field.key()));
            }
        }
        Entry { guest, number, at, places }
    }

    /// Reads the fields of one table into `guest`; `known` are those it may have.
    fn fields(
        &mut self,
        owner: &str,
        table: &DeTable<'_>,
        known: &[Field],
        guest: &mut Guest,
        places: &mut Places,
    ) {
        for (key, value) in table {
            let Some(field) = known.iter().find(|field| key.get_ref() == field.key()) else {
                let known: Vec<_> = known.iter().map(|field| field.key()).collect();
                self.unknown(&format!("{owner}, "), key, &known);
                continue;
            };
            let set = self.set(guest, *field, value);
            if self.noted(owner, field.key(), set).is_some() {
                places.push((*field, value.span().start));
            }
        }
        let has = |field: Field| table.keys().find(|key| key.get_ref() == field.key());
        for other in [Field::Weight, Field::Cap] {
            if let (Some(key), Some(_)) = (has(Field::Reservation), has(other)) {
                let text = format!(
                    "{owner}, reservation: there is a {} as well; a guest has either",
                    other.key()
                );
                self.wrong(key.span().start, text);
            }
        }
    }

    fn set(&self, guest: &mut Guest, field: Field, value: &Value<'_>) -> Meaning<()> {
        let file = || values::parsed(value, |text| Source::parse(text, self.folder));
        match field {
            Field::Name => guest.name = values::text(value, guest::check_name)?,
            Field::Kernel => guest.kernel = file()?,
            Field::Initrd => guest.initrd = Some(file()?),
            Field::Cmdline => guest.cmdline = values::text(value, guest::check_cmdline)?,
            Field::Memory => guest.memory = values::memory(value, guest::check_memory)?,
            Field::RamBase => guest.ram_base = values::ram_base(value)?,
            Field::Vcpus => guest.vcpus = values::whole(value, guest::VCPUS)?,
            Field::Cpus => guest.policy.affinity = values::cpus(value)?,
            Field::Weight => {
                let weight = values::whole(value, 1..=MAX_WEIGHT)?;
                guest.policy.class = match guest.policy.class {
                    Class::Fair { cap, .. } => Class::Fair { weight, cap },
                    Class::Reserved { .. } => Class::Fair { weight, cap: None },
                };
            }
            Field::Cap => {
                let cap = Some(values::cap(value)?);
                guest.policy.class = match guest.policy.class {
                    Class::Fair { weight, .. } => Class::Fair { weight, cap },
                    Class::Reserved { .. } => Class::Fair { weight: DEFAULT_WEIGHT, cap },
                };
            }
            Field::Reservation => guest.policy.class = values::reservation(value)?,
            Field::Wfi => guest.policy.wfi = values::choice(value, &Wfi::NAMED)?,
            Field::Autostart => guest.autostart = values::truth(value)?,
            Field::OnCrash => guest.on_crash = values::choice(value, &ON_CRASH)?,
            Field::OnReboot => guest.on_reboot = values::choice(value, &ON_REBOOT)?,
            Field::OnBadAccess => guest.on_bad_access = values::choice(value, &ON_BAD_ACCESS)?,
            Field::Shutdown => guest.shutdown = values::shutdown(value)?,
            Field::Devices => guest.devices = values::devices(value)?,
            Field::Assign => guest.assign = values::nodes(value)?,
            Field::Nets => guest.nets = networks::cards(value, &self.networks)?,
            Field::Keys => guest.keys = values::choice(value, &KEYS)?,
            Field::Ports => guest.ports = ports::ports(value)?,
            Field::Agent => guest.agent = values::truth(value)?,
            Field::Vsock => guest.vsock = vsock::vsock(value)?,
            Field::Disks => guest.disks = disks::disks(value, self.folder)?,
            Field::Balloon => guest.balloon = values::balloon(value)?,
        }
        Ok(())
    }
}
