//! What the demo prints: lines for people, objects for machines.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use reveille_testkit::{
    pns::Provider,
    ua::{Event, Step},
};
use serde_json::json;
use tokio::time::Instant;

/// Prints as things happen.
pub(super) struct Timeline {
    json: bool,
    colour: bool,
    start: Instant,
}

impl Timeline {
    pub(super) fn new(json: bool) -> Self {
        Self { json, colour: !json && io::stdout().is_terminal(), start: Instant::now() }
    }

    /// Something about the stage.
    pub(super) fn note(&self, text: &str) -> io::Result<()> {
        if self.json { self.object(&json!({ "note": text })) } else { self.line(&self.paint("2", text)) }
    }

    /// A new phone enters.
    pub(super) fn chapter(&self, user: &str, provider: Provider) -> io::Result<()> {
        let name = provider_name(provider);
        if self.json {
            return self.object(&json!({ "phone": user, "provider": name }));
        }
        self.line(&format!("\n{}", self.paint("1", &format!("{user}'s phone sleeps; {name} wakes it"))))
    }

    pub(super) fn events(&self, user: &str, events: &[Event]) -> io::Result<()> {
        events.iter().try_for_each(|event| {
            let (what, took) = describe(&event.step);
            self.event(user, event.at, &what, took)
        })
    }

    /// One step of one party; `took` is the latency it shows.
    pub(super) fn event(&self, who: &str, at: Instant, what: &str, took: Option<Duration>) -> io::Result<()> {
        let at = at.saturating_duration_since(self.start);
        if self.json {
            let took = took.map(|t| t.as_secs_f64() * 1e3);
            return self.object(&json!({ "at_ms": at.as_secs_f64() * 1e3, "who": who, "what": what, "took_ms": took }));
        }
        let took = took.map(|t| format!("  ({})", millis(t))).unwrap_or_default();
        self.line(&format!("  {:>9.3} s  {who:<8} {what}{}", at.as_secs_f64(), self.paint("36", &took)))
    }

    /// How it went for one phone.
    pub(super) fn verdict(
        &self,
        user: &str,
        to_push: Duration,
        to_ring: Duration,
        to_answer: Duration,
    ) -> io::Result<()> {
        if self.json {
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            return self.object(&json!({
                "phone": user, "answered": true, "invites": 1, "invite_to_push_ms": ms(to_push),
                "push_to_invite_ms": ms(to_ring), "invite_to_answer_ms": ms(to_answer),
            }));
        }
        let text = format!(
            "  answered: call to push {}, push to INVITE at the phone {}, call to answer {}; the INVITE arrived once",
            millis(to_push),
            millis(to_ring),
            millis(to_answer)
        );
        self.line(&self.paint("32", &text))
    }

    pub(super) fn failed(&self, user: &str, why: &str) -> io::Result<()> {
        if self.json {
            return self.object(&json!({ "phone": user, "answered": false, "why": why }));
        }
        self.line(&self.paint("31", &format!("  failed: {why}")))
    }

    pub(super) fn summary(&self, answered: usize, calls: usize, unauthenticated: u64) -> io::Result<()> {
        if self.json {
            return self.object(
                &json!({ "calls": calls, "answered": answered, "unauthenticated_push_requests": unauthenticated }),
            );
        }
        self.line(&format!(
            "\n{answered} of {calls} calls answered; push requests without a valid credential: {unauthenticated}"
        ))
    }

    fn object(&self, value: &serde_json::Value) -> io::Result<()> {
        self.line(&value.to_string())
    }

    fn line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn describe(step: &Step) -> (String, Option<Duration>) {
    match step {
        Step::Registered { latency } => ("registered with its push token".into(), Some(*latency)),
        Step::Asleep => ("connection closed: asleep".into(), None),
        Step::Woken => ("push received: awake".into(), None),
        Step::Connected => ("connected again".into(), None),
        Step::Reregistered { latency } => ("registration refreshed".into(), Some(*latency)),
        Step::InviteReceived { .. } => ("INVITE received".into(), None),
        Step::Ringing => ("180 sent: ringing".into(), None),
        Step::Answered { status } => (format!("{status} sent"), None),
        Step::Acked => ("ACK received: talking".into(), None),
        Step::Ended { by_us } => (if *by_us { "hung up" } else { "BYE received: call over" }.into(), None),
        Step::Cancelled => ("the caller gave up".into(), None),
        Step::MessageReceived { method, .. } => (format!("{method} received"), None),
        Step::Failed(why) => (format!("failed: {why}"), None),
    }
}

fn provider_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Apns => "APNs",
        Provider::ApnsSandbox => "APNs sandbox",
        Provider::Fcm => "FCM",
        Provider::WebPush => "Web Push",
        Provider::Webhook => "webhook",
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
