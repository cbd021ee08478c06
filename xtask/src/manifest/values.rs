//! The values of a manifest: from what TOML says to what it means, or why it means nothing.

use std::fmt;
use std::ops::RangeInclusive;

use plinth::addr::Ipa;
use plinth::machine::CpuId;
use plinth::manifest::{
    Devices, MAX_ASSIGNED, MAX_NODE, MAX_SHUTDOWN, RAM_BASE_ALIGN, RAM_LIMIT, SCROLLBACK, Shutdown,
    is_node,
};
use plinth::sched::policy::{Class, CpuSet, MIN_BUDGET_MICROS, PERIOD_MICROS};
use plinth::vm::layout::RAM_BASE;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeValue};

use super::nearest;
use crate::{guest, size};

/// A value and where it stands.
pub type Value<'a> = Spanned<DeValue<'a>>;

/// What is wrong, and where.
#[derive(Debug)]
pub struct Wrong {
    /// The byte of the file.
    pub at: usize,
    /// The part of the value, for instance `.budget`; empty for the whole.
    pub part: String,
    pub text: String,
}

/// What a value means, or everything that is wrong with it.
pub type Meaning<T> = Result<T, Vec<Wrong>>;

pub(super) fn wrong<T>(value: &Value<'_>, text: impl Into<String>) -> Meaning<T> {
    Err(vec![Wrong { at: value.span().start, part: String::new(), text: text.into() }])
}

pub(super) fn want<T>(value: &Value<'_>, what: &str) -> Meaning<T> {
    match value.get_ref() {
        DeValue::String(text) => wrong(value, format!("`{text}` will not do; want {what}")),
        DeValue::Integer(number) => wrong(value, format!("{number} will not do; want {what}")),
        other => wrong(value, format!("want {what}, got {}", name(other))),
    }
}

/// What a value is called in a message.
fn name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        DeValue::Boolean(_) => "true or false",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Datetime(_) => "a date",
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
    }
}

/// A text that `check` accepts.
pub fn text(value: &Value<'_>, check: impl Fn(&str) -> Result<(), String>) -> Meaning<String> {
    let Some(text) = value.get_ref().as_str() else {
        return wrong(value, format!("want a text in quotes, got {}", name(value.get_ref())));
    };
    match check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => wrong(value, why),
    }
}

