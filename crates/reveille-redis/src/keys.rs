//! The names of everything kept in Redis. What belongs to a shard carries the shard's hash tag, and so lies on one node of a
//! Redis Cluster; what belongs to all lies under one further tag.

use std::fmt::Write as _;

/// Hash slots of a Redis Cluster.
pub(crate) const SLOTS: u16 = 16_384;

/// Makes key names.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    cluster: String,
}

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardKeys {
    pub(crate) fence: String,
    pub(crate) records: String,
    pub(crate) feed: String,
    pub(crate) deferred: String,
}

impl Keys {
    pub(crate) fn new(cluster: &str) -> Self {
        Keys { cluster: cluster.to_owned() }
    }

    pub(crate) fn shard(&self, shard: u16) -> ShardKeys {
        let name = |what: &str| {
            let mut key = String::with_capacity(self.cluster.len() + 20);
            let _ = write!(key, "rv:{}:{{{shard}}}:{what}", self.cluster);
            key
        };
        ShardKeys { fence: name("fence"), records: name("records"), feed: name("feed"), deferred: name("deferred") }
    }

    /// A secret that nodes share, by the hash of its name.
    pub(crate) fn secret(&self, shard: u16, purpose: &str, hashed: &[u8]) -> String {
        format!("rv:{}:{{{shard}}}:shared:{purpose}:{}", self.cluster, hex::encode(hashed))
    }

    /// What is written to find out whether a server takes writes again.
    pub(crate) fn probe(&self, shard: u16) -> String {
        format!("rv:{}:{{{shard}}}:probe", self.cluster)
    }

    pub(crate) fn member(&self, what: &str) -> String {
        format!("rv:{}:{{members}}:{what}", self.cluster)
    }

    pub(crate) fn lease(&self, tag: &str) -> String {
        format!("{}{tag}", self.lease_prefix())
    }

    /// What a node says of its standby.
    pub(crate) fn standby(&self, tag: &str) -> String {
        format!("{}{tag}", self.member("standby:"))
    }

    pub(crate) fn lease_prefix(&self) -> String {
        self.member("lease:")
    }
}

/// The slot of a shard's keys.
pub(crate) fn shard_slot(shard: u16) -> u16 {
    slot(shard.to_string().as_bytes())
}

/// The slot of what all nodes share.
pub(crate) fn member_slot() -> u16 {
    slot(b"members")
}

/// Redis Cluster specification: CRC16 (XMODEM) of the hash tag, modulo the number of slots.
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, octet| {
        (0..8).fold(crc ^ (u16::from(*octet) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the specification, and slots that CLUSTER KEYSLOT gives.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"bar"), 5061);
    }

    #[test]
    fn names_carry_cluster_and_tag() {
        let keys = Keys::new("lab");
        assert_eq!(keys.shard(7).records, "rv:lab:{7}:records");
        assert_eq!(keys.lease("n1"), "rv:lab:{members}:lease:n1");
    }
}
