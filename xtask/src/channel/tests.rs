//! The whole way: clients, socket, frames on a line, and a hypervisor that is a thread.

use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Message};
use super::frames::{START, frame};
use super::server::{FOLLOW, Hub};
use super::socket::Socket;
use crate::console::{drain_line, feed_line};
use crate::paths;

const SOON: Duration = Duration::from_secs(20);

/// A run whose hypervisor answers `echo X` with X and is silent to `silence`.
struct Run {
    socket: Socket,
    shown: Receiver<Vec<u8>>,
    _hub: std::sync::Arc<Hub>,
}

impl Run {
    fn new(name: &str) -> Self {
        let path: PathBuf = paths::scratch(&format!("channel-{name}")).unwrap();
        let socket = Socket::bind(Some(&path)).unwrap();
        let (line_out, to_pc) = std::io::pipe().unwrap();
        let (from_pc, line_in) = std::io::pipe().unwrap();
        let hub = Hub::serve(socket.listener.try_clone().unwrap(), feed_line(line_in));
        let (send, shown) = channel();
        let drained = hub.clone();
        thread::spawn(move || {
            drain_line(line_out, Some(&drained), |bytes| send.send(bytes).is_ok());
        });
        thread::spawn(move || hypervise(from_pc, to_pc));
        Self { socket, shown, _hub: hub }
    }

    fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.socket.path).unwrap()
    }

    fn client(&self) -> Client {
        Client::over(self.stream()).unwrap()
    }

    fn shown(&self, bytes: usize) -> String {
        let mut text = Vec::new();
        while text.len() < bytes {
            text.extend(self.shown.recv_timeout(SOON).unwrap());
        }
        String::from_utf8(text).unwrap()
    }
}

fn hypervise(from: PipeReader, mut to: impl Write) {
    for line in BufReader::new(from).split(b'\n') {
        let line = line.unwrap();
        assert_eq!(line.first(), Some(&START));
        let request: Value = serde_json::from_slice(&line[1..]).unwrap();
        let (id, command) = (&request["id"], request["command"].as_str().unwrap());
        let answer = match command.split_once(' ') {
            Some(("echo", text)) => json!({ "id": id, "ok": true, "result": text }),
            Some(("print", text)) => {
                to.write_all(format!("{text}\r\n").as_bytes()).unwrap();
                json!({ "id": id, "ok": true, "result": null })
            }
            // In the middle of a line.
            Some(("print-around", text)) => {
                to.write_all(text.as_bytes()).unwrap();
                json!({ "id": id, "ok": true, "result": null })
            }
            Some(("unasked", text)) => {
                to.write_all(b"\x1e{\"id\":1,\"ok\":true,\"result\":null}\n").unwrap();
                json!({ "id": id, "ok": true, "result": text })
            }
            Some(("big", count)) => {
                json!({ "id": id, "ok": true, "result": "x".repeat(count.parse().unwrap()) })
            }
            _ if command == "silence" => continue,
            _ => json!({ "id": id, "ok": false, "error": format!("`{command}` is no command") }),
        };
        to.write_all(&frame(&answer.to_string())).unwrap();
    }
}

