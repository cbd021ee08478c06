//! `cargo xtask top`: a run in progress, live. It asks the monitor once a second, and for the output of the
//! guest that is shown more often.
//!
//! | module | what it is |
//! |---|---|
//! | [`sample`] | what the replies say |
//! | [`model`] | samples become rates and rows |
//! | [`consoles`] | the guests' output |
//! | [`app`] | what is looked at, and what keys do |
//! | [`view`] | rows on a terminal |

mod app;
mod consoles;
mod model;
mod sample;
mod view;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::channel::client::{Client, Message};
use crate::channel::server::FOLLOW;
use crate::cli::TopOptions;
use app::{Action, App, Tab};
use model::Part;

/// How long a reply is waited for before all is asked anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the output of the guest that is shown is asked for.
const TAIL: Duration = Duration::from_millis(250);

/// How often keys and replies are looked for.
const TICK: Duration = Duration::from_millis(50);

/// How many messages are taken before keys are looked for again.
const AT_ONCE: usize = 200;

/// The terminal as it was, on every way out but a panic, for which ratatui has a hook.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

/// Shows the run until the user has seen enough, or the run ends.
pub fn run(options: &TopOptions) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("`top` needs a terminal; `cargo xtask ctl` does not");
    }
    let client = Client::connect(&options.which)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("no signals")?;
    }
    let restored = Restored;
    let mut terminal = ratatui::try_init().context("cannot take the terminal")?;
    let mut top = Top::new(client, Duration::from_secs_f64(options.interval));
    let end = top.watch(&mut terminal, &stop);
    drop(restored);
    match end? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::Signal => Ok(ExitCode::FAILURE),
        End::Over => {
            eprintln!("xtask: the run has ended");
            Ok(ExitCode::SUCCESS)
        }
    }
}

enum End {
    Quit,
    Signal,
    Over,
}

/// What a reply is about.
enum Asked {
    Part(Part),
    Order(String),
    /// More of this guest's output.
    Tail(String),
    Follow,
}

struct Top {
    app: App,
    client: Client,
    interval: Duration,
    start: Instant,
    /// When all was asked for the last time.
    asked: Option<Instant>,
    /// When a guest's output was asked for the last time, and whose.
    tail: Option<(Instant, String)>,
    waiting: BTreeMap<u64, Asked>,
}

impl Top {
    fn new(client: Client, interval: Duration) -> Self {
        let (app, start) = (App::default(), Instant::now());
        Self { app, client, interval, start, asked: None, tail: None, waiting: BTreeMap::new() }
    }

    fn watch(&mut self, terminal: &mut DefaultTerminal, stop: &AtomicBool) -> Result<End> {
        self.send(FOLLOW, Asked::Follow);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(End::Signal);
            }
            self.ask();
            self.ask_tail();
            if !self.listen()? {
                return Ok(End::Over);
            }
            terminal.draw(|frame| view::draw(frame, &self.app)).context("cannot draw")?;
            match event::poll(TICK).and_then(|ready| ready.then(event::read).transpose()) {
                Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c');
                    let action = if interrupt { Action::Quit } else { self.app.key(key.code) };
                    match action {
                        Action::Nothing => {}
                        Action::Quit => return Ok(End::Quit),
                        Action::Send(command) => {
                            self.send(&command, Asked::Order(command.clone()));
                        }
                    }
                }
                Ok(_) => {}
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why).context("cannot read keys"),
            }
        }
    }

    /// Asks for all parts when it is time.
    fn ask(&mut self) {
        let since = self.asked.map(|at| at.elapsed());
        let all_here = !self.waiting.values().any(|asked| matches!(asked, Asked::Part(_)));
        match since {
            Some(since) if since < self.interval => return,
            Some(since) if !all_here && since < PATIENCE => return,
            Some(_) if !all_here => {
                self.waiting.retain(|_, asked| !matches!(asked, Asked::Part(_)));
                self.app.message = Some("the hypervisor does not answer".to_owned());
            }
            _ => {}
        }
        self.asked = Some(Instant::now());
        for part in self.app.parts() {
            self.send(&part.command(), Asked::Part(part));
        }
    }

    /// Asks for more of the output of the guest that is shown, when it is time.
    fn ask_tail(&mut self) {
        let App { tab: Tab::Vm(guest), consoles, .. } = &self.app else { return };
        if self.waiting.values().any(|asked| matches!(asked, Asked::Tail(_))) {
            return;
        }
        let is_new = |(at, whose): &(Instant, String)| whose == guest && at.elapsed() < TAIL;
        if self.tail.as_ref().is_some_and(is_new) && !consoles.is_behind(guest) {
            return;
        }
        let (command, guest) = (consoles.command(guest), guest.clone());
        self.tail = Some((Instant::now(), guest.clone()));
        self.send(&command, Asked::Tail(guest));
    }

    /// Asks for something. That a run is over, and perhaps why, is heard by listening.
    fn send(&mut self, command: &str, asked: Asked) {
        if let Ok(number) = self.client.send(command) {
            self.waiting.insert(number, asked);
        }
    }

    /// Takes what has come. False when the run is over.
    fn listen(&mut self) -> Result<bool> {
        for _ in 0..AT_ONCE {
            match self.client.next(Duration::ZERO) {
                None => break,
                Some(Message::End) => return Ok(false),
                Some(Message::Output(text)) => self.app.consoles.shared.feed(&text),
                // The run refuses us as a whole.
                Some(Message::Reply(0, Err(why))) => bail!("{why}"),
                Some(Message::Reply(number, reply)) => match self.waiting.remove(&number) {
                    Some(Asked::Part(part)) => {
                        self.app.model.take(part, self.start.elapsed(), &reply);
                        self.app.follow_model();
                    }
                    Some(Asked::Order(command)) => {
                        let what = reply.err().unwrap_or_else(|| "ok".to_owned());
                        self.app.message = Some(format!("{command}: {what}"));
                        // What came of it is to be seen soon.
                        self.asked = self.asked.filter(|at| at.elapsed() < self.interval / 4);
                    }
                    // One that is refused has no output now: it does not exist.
                    Some(Asked::Tail(guest)) => {
                        if let Ok(piece) = reply {
                            self.app.consoles.take(&guest, &piece);
                        }
                    }
                    Some(Asked::Follow) | None => {}
                },
            }
        }
        Ok(true)
    }
}
