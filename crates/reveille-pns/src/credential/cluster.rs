//! One APNs provider token for the whole cluster (P-143): it is kept where every node finds it, whoever is first mints the next,
//! and the keeper lets nobody replace one that is younger than Apple's 20 minutes.
//!
//! A node that cannot ask counts on from the token in hand, in steps of its life. Others that cannot ask had the same one, so they
//! come to the same next one. Back again, whoever comes first leaves what he has for all.

use std::time::Duration;

use ring::digest;

use super::apple::{FLOOR, LONGEST, ProviderTokens, SLOT};
use crate::{
    SharedCredentials,
    provider::Authorization,
    shared::{Away, InForce},
};

impl ProviderTokens {
    /// What the token is called: by team, key and a hash of the key itself, so that a key that is replaced has its own.
    pub(super) fn name_in_cluster(&self) -> Vec<u8> {
        let key = digest::digest(&digest::SHA256, self.public_key().as_ref());
        [self.team.as_bytes(), b"/", self.key_id.as_bytes(), b"/", key.as_ref()].concat()
    }

    /// Takes the cluster's token, or sees to it that there is one. A token younger than 45 minutes stays in force.
    pub(crate) async fn follow(&self, shared: &dyn SharedCredentials, now: u64) {
        let name = self.name_in_cluster();
        let found = match shared.in_force(&name).await {
            Ok(found) => found.as_ref().and_then(Token::read),
            Err(Away) => return,
        };
        match found {
            Some(token) if now < token.iat + SLOT => self.adopt(token, now),
            _ => {
                // One that was made while nobody could be asked is the cluster's as well as any.
                let own = self.in_hand().filter(|iat| now < iat + SLOT).unwrap_or(now);
                if let Ok(token) = self.offer(shared, &name, own, now).await {
                    self.adopt(token, now);
                }
            }
        }
    }

    /// Apple called the token of `generation` expired: whether there is now another, the 20-minute floor allowing.
    pub(crate) async fn renew(&self, shared: &dyn SharedCredentials, generation: u64, now: u64) -> bool {
        let name = self.name_in_cluster();
        let token = match shared.in_force(&name).await.map(|found| found.as_ref().and_then(Token::read)) {
            Ok(Some(token)) if token.iat != generation => Ok(token),
            Ok(_) if !self.may_replace(generation, now) => return self.in_hand() != Some(generation),
            Ok(_) => self.offer(shared, &name, now, now).await,
            Err(Away) => Err(Away),
        };
        match token {
            Ok(token) => {
                let is_another = token.iat != generation;
                self.adopt(token, now);
                is_another
            }
            Err(Away) => self.expired(generation, now),
        }
    }

    async fn offer(&self, shared: &dyn SharedCredentials, name: &[u8], iat: u64, now: u64) -> Result<Token, Away> {
        let token = Token { iat, text: self.sign(iat) };
        let life = Duration::from_secs(LONGEST.saturating_sub(now.saturating_sub(iat)));
        let in_force = shared.offer(name, &token.written(), life, Duration::from_secs(LONGEST - FLOOR)).await?;
        Token::read(&in_force).ok_or(Away)
    }

    fn adopt(&self, token: Token, now: u64) {
        if let Some(auth) = Authorization::new(&format!("bearer {}", token.text), token.iat) {
            self.take(auth, now);
        }
    }
}

/// A token as nodes pass it on: `iat` in 8 octets, network order, and the text.
struct Token {
    iat: u64,
    text: String,
}

impl Token {
    fn written(&self) -> Vec<u8> {
        [&self.iat.to_be_bytes()[..], self.text.as_bytes()].concat()
    }

    fn read(in_force: &InForce) -> Option<Self> {
        let (iat, text) = in_force.value.split_first_chunk::<8>()?;
        Some(Self { iat: u64::from_be_bytes(*iat), text: std::str::from_utf8(text).ok()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use p256::ecdsa::SigningKey;
    use parking_lot::Mutex;
    use zeroize::Zeroizing;

    use super::*;
    use crate::BoxFuture;

    const NOW: u64 = 1_700_000_000;
    const MINUTE: u64 = 60;

    /// A value and when it ends.
    type Kept = (Vec<u8>, u64);

    /// What Redis does, by a clock of the test's; `None` in place of the clock is a Redis that is away.
    #[derive(Default)]
    struct Keeper {
        now: Mutex<Option<u64>>,
        kept: Mutex<HashMap<Vec<u8>, Kept>>,
        /// When another token came into force.
        changes: Mutex<Vec<u64>>,
    }

    impl Keeper {
        fn at(now: u64) -> Self {
            let keeper = Self::default();
            *keeper.now.lock() = Some(now);
            keeper
        }

        fn set(&self, now: Option<u64>) {
            *self.now.lock() = now;
        }
    }

    impl SharedCredentials for Keeper {
        fn in_force<'a>(&'a self, name: &'a [u8]) -> BoxFuture<'a, Result<Option<InForce>, Away>> {
            let Some(now) = *self.now.lock() else { return Box::pin(async { Err(Away) }) };
            let kept = self.kept.lock().get(name).filter(|(_, end)| *end > now).cloned();
            Box::pin(async move { Ok(kept.map(|(value, _)| InForce { value: Zeroizing::new(value) })) })
        }

        fn offer<'a>(
            &'a self,
            name: &'a [u8],
            value: &'a [u8],
            life: Duration,
            unless_longer: Duration,
        ) -> BoxFuture<'a, Result<InForce, Away>> {
            let Some(now) = *self.now.lock() else { return Box::pin(async { Err(Away) }) };
            let mut kept = self.kept.lock();
            let young = kept.get(name).filter(|(_, end)| *end > now + unless_longer.as_secs()).cloned();
            let value = young.map_or_else(
                || {
                    kept.insert(name.to_vec(), (value.to_vec(), now + life.as_secs()));
                    self.changes.lock().push(now);
                    value.to_vec()
                },
                |(value, _)| value,
            );
            Box::pin(async move { Ok(InForce { value: Zeroizing::new(value) }) })
        }
    }

    fn home(key: u8) -> ProviderTokens {
        ProviderTokens::new("9TEAM42XYZ", "ABC123DEFG", SigningKey::from_slice(&[key; 32]).unwrap(), true)
    }

    fn text(home: &ProviderTokens, now: u64) -> String {
        home.authorization(now).unwrap().value.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn homes_whose_clocks_differ_send_with_one_token_p143() {
        let keeper = Keeper::at(NOW);
        let homes = [(home(7), 0), (home(7), 90), (home(7), 45)];
        for minute in 0..600 {
            let now = NOW + minute * MINUTE;
            keeper.set(Some(now));
            // Each has its turn a little later.
            let mut texts = Vec::new();
            for (home, ahead) in &homes {
                home.follow(&keeper, now + ahead).await;
            }
            for (home, ahead) in &homes {
                home.follow(&keeper, now + ahead).await;
                let auth = home.authorization(now + ahead).unwrap();
                assert!((now + ahead).saturating_sub(auth.generation) < 50 * MINUTE, "never near an hour");
                texts.push(text(home, now + ahead));
            }
            texts.dedup();
            assert_eq!(texts.len(), 1, "minute {minute}");
        }
        let changes = keeper.changes.lock().clone();
        assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= FLOOR), "{changes:?}");
        assert!((13..=15).contains(&changes.len()), "ten hours: {}", changes.len());
    }

