//! Who wrote to which shard in which epoch, as Redis itself did it: every command that it carries out is watched (MONITOR), and
//! the connection that it came over says which process sent it, whatever the command says of its sender.
//!
//! A write that took effect is a call of the write function behind which the server's own `XADD` to the shard's feed follows; a
//! refused one has none. In one epoch of a shard, one life of one node may do that.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::callers::{Caller, Writer};

/// Between two attempts to reach a server that is away.
const RETRY: Duration = Duration::from_millis(10);

/// The connections to Redis by the port of the server and the port that they come from; kept by the relays, which learn it late.
pub(crate) type Senders = Arc<Mutex<HashMap<(u16, u16), Caller>>>;

/// Watches all servers, whoever is master.
pub(crate) struct Witness {
    state: Arc<Mutex<State>>,
    senders: Senders,
    /// Ended when dropped.
    _tasks: JoinSet<()>,
}

/// What was seen.
#[derive(Default)]
struct State {
    /// By shard and epoch: who wrote first, and what it called itself.
    writers: BTreeMap<(String, String), (Writer, String)>,
    problems: Vec<String>,
    writes: u64,
    /// Writes that took effect since this was asked last, with the port of the server.
    effective: Vec<(u16, Call)>,
}

/// One server, while it is watched.
struct Watched<'a> {
    state: &'a Mutex<State>,
    port: u16,
    /// A write was called and has not shown yet whether it takes effect.
    called: Option<Call>,
}

/// A call of the write function.
struct Call {
    fence: String,
    feed: String,
    epoch: String,
    owner: String,
    from: u16,
}

impl Witness {
    /// Watches from now on, each server again when it comes back.
    pub(crate) fn start(servers: impl Iterator<Item = SocketAddr>, senders: Senders) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        for addr in servers {
            let state = Arc::clone(&state);
            tasks.spawn(async move {
                loop {
                    let watched = Watched { state: &state, port: addr.port(), called: None };
                    let _ = watch_server(addr, watched).await;
                    sleep(RETRY).await;
                }
            });
        }
        Self { state, senders, _tasks: tasks }
    }

    /// Writes that took effect and were seen, and what must not have happened since this was asked last.
    pub(crate) fn report(&self) -> (u64, Vec<String>) {
        let mut state = self.state.lock();
        state.judge(&self.senders.lock());
        (state.writes, std::mem::take(&mut state.problems))
    }
}

async fn watch_server(addr: SocketAddr, mut watched: Watched<'_>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"MONITOR\r\n").await?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await? > 0 {
        watched.take(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

impl Watched<'_> {
    /// Takes in a line such as `+1732547000.5 [0 127.0.0.1:4711] "FCALL" "reveille2_write" "3" …`. What is looked at holds no
    /// character that MONITOR escapes.
    fn take(&mut self, line: &str) {
        let Some((head, _)) = line.split_once(']') else { return };
        let from = head.rsplit(' ').next().unwrap_or_default();
        let mut words = line.split('"').skip(1).step_by(2);
        let mut word = || words.next().unwrap_or_default();
        if from == "lua" {
            let effective = word() == "XADD" && self.called.as_ref().is_some_and(|call| call.feed == word());
            if effective && let Some(call) = self.called.take() {
                self.state.lock().effective.push((self.port, call));
            }
            return;
        }
        self.called = None;
        let (verb, _, count) = (word(), word(), word());
        let keys = [word(), word(), word()];
        if matches!(verb, "FCALL" | "EVALSHA") && count == "3" && keys[1].ends_with(":records") {
            self.called = Some(Call {
                fence: keys[0].to_owned(),
                feed: keys[2].to_owned(),
                epoch: word().to_owned(),
                owner: word().to_owned(),
                from: from.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default(),
            });
        }
    }
}

impl State {
    /// Finds out who sent what took effect.
    fn judge(&mut self, senders: &HashMap<(u16, u16), Caller>) {
        for (port, call) in std::mem::take(&mut self.effective) {
            let writer = match senders.get(&(port, call.from)) {
                Some(Caller::Node(node, pid)) => (*node, *pid),
                // It wrote and was killed before one could look.
                Some(Caller::Gone) => continue,
                Some(Caller::Other) | None => {
                    self.problems.push(format!("{} was written by a stranger, port {}", call.fence, call.from));
                    continue;
                }
            };
            self.writes += 1;
            let now = (writer, call.owner);
            let first = self.writers.entry((call.fence.clone(), call.epoch.clone())).or_insert_with(|| now.clone());
            if *first != now {
                let problem = format!("{} was written in epoch {} by {first:?} and {now:?}", call.fence, call.epoch);
                self.problems.push(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(port: u16, epoch: u64, owner: u32) -> String {
        let keys = r#""rv:faults:{3}:fence" "rv:faults:{3}:records" "rv:faults:{3}:feed""#;
        format!(
            r#"+1.5 [0 127.0.0.1:{port}] "FCALL" "reveille2_write" "3" {keys} "{epoch}" "{owner}" "256" "9" "\x00""#
        )
    }

    const EFFECT: &str = r#"+1.6 [0 lua] "XADD" "rv:faults:{3}:feed" "MAXLEN" "~" "256" "*" "p" "" "f" "\x00""#;

    fn seen(lines: &[&str]) -> (u64, usize) {
        let known = [(6379, 1001, 0, 50), (6379, 1002, 1, 51), (6379, 1003, 0, 52), (6380, 1009, 1, 51)];
        let known = known.map(|(port, from, node, pid)| ((port, from), Caller::Node(node, pid)));
        let state = Mutex::<State>::default();
        let mut watched = Watched { state: &state, port: 6379, called: None };
        lines.iter().for_each(|line| watched.take(line));
        let mut state = state.into_inner();
        state.judge(&HashMap::from(known));
        (state.writes, state.problems.len())
    }

    #[test]
    fn one_writer_in_an_epoch_is_well() {
        let (first, second) = (call(1001, 5, 7), call(1002, 6, 8));
        assert_eq!(seen(&[&first, EFFECT, &first, EFFECT, &second, EFFECT]), (3, 0));
    }

    #[test]
    fn two_writers_in_an_epoch_are_seen_whatever_they_call_themselves() {
        let (first, second) = (call(1001, 5, 7), call(1002, 5, 7));
        assert_eq!(seen(&[&first, EFFECT, &second, EFFECT]), (2, 1));
        assert_eq!(seen(&[&first, EFFECT, &call(1003, 5, 7), EFFECT]), (2, 1), "another life of the same node");
        assert_eq!(seen(&[&first, EFFECT, &call(1001, 5, 8), EFFECT]), (2, 1), "another name");
        assert_eq!(seen(&[&call(1009, 5, 7), EFFECT]), (0, 1), "nobody that we know at this server");
    }

    #[test]
    fn a_refused_write_is_none() {
        let (first, second) = (call(1001, 5, 7), call(1002, 5, 8));
        let read = r#"+1.7 [0 lua] "HMGET" "rv:faults:{3}:fence" "epoch""#;
        assert_eq!(seen(&[&first, EFFECT, &second, read, &first, EFFECT]), (2, 0));
    }
}
