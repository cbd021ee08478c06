//! The view on a terminal of memory.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use serde_json::json;

use super::draw;
use crate::top::app::App;
use crate::top::model::Part;
use crate::top::model::tests::{any_part, odd_reply};

fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width.max(1)));
    lines.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
}

fn sampled() -> App {
    let mut app = App::default();
    for (second, factor) in [(1, 0), (2, 1)] {
        let at = Duration::from_secs(second);
        let mut take = |part, reply| app.model.take(part, at, &Ok(reply));
        take(
            Part::Vms,
            json!([{"id": 0, "name": "debian", "state": "running", "vcpus": 2, "memory": 512 << 20,
                    "cpu_micros": 1_500_000 * factor, "exits": 12_345 * factor, "resets": 1},
                   {"id": 1, "name": "hello", "state": "paused", "vcpus": 1, "memory": 128 << 20, "given_back": 64 << 20}]),
        );
        take(
            Part::Cpus,
            json!([{"id": 0, "running": "debian/0", "ready": 1, "guest_micros": 700_000 * factor,
                    "hypervisor_micros": 50_000 * factor, "idle_micros": 250_000 * factor}]),
        );
        take(
            Part::Memory,
            json!({"total": 2048_u64 << 20, "free": 1472_u64 << 20, "heap_total": 4 << 20}),
        );
        take(
            Part::Stats,
            json!([{"name": "debian", "exits": [{"reason": "wfi", "count": 300 * factor, "nanos": 600_000 * factor}]}]),
        );
        take(Part::Sched, json!([{"name": "debian", "weight": 200, "cap": 150}]));
        take(
            Part::Vcpus("debian".to_owned()),
            json!({"vcpu_list": [{"id": 1, "state": "waiting", "cpu": 0, "cpu_micros": 250_000 * factor}]}),
        );
    }
    app.consoles.shared.feed("[debian] login: \r\n[hello] hi\r\n");
    let piece = json!({"from": 0, "next": 7, "end": 7, "text": "login: "});
    app.consoles.take("debian", &piece);
    app.follow_model();
    app
}

/// The line of the screen with this text.
fn line<'a>(screen: &'a [String], with: &str) -> &'a str {
    screen
        .iter()
        .find(|line| line.contains(with))
        .unwrap_or_else(|| panic!("no {with}: {screen:#?}"))
}

#[test]
fn the_overview_shows_cpus_vms_memory_and_exits() {
    let screen = screen(&sampled(), 110, 30);
    assert!(
        screen[0].contains("overview")
            && screen[0].contains("hello")
            && screen[0].contains("consoles")
    );
    let cpu = line(&screen, "debian/0");
    assert!(cpu.contains("75.0 %") && cpu.contains("70.0 %") && cpu.contains("5.0 %"), "{cpu}");
    let vm = line(&screen, "512 MiB");
    for text in ["debian", "running", "150.0 %", "12.3k", "weight 200, cap 150 %"] {
        assert!(vm.contains(text), "{text}: {vm}");
    }
    assert!(line(&screen, "64 MiB").contains("paused"));
    line(&screen, "guests 576 MiB of 2048 MiB, hypervisor's heap - of 4096 KiB");
    let wfi = line(&screen, "wfi");
    assert!(wfi.contains("300") && wfi.contains("2.0 us"), "{wfi}");
    assert!(screen[29].contains("q quit"));
}

#[test]
fn a_vms_tab_shows_its_vcpus_exits_and_console() {
    let mut app = sampled();
    app.key(KeyCode::Tab);
    let shown = screen(&app, 100, 30);
    assert!(line(&shown, "waiting").contains("25.0 %"));
    line(&shown, "wfi");
    assert!(!line(&shown, "login:").contains("[debian]"));
    assert!(!shown.concat().contains("hi "), "another's console");
    app.key(KeyCode::Left);
    app.key(KeyCode::Left);
    line(&screen(&app, 100, 30), "[hello] hi");
}

#[test]
fn a_question_and_messages_take_the_place_of_the_keys() {
    let mut app = sampled();
    app.key(KeyCode::Char('k'));
    assert!(screen(&app, 100, 30)[29].contains("power debian off"));
    app.key(KeyCode::Char('n'));
    assert!(screen(&app, 100, 30)[29].contains("left alone"));
}

#[test]
fn a_run_of_which_nothing_is_known_is_shown_as_that() {
    let screen = screen(&App::default(), 80, 24);
    line(&screen, "guests - of -");
}

proptest! {
    #![proptest_config(Config { cases: 30, failure_persistence: None, ..Config::default() })]

    #[test]
    fn anything_can_be_drawn_on_any_terminal(
        replies in prop::collection::vec((any_part(), odd_reply()), 0..10),
        text in any::<String>(),
        keys in prop::collection::vec(0u8..5, 0..6),
        (width, height) in (1u16..130, 1u16..40),
    ) {
        let mut app = App::default();
        app.consoles.shared.feed(&text);
        app.consoles.take("a", &json!({"from": 0, "next": 9, "end": 9, "text": text}));
        for (second, (part, reply)) in (0..).zip(replies) {
            app.model.take(part, Duration::from_secs(second), &Ok(reply));
            app.follow_model();
        }
        for key in keys {
            let key = [KeyCode::Tab, KeyCode::Left, KeyCode::Down, KeyCode::Char('k'), KeyCode::Char('p')]
                [usize::from(key)];
            app.key(key);
            screen(&app, width, height);
        }
    }
}