/// What `parse` makes of a text.
pub fn parsed<T>(value: &Value<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Meaning<T> {
    let text = text(value, |_| Ok(()))?;
    parse(&text).or_else(|why| wrong(value, why))
}

/// A whole number in `range`.
pub fn whole<N>(value: &Value<'_>, range: RangeInclusive<N>) -> Meaning<N>
where
    N: TryFrom<u64> + PartialOrd + fmt::Display,
{
    match value.get_ref().as_integer().and_then(number).map(N::try_from) {
        Some(Ok(number)) if range.contains(&number) => Ok(number),
        _ => want(value, &format!("a whole number from {} to {}", range.start(), range.end())),
    }
}

fn number(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// `true` or `false`.
pub fn truth(value: &Value<'_>) -> Meaning<bool> {
    match value.get_ref().as_bool() {
        Some(truth) => Ok(truth),
        None => want(value, "true or false"),
    }
}

/// One of a few words.
pub fn choice<T: Copy>(value: &Value<'_>, words: &[(&str, T)]) -> Meaning<T> {
    let found = value.get_ref().as_str().and_then(|text| words.iter().find(|one| one.0 == text));
    match found {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            want(value, &words.join(" or "))
        }
    }
}

/// A size that `check` accepts.
pub fn memory(value: &Value<'_>, check: impl Fn(u64) -> Result<(), String>) -> Meaning<u64> {
    if value.get_ref().is_integer() {
        return want(value, "a size in quotes with a unit, e.g. \"512M\"");
    }
    parsed(value, |text| {
        let bytes = size::parse(text)?;
        check(bytes).map(|()| bytes)
    })
}

/// A balloon: what the guest keeps. False is for none, where the defaults have one.
pub fn balloon(value: &Value<'_>) -> Meaning<Option<u64>> {
    if value.get_ref().as_bool() == Some(false) {
        return Ok(None);
    }
    let Some(table) = value.get_ref().as_table() else {
        return want(value, "a table as in { min = \"128M\" }, or false");
    };
    let (mut wrongs, mut min) = (Vec::new(), None);
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if name != "min" {
            let text = format!("unknown field{}", nearest::hint(name, &["min"]));
            wrongs.push(Wrong { at: key.span().start, part: format!(".{name}"), text });
            continue;
        }
        match memory(value, guest::check_balloon) {
            Ok(bytes) => min = Some(bytes),
            Err(why) => wrongs.extend(why.into_iter().map(|why| below(why, name))),
        }
    }
    if !table.keys().any(|key| key.get_ref() == "min") {
        let text = "the field is missing".to_owned();
        wrongs.push(Wrong { at: value.span().start, part: ".min".to_owned(), text });
    }
    if wrongs.is_empty() { Ok(min) } else { Err(wrongs) }
}

/// How much output is kept.
pub fn scrollback(value: &Value<'_>) -> Meaning<u32> {
    let (least, most) = (*SCROLLBACK.start(), *SCROLLBACK.end());
    let out_of_range = |bytes| {
        let (least, most) = (size::show(least.into()), size::show(most.into()));
        format!("{}; a guest's scrollback is {least} to {most}", size::show(bytes))
    };
    let bytes = memory(value, |bytes| match u32::try_from(bytes) {
        Ok(bytes) if SCROLLBACK.contains(&bytes) => Ok(()),
        _ => Err(out_of_range(bytes)),
    })?;
    Ok(u32::try_from(bytes).unwrap_or(most))
}

/// The escape key's control code.
pub fn escape(value: &Value<'_>) -> Meaning<u8> {
    let letter = value.get_ref().as_str().and_then(|text| {
        let (control, letter) = text.split_once('-')?;
        match letter.as_bytes() {
            [letter] if control.eq_ignore_ascii_case("ctrl") => Some(letter.to_ascii_uppercase()),
            _ => None,
        }
    });
    match letter {
        // Tab, line feed and Enter are needed for themselves.
        Some(letter @ b'A'..=b'Z') if !b"IJM".contains(&letter) => Ok(letter - b'A' + 1),
        _ => want(value, "\"Ctrl-A\" to \"Ctrl-Z\", but not Ctrl-I, Ctrl-J or Ctrl-M"),
    }
}

/// A set of CPUs: `"0-1,3"`, `[0, 1, 3]`, or a single number.
pub fn cpus(value: &Value<'_>) -> Meaning<CpuSet> {
    const WANT: &str = "CPU numbers from 0 to 255, as in \"0-1,3\" or [0, 1, 3]";
    let set = match value.get_ref() {
        DeValue::String(text) => match ranges(text) {
            Some(set) => set,
            None => return want(value, WANT),
        },
        DeValue::Array(list) => {
            let set = each(list, |one| whole(one, 0..=255))?;
            set.into_iter().fold(CpuSet::EMPTY, |set, number| set.with(CpuId(number)))
        }
        DeValue::Integer(_) => CpuSet::EMPTY.with(CpuId(whole(value, 0..=255)?)),
        _ => return want(value, WANT),
    };
    if set.is_empty() { wrong(value, format!("it names no CPU; want {WANT}")) } else { Ok(set) }
}

fn ranges(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::EMPTY;
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u8>().ok()?, last.trim().parse::<u8>().ok()?);
        if first > last {
            return None;
        }
        set = (first..=last).fold(set, |set, number| set.with(CpuId(number)));
    }
    Some(set)
}

