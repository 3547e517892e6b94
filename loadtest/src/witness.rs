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
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// Between two attempts to reach a server that is away.
const RETRY: Duration = Duration::from_millis(10);

/// A life of a node: its place, and its process.
pub(crate) type Writer = (usize, u32);

/// The connections to Redis by the port that they come from; kept by the relays.
pub(crate) type Senders = Arc<Mutex<HashMap<u16, Writer>>>;

/// Watches the server that is master.
pub(crate) struct Witness {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// What was seen.
#[derive(Default)]
struct State {
    /// By shard and epoch: who wrote first, and what it called itself.
    writers: BTreeMap<(String, String), (Writer, String)>,
    problems: Vec<String>,
    writes: u64,
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
    /// Watches from now on. When the master is another, it is that one that is watched.
    pub(crate) fn start(mut master: watch::Receiver<SocketAddr>, senders: Senders) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let seen = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let addr = *master.borrow_and_update();
                tokio::select! {
                    _ = watch_server(addr, &seen, &senders) => {}
                    changed = master.changed() => if changed.is_err() { return },
                }
                seen.lock().called = None;
                sleep(RETRY).await;
            }
        });
        Self { state, task }
    }

    /// Writes that took effect and were seen, and what must not have happened since this was asked last.
    pub(crate) fn report(&self) -> (u64, Vec<String>) {
        let mut state = self.state.lock();
        (state.writes, std::mem::take(&mut state.problems))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_server(addr: SocketAddr, state: &Mutex<State>, senders: &Senders) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"MONITOR\r\n").await?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await? > 0 {
        state.lock().take(&String::from_utf8_lossy(&line), senders);
        line.clear();
    }
    Ok(())
}

impl State {
    /// Takes in a line such as `+1732547000.5 [0 127.0.0.1:4711] "FCALL" "reveille2_write" "3" …`. What is looked at holds no
    /// character that MONITOR escapes.
    fn take(&mut self, line: &str, senders: &Senders) {
        let Some((head, _)) = line.split_once(']') else { return };
        let from = head.rsplit(' ').next().unwrap_or_default();
        let mut words = line.split('"').skip(1).step_by(2);
        let mut word = || words.next().unwrap_or_default();
        if from == "lua" {
            let effective = word() == "XADD" && self.called.as_ref().is_some_and(|call| call.feed == word());
            if effective && let Some(call) = self.called.take() {
                self.wrote(&call, senders);
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

    fn wrote(&mut self, call: &Call, senders: &Senders) {
        let Some(writer) = senders.lock().get(&call.from).copied() else {
            self.problems.push(format!("{} was written by a stranger, port {}", call.fence, call.from));
            return;
        };
        self.writes += 1;
        let now = (writer, call.owner.clone());
        let first = self.writers.entry((call.fence.clone(), call.epoch.clone())).or_insert_with(|| now.clone());
        if *first != now {
            self.problems.push(format!("{} was written in epoch {} by {first:?} and {now:?}", call.fence, call.epoch));
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
        let senders: Senders = Arc::new(Mutex::new(HashMap::from([(1001, (0, 50)), (1002, (1, 51)), (1003, (0, 52))])));
        let mut state = State::default();
        lines.iter().for_each(|line| state.take(line, &senders));
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
        assert_eq!(seen(&[&call(1009, 5, 7), EFFECT]), (0, 1), "nobody that we know");
    }

    #[test]
    fn a_refused_write_is_none() {
        let (first, second) = (call(1001, 5, 7), call(1002, 5, 8));
        let read = r#"+1.7 [0 lua] "HMGET" "rv:faults:{3}:fence" "epoch""#;
        assert_eq!(seen(&[&first, EFFECT, &second, read, &first, EFFECT]), (2, 0));
    }
}
