//! One call to one sleeping phone, from its registration to the end of the call.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use reveille_testkit::{
    pns::Provider,
    ua::{Ending, SleepyConfig, SleepyPhone, Step},
};

use super::{PATIENCE, timeline::Timeline};
use crate::lab::{DOMAIN, Lab};

/// Plays the story, adding to the timeline.
pub(super) async fn call_a_sleeping_phone(
    lab: &Lab,
    sip: SocketAddr,
    user: &str,
    provider: Provider,
    timeline: &mut Timeline,
) -> anyhow::Result<()> {
    timeline.chapter(user, provider)?;
    let phone = lab.phone(user, provider, sip)?.build();
    let config = SleepyConfig { ending: Ending::AwaitBye, patience: PATIENCE, ..SleepyConfig::default() };
    let mut sleepy = SleepyPhone::spawn(phone, config);
    let asleep = sleepy.until(PATIENCE, |step| *step == Step::Asleep).await.context("the phone did not register")?;
    timeline.events(user, &asleep)?;

    let mut caller = lab.plain_phone("caller", sip)?.build();
    caller.connect().await.context("the caller cannot connect")?;
    caller.register(3600).await.context("the caller cannot register")?;
    let mut call = caller.invite(&format!("sip:{user}@{DOMAIN}"))?;
    timeline.event("caller", call.sent_at(), "INVITE sent", None)?;
    let ok = call.final_response(PATIENCE).await.context("the call had no answer")?;
    let trying = call.provisionals().first().map(|p| p.at);
    let up_to_ack = sleepy.until(PATIENCE, |step| *step == Step::Acked).await.context("the phone did not answer")?;
    if let Some(trying) = trying {
        timeline.event("caller", trying, "100 Trying received", Some(trying - call.sent_at()))?;
    }
    timeline.events(user, &up_to_ack)?;
    let status = ok.message.status().unwrap_or(0);
    timeline.event("caller", ok.at, &format!("{status} received: talking"), Some(ok.at - call.sent_at()))?;
    ensure!(status == 200, "the caller heard {status}");
    let woken = up_to_ack.iter().find(|e| e.step == Step::Woken).map(|e| e.at);
    let rang = up_to_ack.iter().find(|e| matches!(e.step, Step::InviteReceived { .. })).map(|e| e.at);
    let (woken, rang) = (woken.context("no push arrived")?, rang.context("no INVITE arrived")?);

    let bye = call.bye(PATIENCE).await.context("the caller cannot hang up")?;
    ensure!(bye.status() == Some(200), "hanging up was refused");
    let ended = sleepy.until(PATIENCE, |step| matches!(step, Step::Ended { .. })).await?;
    timeline.events(user, &ended)?;
    let call_id = call.call_id().to_owned();
    let phone = sleepy.stop().await?;
    let copies = phone.invites().get(&call_id).copied().unwrap_or(0);
    ensure!(copies == 1, "the INVITE arrived {copies} times");
    timeline.verdict(user, woken - call.sent_at(), rang - woken, ok.at - call.sent_at())?;
    caller.sleep().await;
    Ok(())
}