#[test]
fn several_clients_are_answered_each_with_its_own() {
    let run = Run::new("several");
    let ask = |name: usize, mut client: Client| {
        thread::spawn(move || {
            for turn in 0..50 {
                let text = format!("{name}.{turn}");
                let got = client.ask(&format!("echo {text}"), SOON).unwrap();
                assert_eq!(got, Ok(json!(text)));
            }
        })
    };
    let clients: Vec<_> = (0..4).map(|name| ask(name, run.client())).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_refusal_is_no_failure_of_the_line_but_silence_is() {
    let run = Run::new("refusal");
    let mut client = run.client();
    assert_eq!(client.ask("fly", SOON).unwrap(), Err("`fly` is no command".to_owned()));
    let silent = client.ask("silence", Duration::from_millis(50)).unwrap_err();
    assert!(silent.to_string().contains("did not answer"), "{silent}");
    assert_eq!(client.ask("echo still here", SOON).unwrap(), Ok(json!("still here")));
    let long = client.ask(&"x".repeat(2000), SOON).unwrap().unwrap_err();
    assert!(long.contains("longer"), "{long}");
}

#[test]
fn frames_leave_no_trace_on_the_console() {
    let run = Run::new("trace");
    let mut client = run.client();
    for text in ["lo", "gi", "n:"] {
        assert!(client.ask(&format!("print-around {text}"), SOON).unwrap().is_ok());
    }
    assert_eq!(run.shown(6), "login:");
}

#[test]
fn frames_that_were_typed_on_the_console_are_answered_there() {
    let run = Run::new("typed");
    assert_eq!(run.client().ask("unasked x", SOON).unwrap(), Ok(json!("x")));
    assert_eq!(run.shown(34), "\x1e{\"id\":1,\"ok\":true,\"result\":null}\n");
}

#[test]
fn plain_lines_are_commands_and_replies_come_after_the_last_of_them() {
    let run = Run::new("plain");
    let mut stream = run.stream();
    stream.write_all(b"echo a\n\n{\"id\":\"me\",\"command\":\"echo b\"}\n{broken\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["id"].to_string());
    assert_eq!(lines[0], json!({ "id": "me", "ok": true, "result": "b" }));
    assert_eq!(lines[1], json!({ "id": 1, "ok": true, "result": "a" }));
    assert_eq!(lines[2]["ok"], json!(false));
}

#[test]
fn whoever_follows_gets_what_came_before_and_what_comes() {
    let run = Run::new("follow");
    run.client().ask("print before", SOON).unwrap().unwrap();
    assert_eq!(run.shown(8), "before\r\n");
    let mut client = run.client();
    client.ask(FOLLOW, SOON).unwrap().unwrap();
    client.send("print after").unwrap();
    let mut text = String::new();
    while !text.contains("after\r\n") {
        match client.next(SOON) {
            Some(Message::Output(output)) => text += &output,
            Some(Message::Reply(..)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(text.ends_with("after\r\n"), "{text}");
}

#[test]
fn replies_to_others_are_no_output_for_those_who_follow() {
    let run = Run::new("quiet");
    let mut follower = run.client();
    follower.ask(FOLLOW, SOON).unwrap().unwrap();
    let mut asker = run.client();
    for _ in 0..20 {
        asker.ask("echo x", SOON).unwrap().unwrap();
    }
    asker.ask("print end", SOON).unwrap().unwrap();
    let outputs = std::iter::from_fn(|| match follower.next(SOON) {
        Some(Message::Output(text)) => Some(text),
        other => panic!("{other:?}"),
    });
    let outputs: Vec<_> = outputs.take_while(|text| !text.contains("end")).collect();
    assert!(outputs.is_empty(), "{outputs:?}");
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let run = Run::new("slow");
    let mut dead = run.stream();
    for _ in 0..30 {
        dead.write_all(b"follow\nbig 200000\n").unwrap();
    }
    let mut client = run.client();
    for _ in 0..20 {
        assert!(client.ask("big 100000", SOON).unwrap().is_ok());
        assert!(client.ask("print x", SOON).unwrap().is_ok());
    }
    assert_eq!(run.shown(60), "x\r\n".repeat(20));
}

#[test]
fn a_client_that_goes_while_it_waits_leaves_nothing_behind() {
    let run = Run::new("gone");
    let mut gone = 0;
    while gone < 40 {
        let mut stream = run.stream();
        // Refused as long as there are sixteen before it that are not yet known to be gone.
        match stream.write_all(b"silence\necho a\n") {
            Ok(()) => gone += 1,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    // It takes a moment until all are known to be gone.
    let mut client = loop {
        let mut client = run.client();
        if client.ask("echo a", SOON).is_ok() {
            break client;
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(client.ask("echo b", SOON).unwrap(), Ok(json!("b")));
}

#[test]
fn too_many_clients_are_told_so() {
    let run = Run::new("many");
    let mut clients: Vec<_> = (0..16).map(|_| run.client()).collect();
    for client in &mut clients {
        client.ask("echo a", SOON).unwrap().unwrap();
    }
    for _ in 0..40 {
        let refused = run.client().ask("echo a", SOON).unwrap_err().to_string();
        assert!(refused.contains("16 clients"), "{refused}");
    }
    assert!(clients[0].ask("echo b", SOON).unwrap().is_ok());
}
