//! `cargo xtask ctl`: commands for the monitor of a run, and its replies as text or JSON.

mod text;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::channel::client::Client;
use crate::cli::CtlOptions;

/// Sends the command, or those on standard input. Fails when one is refused.
pub fn run(options: &CtlOptions) -> Result<ExitCode> {
    let mut words: Vec<&str> = options.command.iter().map(String::as_str).collect();
    // No command of the monitor ends so, and fingers do.
    let json = words.pop_if(|last| *last == "--json").is_some() || options.json;
    let mut session = Session {
        client: Client::connect(&options.which)?,
        patience: Duration::from_secs_f64(options.timeout),
        json,
    };
    let out = &mut std::io::stdout().lock();
    let done = if words.is_empty() {
        let stdin = std::io::stdin().lock();
        let prompt = if stdin.is_terminal() { "ctl> " } else { "" };
        session.lines(stdin, prompt, out)?
    } else {
        session.one(&words.join(" "), out)?
    };
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Session {
    client: Client,
    patience: Duration,
    json: bool,
}

impl Session {
    /// Sends the command on each line; whether all were carried out.
    fn lines(&mut self, from: impl BufRead, prompt: &str, out: &mut impl Write) -> Result<bool> {
        let mut all = true;
        eprint!("{prompt}");
        for line in from.lines() {
            let line = line.context("cannot read commands")?;
            if !line.trim().is_empty() {
                all &= self.one(line.trim(), out)?;
            }
            eprint!("{prompt}");
        }
        Ok(all)
    }

    /// Sends a command and prints the reply; whether it was carried out.
    fn one(&mut self, command: &str, out: &mut impl Write) -> Result<bool> {
        match self.client.ask(command, self.patience)? {
            Ok(result) => {
                let text = match self.json {
                    true => format!("{result}\n"),
                    false => text::render(&result),
                };
                out.write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .context("cannot print")?;
                Ok(true)
            }
            Err(why) => {
                eprintln!("error: {}", text::printable(&why));
                Ok(false)
            }
        }
    }
}
