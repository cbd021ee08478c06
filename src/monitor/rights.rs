//! What a guest may ask the monitor by a socket, and how it is answered.
//!
//! What is to be seen with [`Rights::Read`] is what the hypervisor knows of itself and of how guests run. What is
//! *in* a guest, its registers and its output, is for those that may do everything to it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::command::Command;
use super::{Control, Refusal, execute, json, table};
use crate::manifest::Rights;
use crate::virtio::vsock::connections::MOST_ANSWER;

/// What a command takes.
pub const fn needed(command: &Command) -> Rights {
    match command {
        Command::Help(_)
        | Command::VmList
        | Command::VmInfo(_)
        | Command::Cpu
        | Command::Memory
        | Command::Irq(_)
        | Command::Sched
        | Command::Stats(_)
        | Command::Console(None) => Rights::Read,
        Command::VmDump(_)
        | Command::VmChange(..)
        | Command::Agent(..)
        | Command::SchedSet(..)
        | Command::StatsReset(_)
        | Command::LogLevel(_)
        | Command::Console(Some(_))
        | Command::ConsoleTail(..)
        | Command::Quit
        | Command::PowerOff
        | Command::Reboot => Rights::Control,
    }
}

/// The command that a line of a guest's is, if it may have it carried out.
pub fn permitted(line: &[u8], rights: Rights) -> Option<Command> {
    if is_request(line) {
        permit(&json::request(line).ok()?.command, rights).ok()
    } else {
        permit(core::str::from_utf8(line).ok()?, rights).ok()
    }
}

/// What a guest with `rights` is answered to a line.
pub fn answer(line: &[u8], rights: Rights, control: &mut impl Control) -> Vec<u8> {
    let mut answer = if is_request(line) {
        let mut text = request(line, rights, control);
        text.push('\n');
        text
    } else {
        let text = String::from_utf8_lossy(line);
        match permit(&text, rights).and_then(|command| execute(&command, control)) {
            Ok(reply) => table::render(&reply),
            Err(refusal) => format!("{refusal}\n"),
        }
    };
    if answer.len() > MOST_ANSWER {
        answer = format!("the answer has {} bytes, of {MOST_ANSWER} at most\n", answer.len());
    }
    answer.into_bytes()
}

fn is_request(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"{")
}

fn request(line: &[u8], rights: Rights, control: &mut impl Control) -> String {
    let request = match json::request(line) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let done = permit(&request.command, rights).and_then(|command| execute(&command, control));
    let answer = match done {
        Ok(reply) => json::answer(request.id, &reply),
        Err(refusal) => json::refusal(Some(request.id), &refusal.to_string()),
    };
    if answer.len() < MOST_ANSWER {
        return answer;
    }
    json::refusal(Some(request.id), "the answer is too long for a socket")
}

fn permit(text: &str, rights: Rights) -> Result<Command, Refusal> {
    let command = text.parse::<Command>()?;
    if rights < needed(&command) {
        let words = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        return Err(Refusal::Denied(format!(
            "`{words}` is not for this guest: its manifest says vsock.monitor = \"{}\", and this takes \"{}\"",
            rights.name(),
            needed(&command).name(),
        )));
    }
    Ok(command)
}
