//! Whose request is whose: clients choose their numbers as they like, the line has its own.
//!
//! Pure: requests of clients in, frames out; frames in, replies for clients out. Requests go out in the
//! order they came, a few at a time: the hypervisor refuses what it cannot queue.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest text of a request that the hypervisor reads, in bytes.
pub use plinth::console::frame::LONGEST;

/// How many requests of one client may wait for their replies.
pub const WAITING: usize = 32;

/// How many requests are sent before one of them is answered. The hypervisor queues eight.
pub const IN_FLIGHT: usize = 4;

/// How long an answer is waited for before others are sent all the same.
pub const STUCK: Duration = Duration::from_secs(5);

/// How long a request waits before it is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers on the line are larger. What is typed on the console may be frames as well, whose
/// writers count from 1.
const OURS: u64 = 1 << 32;

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Request {
    /// The client's own name for it: any JSON value.
    #[serde(default)]
    pub id: Value,
    /// As the monitor takes it.
    pub command: String,
}

/// A reply, as a client gets it and as the hypervisor sends it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reply {
    #[serde(default)]
    pub id: Value,
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Reply {
    /// The reply that all is well.
    pub fn done(id: Value) -> Self {
        Self { id, ok: true, result: Some(Value::Null), error: None }
    }

    /// The reply that says why not.
    pub fn refusal(id: Value, why: impl Into<String>) -> Self {
        Self { id, ok: false, result: None, error: Some(why.into()) }
    }

    /// One line of JSON, its line feed included.
    pub fn line(&self) -> String {
        // Values and texts always have a JSON form.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Reads a client's line: a JSON object, or a command as typed, which is known by the line's number.
pub fn read(line: &str, number: u64) -> Result<Request, Box<Reply>> {
    let line = line.trim();
    if !line.starts_with('{') {
        return Ok(Request { id: number.into(), command: line.to_owned() });
    }
    serde_json::from_str(line).map_err(|why| {
        let object = serde_json::from_str::<Value>(line).unwrap_or_default();
        let id = object.get("id").cloned().unwrap_or_default();
        Box::new(Reply::refusal(id, format!("this is no request: {why}")))
    })
}

struct Waiting {
    client: u64,
    id: Value,
    since: Instant,
    stage: Stage,
}

enum Stage {
    /// To be sent, with this text.
    Queued(String),
    Sent(Instant),
}

/// Whose a frame is.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The reply to a request of this client.
    To(u64, Reply),
    /// The reply to a request that nobody waits for any more.
    Late,
    /// It has nothing to do with clients.
    Other,
}

/// The requests that wait for their replies.
pub struct Exchange {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self { last: OURS, waiting: BTreeMap::new() }
    }
}

impl Exchange {
    /// Queues a client's request; or gives the reply at once.
    pub fn ask(&mut self, client: u64, request: Request, now: Instant) -> Result<(), Box<Reply>> {
        let Request { id, command } = request;
        let refuse = |id, why| Err(Box::new(Reply::refusal(id, why)));
        if self.waiting(client) >= WAITING {
            return refuse(id, format!("{WAITING} requests wait for replies already"));
        }
        let number = self.last + 1;
        let text = serde_json::json!({ "id": number, "command": command }).to_string();
        if text.len() > LONGEST {
            return refuse(id, format!("the command is longer than {LONGEST} bytes"));
        }
        self.last = number;
        let stage = Stage::Queued(text);
        self.waiting.insert(number, Waiting { client, id, since: now, stage });
        Ok(())
    }

    /// The text of the next frame to send; none when nothing is queued, or enough is on its way.
    pub fn send(&mut self, now: Instant) -> Option<String> {
        let on_its_way = |waiting: &&Waiting| match waiting.stage {
            Stage::Queued(_) => false,
            Stage::Sent(at) => now.saturating_duration_since(at) < STUCK,
        };
        if self.waiting.values().filter(on_its_way).count() >= IN_FLIGHT {
            return None;
        }
        let queued = |waiting: &&mut Waiting| matches!(waiting.stage, Stage::Queued(_));
        let next = self.waiting.values_mut().find(queued)?;
        match std::mem::replace(&mut next.stage, Stage::Sent(now)) {
            Stage::Queued(text) => Some(text),
            Stage::Sent(_) => None,
        }
    }