/// What each member of a list means, or everything that is wrong with any.
pub(super) fn each<T>(
    list: &DeArray<'_>,
    mut meaning: impl FnMut(&Value<'_>) -> Meaning<T>,
) -> Meaning<Vec<T>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for value in list.iter() {
        match meaning(value) {
            Ok(one) => good.push(one),
            Err(wrongs) => bad.extend(wrongs),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// Hundredths of a CPU: `"150%"` or `150`. How many are possible depends on the vCPUs.
pub fn cap(value: &Value<'_>) -> Meaning<u16> {
    let percent = match value.get_ref() {
        DeValue::String(text) => text.trim().strip_suffix('%').and_then(|text| text.parse().ok()),
        DeValue::Integer(integer) => number(integer).and_then(|number| u16::try_from(number).ok()),
        _ => None,
    };
    match percent {
        Some(percent @ 1..=800) => Ok(percent),
        _ => want(value, "hundredths of a CPU, 1 to 100 for each vCPU, as in \"150%\" or 150"),
    }
}

/// `{ budget = "2ms", period = "10ms" }`.
pub fn reservation(value: &Value<'_>) -> Meaning<Class> {
    let Some(table) = value.get_ref().as_table() else {
        return want(value, "a table as in { budget = \"2ms\", period = \"10ms\" }");
    };
    let mut wrongs = Vec::new();
    let (mut budget, mut period) = (None, None);
    for (key, value) in table {
        let field = match key.get_ref().as_ref() {
            "budget" => &mut budget,
            "period" => &mut period,
            other => {
                let text = format!("unknown field{}", nearest::hint(other, &["budget", "period"]));
                wrongs.push(Wrong { at: key.span().start, part: format!(".{other}"), text });
                continue;
            }
        };
        match parsed(value, micros) {
            Ok(micros) => *field = Some((micros, value)),
            Err(why) => wrongs.extend(why.into_iter().map(|why| below(why, key.get_ref()))),
        }
    }
    for name in ["budget", "period"] {
        if !table.keys().any(|key| key.get_ref() == name) {
            let text = "the field is missing".to_owned();
            wrongs.push(Wrong { at: value.span().start, part: format!(".{name}"), text });
        }
    }
    if let Some((period, value)) = period
        && !PERIOD_MICROS.contains(&period)
    {
        let (least, most) =
            (show_micros(*PERIOD_MICROS.start()), show_micros(*PERIOD_MICROS.end()));
        let text = format!("{}; a period is {least} to {most}", show_micros(period));
        wrongs.push(Wrong { at: value.span().start, part: ".period".to_owned(), text });
    }
    if let Some((budget, value)) = budget {
        let most = period.map_or(*PERIOD_MICROS.end(), |(period, _)| period);
        if !(MIN_BUDGET_MICROS..=most).contains(&budget) {
            let (budget, least) = (show_micros(budget), show_micros(MIN_BUDGET_MICROS));
            let text = format!("{budget}; a budget is {least} to the period");
            wrongs.push(Wrong { at: value.span().start, part: ".budget".to_owned(), text });
        }
    }
    match (budget, period) {
        (Some((budget, _)), Some((period, _))) if wrongs.is_empty() => {
            Ok(Class::Reserved { budget, period })
        }
        _ => Err(wrongs),
    }
}

/// `"button"`, `"agent"` or `{ console = "poweroff\n" }`.
pub fn shutdown(value: &Value<'_>) -> Meaning<Shutdown> {
    const WANT: &str = "\"button\", \"agent\" or a table as in { console = \"poweroff\\n\" }";
    let table = match value.get_ref() {
        DeValue::String(word) if word == "button" => return Ok(Shutdown::Button),
        DeValue::String(word) if word == "agent" => return Ok(Shutdown::Agent),
        DeValue::Table(table) => table,
        _ => return want(value, WANT),
    };
    let (mut typed, mut wrongs) = (None, Vec::new());
    for (key, value) in table {
        let name = key.get_ref();
        if name != "console" {
            let text = format!("unknown field{}", nearest::hint(name, &["console"]));
            wrongs.push(Wrong { at: key.span().start, part: format!(".{name}"), text });
            continue;
        }
        match text(value, typable) {
            Ok(text) => typed = Some(text),
            Err(why) => wrongs.extend(why.into_iter().map(|why| below(why, name))),
        }
    }
    match typed {
        Some(text) if wrongs.is_empty() => Ok(Shutdown::Console(text)),
        _ if wrongs.is_empty() => want(value, WANT),
        _ => Err(wrongs),
    }
}

fn typable(text: &str) -> Result<(), String> {
    match text.len() {
        1..=MAX_SHUTDOWN => Ok(()),
        length => Err(format!("it is {length} bytes long; 1 to {MAX_SHUTDOWN} are possible")),
    }
}

/// What is wrong with a part called `name`.
pub(super) fn below(wrong: Wrong, name: &str) -> Wrong {
    Wrong { part: format!(".{name}{}", wrong.part), ..wrong }
}

/// A span of time in microseconds.
fn micros(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "us" => Some(1),
        "ms" => Some(1_000),
        "s" => Some(1_000_000),
        _ => None,
    };
    let number = digits.parse::<u32>().ok();
    unit.zip(number).and_then(|(unit, number)| number.checked_mul(unit)).ok_or_else(|| {
        format!(
            "`{text}` is no span of time; want a whole number and a unit us, ms or s, e.g. 10ms"
        )
    })
}

/// A span of time for people.
pub fn show_micros(micros: u32) -> String {
    match micros {
        0 => "0us".to_owned(),
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
        _ => format!("{micros}us"),
    }
}

/// A list of device names.
pub fn devices(value: &Value<'_>) -> Meaning<Devices> {
    let Some(list) = value.get_ref().as_array() else {
        return want(value, "a list of devices as in [\"rtc\"]");
    };
    let named = each(list, |one| {
        parsed(one, |text| {
            let device = Devices::NAMED.iter().find(|(name, _)| *name == text);
            let known = Devices::NAMED.map(|(name, _)| name);
            let unknown = || format!("there is no device `{text}`{}", nearest::hint(text, &known));
            device.map(|(_, device)| *device).ok_or_else(unknown)
        })
    })?;
    Ok(named.into_iter().fold(Devices::NONE, Devices::with))
}

/// A list of nodes of the board's device tree.
pub fn nodes(value: &Value<'_>) -> Meaning<Vec<String>> {
    let list = match value.get_ref().as_array() {
        Some(list) if list.len() <= MAX_ASSIGNED => list,
        Some(list) => return wrong(value, format!("{} nodes; {MAX_ASSIGNED} at most", list.len())),
        None => {
            return want(
                value,
                "a list of nodes of the board's device tree as in [\"pl011@9040000\"]",
            );
        }
    };
    each(list, |one| {
        text(one, |name| {
            let why = || format!("a node is named by 1 to {MAX_NODE} printable ASCII characters");
            is_node(name).then_some(()).ok_or_else(why)
        })
    })
}

/// Where RAM starts: a number, or a text with one, in hexadecimal or decimal.
pub fn ram_base(value: &Value<'_>) -> Meaning<Ipa> {
    let address = match value.get_ref() {
        DeValue::String(text) => match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(&hex.replace('_', ""), 16).ok(),
            None => text.parse().ok(),
        },
        DeValue::Integer(integer) => number(integer),
        _ => None,
    };
    match address.map(Ipa::new) {
        Some(base)
            if base >= RAM_BASE && base.raw() < RAM_LIMIT && base.is_aligned(RAM_BASE_ALIGN) =>
        {
            Ok(base)
        }
        _ => want(
            value,
            &format!(
                "an address that is a multiple of {} from {:#x} to below {RAM_LIMIT:#x}",
                size::show(RAM_BASE_ALIGN),
                RAM_BASE.raw()
            ),
        ),
    }
}
