//! What the user looks at, and what keys do. Pure: a key in, an action out.

use ratatui::crossterm::event::KeyCode;

use super::consoles::Consoles;
use super::model::{Model, Part};

/// What is shown.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Tab {
    #[default]
    Overview,
    /// One VM.
    Vm(String),
    Consoles,
}

/// What is to be done about a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    Nothing,
    Quit,
    /// Send the monitor this command.
    Send(String),
}

/// The live view's state.
#[derive(Debug, Default)]
pub struct App {
    pub model: Model,
    pub consoles: Consoles,
    pub tab: Tab,
    /// Which line of the VMs' table is chosen.
    pub chosen: usize,
    /// The VM that is to be powered off, when the user says so again.
    pub condemned: Option<String>,
    /// What the last action came to.
    pub message: Option<String>,
}

impl App {
    /// All tabs, in their order.
    pub fn tabs(&self) -> Vec<Tab> {
        let vms = self.model.names().into_iter().map(Tab::Vm);
        [Tab::Overview].into_iter().chain(vms).chain([Tab::Consoles]).collect()
    }

    /// What is to be asked for now.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::Vms, Part::Cpus, Part::Memory, Part::Stats, Part::Sched];
        if let Tab::Vm(name) = &self.tab {
            parts.push(Part::Vcpus(name.clone()));
        }
        parts
    }

    /// To be called when the model has changed: what has gone is not shown or chosen any more.
    pub fn follow_model(&mut self) {
        if !self.tabs().contains(&self.tab) {
            self.tab = Tab::Overview;
        }
        let names = self.model.names();
        self.consoles.keep(&names);
        self.chosen = self.chosen.min(names.len().saturating_sub(1));
        self.condemned.take_if(|name| !names.contains(name));
    }

    /// The VM that keys act on.
    pub fn target(&self) -> Option<String> {
        match &self.tab {
            Tab::Overview => self.model.names().get(self.chosen).cloned(),
            Tab::Vm(name) => Some(name.clone()),
            Tab::Consoles => None,
        }
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyCode) -> Action {
        if let Some(name) = self.condemned.take() {
            return match key {
                KeyCode::Char('y' | 'Y') => Action::Send(format!("vm stop --force {name}")),
                _ => self.say("left alone"),
            };
        }
        self.message = None;
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(-1),
            KeyCode::Up => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down => {
                let last = self.model.names().len().saturating_sub(1);
                self.chosen = (self.chosen + 1).min(last);
            }
            KeyCode::Char(c @ ('p' | 's' | 'r' | 'k')) => return self.order(c),
            _ => {}
        }
        Action::Nothing
    }

    fn order(&mut self, key: char) -> Action {
        let Some(name) = self.target() else { return self.say("choose a VM first") };
        let paused = self.model.state(&name) == Some("paused");
        match key {
            'p' if paused => Action::Send(format!("vm resume {name}")),
            'p' => Action::Send(format!("vm pause {name}")),
            's' => Action::Send(format!("vm start {name}")),
            'r' => Action::Send(format!("vm reset {name}")),
            _ => {
                self.condemned = Some(name);
                Action::Nothing
            }
        }
    }

    fn say(&mut self, what: &str) -> Action {
        self.message = Some(what.to_owned());
        Action::Nothing
    }

    fn turn(&mut self, by: isize) {
        let mut tabs = self.tabs();
        let now = tabs.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        let count = tabs.len().cast_signed();
        let next = (now.cast_signed() + by).rem_euclid(count).unsigned_abs();
        self.tab = tabs.swap_remove(next);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::crossterm::event::KeyCode;
    use serde_json::json;

    use super::{Action, App, Tab};
    use crate::top::model::Part;

    fn app(vms: &[(&str, &str)]) -> App {
        let mut app = App::default();
        see(&mut app, vms);
        app
    }

    fn see(app: &mut App, vms: &[(&str, &str)]) {
        let list = vms.iter().map(|(name, state)| json!({"name": name, "state": state}));
        app.model.take(Part::Vms, Duration::ZERO, &Ok(list.collect()));
        app.follow_model();
    }

    fn send(command: &str) -> Action {
        Action::Send(command.to_owned())
    }

    #[test]
    fn keys_act_on_the_chosen_vm() {
        let mut app = app(&[("a", "running"), ("b", "paused")]);
        assert_eq!(app.key(KeyCode::Char('p')), send("vm pause a"));
        app.key(KeyCode::Down);
        app.key(KeyCode::Down);
        assert_eq!(app.key(KeyCode::Char('p')), send("vm resume b"));
        assert_eq!(app.key(KeyCode::Char('s')), send("vm start b"));
        app.key(KeyCode::Tab);
        assert_eq!(app.key(KeyCode::Char('r')), send("vm reset a"), "the tab's VM");
        app.key(KeyCode::BackTab);
        app.key(KeyCode::Left);
        assert_eq!(app.tab, Tab::Consoles);
        assert_eq!(app.key(KeyCode::Char('r')), Action::Nothing);
        assert_eq!(app.key(KeyCode::Char('q')), Action::Quit);
    }

    #[test]
    fn powering_off_by_force_wants_a_second_key() {
        let mut app = app(&[("a", "running")]);
        assert_eq!(app.key(KeyCode::Char('k')), Action::Nothing);
        assert_eq!(app.key(KeyCode::Char('q')), Action::Nothing);
        assert_eq!(app.key(KeyCode::Char('y')), Action::Nothing);
        app.key(KeyCode::Char('k'));
        assert_eq!(app.key(KeyCode::Char('y')), send("vm stop --force a"));
        app.key(KeyCode::Char('k'));
        see(&mut app, &[("b", "running")]);
        assert_eq!(app.key(KeyCode::Char('y')), Action::Nothing, "it is gone, and b was not meant");
    }

    #[test]
    fn what_has_gone_is_left() {
        let mut app = app(&[("a", "running"), ("b", "running")]);
        app.key(KeyCode::Down);
        app.key(KeyCode::Left);
        app.key(KeyCode::Left);
        assert_eq!(app.tab, Tab::Vm("b".to_owned()));
        assert!(app.parts().contains(&Part::Vcpus("b".to_owned())));
        see(&mut app, &[("a", "running")]);
        assert_eq!((&app.tab, app.target().as_deref()), (&Tab::Overview, Some("a")));
        see(&mut app, &[]);
        for key in ['p', 's', 'r', 'k'] {
            assert_eq!(app.key(KeyCode::Char(key)), Action::Nothing);
        }
    }
}