    /// Whose a frame with this text is.
    pub fn answer(&mut self, text: &[u8]) -> Answer {
        let Ok(mut reply) = serde_json::from_slice::<Reply>(text) else { return Answer::Other };
        let Some(number) = reply.id.as_u64().filter(|number| *number > OURS) else {
            return Answer::Other;
        };
        let Some(waiting) = self.waiting.remove(&number) else {
            // Larger ones were never ours: somebody typed the request on the console.
            return if number <= self.last { Answer::Late } else { Answer::Other };
        };
        if reply.ok {
            // `null` is a result as well.
            reply.result.get_or_insert(Value::Null);
        }
        Answer::To(waiting.client, Reply { id: waiting.id, ..reply })
    }

    /// Gives up what has waited too long.
    pub fn give_up(&mut self, now: Instant) -> Vec<(u64, Reply)> {
        let late = |waiting: &Waiting| now.saturating_duration_since(waiting.since) >= PATIENCE;
        let (gone, kept) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, waiting)| late(waiting));
        self.waiting = kept;
        let gone: BTreeMap<u64, Waiting> = gone;
        let why = format!("the hypervisor has not answered for {} s", PATIENCE.as_secs());
        let reply = |gone: Waiting| (gone.client, Reply::refusal(gone.id, why.clone()));
        gone.into_values().map(reply).collect()
    }

    /// How many of a client's requests wait.
    pub fn waiting(&self, client: u64) -> usize {
        self.waiting.values().filter(|waiting| waiting.client == client).count()
    }

    /// A client has gone.
    pub fn forget(&mut self, client: u64) {
        self.waiting.retain(|_, waiting| waiting.client != client);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::test_runner::Config;
    use serde_json::{Value, json};

    use super::{
        Answer, Exchange, IN_FLIGHT, OURS, PATIENCE, Reply, Request, STUCK, WAITING, read,
    };

    fn request(id: Value, command: &str) -> Request {
        Request { id, command: command.to_owned() }
    }

    fn to(answer: Answer) -> (u64, Reply) {
        match answer {
            Answer::To(client, reply) => (client, reply),
            other => panic!("{other:?}"),
        }
    }

    fn number(text: &str) -> u64 {
        serde_json::from_str::<Value>(text).unwrap()["id"].as_u64().unwrap()
    }

    #[test]
    fn a_line_is_a_command_or_an_object() {
        assert_eq!(read(" vm list\r\n", 3), Ok(request(json!(3), "vm list")));
        let line = r#"{"command":"cpu","id":"a"}"#;
        assert_eq!(read(line, 3), Ok(request(json!("a"), "cpu")));
        assert_eq!(read(r#"{"command":"cpu"}"#, 3), Ok(request(Value::Null, "cpu")));
        for (line, id) in
            [(r#"{"id":7}"#, json!(7)), ("{", Value::Null), (r#"{"id":1,"command":2}"#, json!(1))]
        {
            let reply = read(line, 3).unwrap_err();
            assert_eq!((reply.ok, reply.id), (false, id), "{line}");
        }
    }

    #[test]
    fn two_clients_with_the_same_number_get_their_own_replies() {
        let mut exchange = Exchange::default();
        let now = Instant::now();
        exchange.ask(1, request(json!(1), "cpu"), now).unwrap();
        exchange.ask(2, request(json!(1), "irq"), now).unwrap();
        let (first, second) = (exchange.send(now).unwrap(), exchange.send(now).unwrap());
        assert!(first.contains(r#""command":"cpu""#), "{first}");
        let answer = |number, what| json!({"id": number, "ok": true, "result": what}).to_string();
        let reply = Reply { result: Some(json!("b")), ..Reply::done(json!(1)) };
        let answer_b = exchange.answer(answer(number(&second), "b").as_bytes());
        assert_eq!(answer_b, Answer::To(2, reply));
        let (client, reply) = to(exchange.answer(answer(number(&first), "a").as_bytes()));
        assert_eq!(
            (client, reply.line().as_str()),
            (1, "{\"id\":1,\"ok\":true,\"result\":\"a\"}\n")
        );
        let again = exchange.answer(answer(number(&first), "a").as_bytes());
        assert_eq!(again, Answer::Late, "only once");
        // As of somebody who types frames on the console.
        assert_eq!(exchange.answer(answer(1, "a").as_bytes()), Answer::Other);
        assert_eq!(exchange.answer(br#"{"id":null,"ok":false,"error":"?"}"#), Answer::Other);
    }

    #[test]
    fn nothing_is_a_result_too() {
        let mut exchange = Exchange::default();
        exchange.ask(1, request(json!(5), "quit"), Instant::now()).unwrap();
        let text = exchange.send(Instant::now()).unwrap();
        let answer = json!({"id": number(&text), "ok": true, "result": null}).to_string();
        let reply = to(exchange.answer(answer.as_bytes())).1;
        assert_eq!(reply, Reply::done(json!(5)));
        assert_eq!(reply.line(), "{\"id\":5,\"ok\":true,\"result\":null}\n");
    }

    #[test]
    fn a_few_are_sent_at_a_time_in_their_order_and_silence_stops_nobody_for_long() {
        let mut exchange = Exchange::default();
        let now = Instant::now();
        for turn in 0..2 * IN_FLIGHT {
            exchange.ask(1, request(json!(turn), &format!("irq {turn}")), now).unwrap();
        }
        let sent: Vec<_> = std::iter::from_fn(|| exchange.send(now)).collect();
        assert_eq!(sent.len(), IN_FLIGHT);
        assert!(sent[0].contains("irq 0") && sent[3].contains("irq 3"), "{sent:?}");
        let answer = json!({"id": number(&sent[1]), "ok": true, "result": 1}).to_string();
        assert_eq!(to(exchange.answer(answer.as_bytes())).1.id, json!(1));
        assert!(exchange.send(now).is_some_and(|text| text.contains("irq 4")));
        assert_eq!(exchange.send(now), None);
        assert!(exchange.send(now + STUCK).is_some());
    }

    #[test]
    fn a_number_that_was_never_given_is_somebody_elses_however_large() {
        let mut exchange = Exchange::default();
        let answer = |id: u64| json!({"id": id, "ok": true, "result": 1}).to_string();
        for id in [1, OURS, OURS + 1, u64::MAX] {
            assert_eq!(exchange.answer(answer(id).as_bytes()), Answer::Other, "{id}");
        }
        exchange.ask(1, request(json!(1), "cpu"), Instant::now()).unwrap();
        exchange.forget(1);
        assert_eq!(exchange.answer(answer(OURS + 1).as_bytes()), Answer::Late);
        assert_eq!(exchange.answer(answer(OURS + 2).as_bytes()), Answer::Other);
    }

    #[test]
    fn who_asks_too_much_or_too_long_is_refused_alone() {
        let mut exchange = Exchange::default();
        let now = Instant::now();
        for _ in 0..WAITING {
            exchange.ask(1, request(json!(1), "cpu"), now).unwrap();
        }
        assert!(!exchange.ask(1, request(json!(9), "cpu"), now).unwrap_err().ok);
        let later = now + Duration::from_secs(1);
        let long = exchange.ask(2, request(json!(9), &"x".repeat(2000)), later).unwrap_err();
        assert_eq!(long.id, json!(9));
        exchange.ask(2, request(json!(9), "cpu"), later).unwrap();
        let late = exchange.give_up(now + PATIENCE);
        assert_eq!(late.len(), WAITING);
        assert!(late.iter().all(|(client, reply)| *client == 1 && !reply.ok));
        assert_eq!((exchange.waiting(1), exchange.waiting(2)), (0, 1));
        exchange.forget(2);
        assert_eq!(exchange.waiting(2), 0);
    }

    proptest! {
        #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

        #[test]
        fn any_line_and_any_frame_is_taken(line in any::<String>(), frame in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&line, 1);
            prop_assert!(!matches!(Exchange::default().answer(&frame), Answer::To(..)));
        }
    }
}