    /// P-143: with the cluster's memory away homes go on alike, as often as before, and agree with everybody afterwards.
    #[tokio::test]
    async fn homes_that_cannot_ask_count_on_alike_p143() {
        let keeper = Keeper::at(NOW);
        let (one, two) = (home(7), home(7));
        for home in [&one, &two] {
            home.follow(&keeper, NOW).await;
        }
        keeper.set(None);
        let (mut last, mut changes) = (text(&one, NOW), Vec::new());
        for minute in 0..300 {
            let now = NOW + minute * MINUTE;
            for home in [&one, &two] {
                home.follow(&keeper, now).await;
            }
            let token = text(&one, now);
            assert_eq!(token, text(&two, now), "minute {minute}");
            assert!(now - one.authorization(now).unwrap().generation < 50 * MINUTE);
            if token != last {
                changes.push(now);
                last = token;
            }
        }
        assert_eq!(changes.len(), 6);
        assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= FLOOR), "{changes:?}");
        // What was made meanwhile is the cluster's when it is back, a newcomer's included.
        let (now, newcomer) = (NOW + 300 * MINUTE, home(7));
        keeper.set(Some(now));
        one.follow(&keeper, now).await;
        newcomer.follow(&keeper, now).await;
        assert_eq!(text(&newcomer, now), last);
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_once_for_all_and_never_within_twenty_minutes_p153() {
        let keeper = Keeper::at(NOW);
        let (one, two) = (home(7), home(7));
        for home in [&one, &two] {
            home.follow(&keeper, NOW).await;
        }
        let first = one.authorization(NOW).unwrap();
        keeper.set(Some(NOW + FLOOR - 1));
        assert!(!one.renew(&keeper, first.generation, NOW + FLOOR - 1).await, "too soon");
        // A clock that is ahead does not shorten the floor: Redis counts.
        assert!(!one.renew(&keeper, first.generation, NOW + FLOOR + 40).await);
        let now = NOW + FLOOR;
        keeper.set(Some(now));
        assert!(one.renew(&keeper, first.generation, now).await);
        assert!(two.renew(&keeper, first.generation, now + 30).await, "somebody else renewed it already");
        assert_eq!(text(&one, now), text(&two, now));
        assert_ne!(one.authorization(now).unwrap().generation, first.generation);
        assert_eq!(keeper.changes.lock().len(), 2);
    }

    #[tokio::test]
    async fn a_replaced_key_has_a_token_of_its_own_p144() {
        let keeper = Keeper::at(NOW);
        let (old, new) = (home(7), home(8));
        old.follow(&keeper, NOW).await;
        new.follow(&keeper, NOW).await;
        assert_ne!(old.name_in_cluster(), new.name_in_cluster());
        assert_ne!(text(&old, NOW), text(&new, NOW));
    }

    /// P-153: `TooManyProviderTokenUpdates` keeps a node from taking another token, the cluster's as well.
    #[tokio::test]
    async fn nothing_new_is_taken_while_held_p153() {
        let keeper = Keeper::at(NOW);
        let (one, two) = (home(7), home(7));
        for home in [&one, &two] {
            home.follow(&keeper, NOW).await;
        }
        let old = text(&one, NOW);
        let now = NOW + FLOOR;
        keeper.set(Some(now));
        one.hold(now);
        assert!(two.renew(&keeper, NOW, now).await);
        one.follow(&keeper, now).await;
        assert_eq!(text(&one, now), old);
        keeper.set(Some(now + FLOOR));
        one.follow(&keeper, now + FLOOR).await;
        assert_eq!(text(&one, now + FLOOR), text(&two, now + FLOOR));
    }
}
