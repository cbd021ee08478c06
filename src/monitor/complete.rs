//! How a line can go on: commands, VM names, settings.

use alloc::string::String;
use alloc::vec::Vec;

use super::editor::Completion;
use super::usage::{Argument, USAGES};

/// How `line`, the text before the cursor, can go on, there being VMs of these `names`.
pub fn complete(line: &str, names: &[String]) -> Completion {
    let mut before: Vec<&str> = line.split_ascii_whitespace().collect();
    let word = if line.ends_with(|c: char| c.is_ascii_whitespace()) {
        ""
    } else {
        before.pop().unwrap_or_default()
    };
    let mut words: Vec<&str> = Vec::new();
    for usage in USAGES {
        let same = usage.words.iter().zip(&before).all(|(a, b)| a == b);
        if !same {
            continue;
        }
        match usage.words.get(before.len()) {
            Some(next) => words.push(next),
            None => {
                let given = before.get(usage.words.len()..).unwrap_or_default();
                arguments(usage.arguments, given, names, &mut words);
            }
        }
    }
    if before.as_slice() == ["console"] {
        words.extend(["all", "focus"]);
    }
    let mut sorted: Vec<String> = Vec::new();
    for candidate in words {
        let place = sorted.binary_search_by(|other| other.as_str().cmp(candidate));
        if let Err(new) = place
            && candidate.starts_with(word)
            && !candidate.is_empty()
        {
            sorted.insert(new, String::from(candidate));
        }
    }
    Completion { word: word.len(), words: sorted }
}

/// What can stand after those that are `given`. Options have no place among the others.
fn arguments<'n>(
    arguments: &[Argument],
    given: &[&str],
    names: &'n [String],
    words: &mut Vec<&'n str>,
) {
    let after = given.iter().filter(|word| !word.starts_with("--")).count();
    for (at, argument) in arguments.iter().enumerate() {
        match argument {
            Argument::Settings(settings) if after >= at => {
                words.extend_from_slice(settings);
            }
            Argument::Vm if after == at => words.extend(names.iter().map(String::as_str)),
            // What has a fixed place but may be left out before it.
            Argument::Words(choices) if after <= at => {
                words.extend(choices.iter().filter(|word| !given.contains(word)));
            }
            Argument::Verb(choices) if after == at => words.extend_from_slice(choices),
            Argument::Command if after == at => {
                words.extend(USAGES.iter().filter_map(|usage| usage.words.first()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(line: &str) -> Vec<String> {
        complete(line, &["web".into(), "control".into()]).words
    }

    #[test]
    fn commands_names_and_settings_are_offered_where_they_belong() {
        assert_eq!(choices("s"), ["sched", "stats"]);
        assert_eq!(choices("vm s"), ["start", "stop"]);
        assert_eq!(choices("vm stop "), ["--force", "control", "web"]);
        assert_eq!(choices("vm stop w"), ["web"]);
        assert_eq!(choices("vm stop --force "), ["control", "web"]);
        assert_eq!(choices("vm stop --force w"), ["web"]);
        assert_eq!(choices("vm stop web "), ["--force"]);
        assert!(choices("vm stop --force web ").is_empty());
        assert_eq!(choices("stats web "), ["reset"]);
        assert_eq!(choices("console tail w"), ["web"]);
        assert_eq!(choices("agent "), ["control", "web"]);
        assert_eq!(choices("agent web s"), ["shutdown", "sync"]);
        assert_eq!(choices("sched set web we"), ["weight="]);
        assert_eq!(choices("sched set web weight=1 c"), ["cap=", "cpus="]);
        assert_eq!(choices("sched set web wf"), ["wfi="]);
        assert_eq!(choices("log level d"), ["debug"]);
        assert_eq!(choices("console "), ["all", "control", "focus", "tail", "web"]);
        assert_eq!(choices("help me"), ["memory"]);
        assert!(choices("cpu ").is_empty() && choices("nonsense x").is_empty());
    }
}
