//! A master, two replicas and three sentinels that watch them.

use super::{Redis, RedisError, until};

/// The master's name among the sentinels.
pub const MASTER_NAME: &str = "main";

/// See the module.
pub struct Sentinels {
    /// Those that hold data. The first is master at the start.
    pub servers: Vec<Redis>,
    /// Those that watch.
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    /// Starts all six, with these lines in the configuration of those that hold data, and waits until everybody knows everybody.
    ///
    /// `front` hears of each server and says at which port the others, and clients, are to reach it.
    ///
    /// # Errors
    /// [`RedisError`] when it does not come to that.
    pub fn start(lines: &str, mut front: impl FnMut(&Redis) -> u16) -> Result<Self, RedisError> {
        let (mut servers, mut port) = (Vec::new(), 0);
        for _ in 0..3 {
            let server = Redis::with(lines)?;
            let announced = front(&server);
            server.announce("replica", announced)?;
            if servers.is_empty() {
                port = announced;
            } else {
                server.follow(port)?;
            }
            servers.push(server);
        }
        until("the replicas follow", || Ok(servers[0].followers() == 2))?;
        let text = format!(
            "sentinel monitor {MASTER_NAME} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {MASTER_NAME} 1500\nsentinel failover-timeout {MASTER_NAME} 3000\n\
             sentinel parallel-syncs {MASTER_NAME} 2\n"
        );
        let sentinels = (0..3).map(|_| Redis::launch(&text, &["--sentinel"])).collect::<Result<Vec<_>, _>>()?;
        let trio = Self { servers, sentinels };
        until("the sentinels know everyone", || {
            let infos = trio.sentinels.iter().map(|sentinel| sentinel.ask(&["INFO", "sentinel"]));
            let infos = infos.collect::<Result<Vec<_>, _>>()?;
            Ok(infos.iter().all(|info| info.contains("slaves=2,sentinels=3") && info.contains("status=ok")))
        })?;
        Ok(trio)
    }
}
