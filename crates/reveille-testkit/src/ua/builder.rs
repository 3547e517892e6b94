//! Describing a phone: who it is, how it behaves and the push parameters it registers with.

use std::time::Duration;

use rsip::common::uri::Param;
use tokio::sync::mpsc;

use super::compose::param;
use super::digest::DigestSupport;
use super::phone::Phone;
use super::profile::Profile;
use super::wire::escape_pvalue;
use crate::pns::{Device, Wake};

/// Push parameters of a Contact, decoded (RFC 8599 §4.1). No `Debug`: the PRID is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PushParams {
    /// `pn-provider`; `None` is the bare parameter, a query for every provider.
    pub provider: Option<String>,
    /// `pn-param`.
    pub param: Option<String>,
    /// `pn-prid`; without it the REGISTER is a query.
    pub prid: Option<String>,
}

impl PushParams {
    /// The parameters that request push for a device of the lab.
    pub fn of(device: &Device) -> Self {
        Self {
            provider: Some(device.provider.as_str().to_owned()),
            param: device.param.clone(),
            prid: Some(device.prid.clone()),
        }
    }

    pub(super) fn to_uri_params(&self) -> Vec<Param> {
        let mut params = vec![param("pn-provider", self.provider.as_deref().map(escape_pvalue).as_deref())];
        for (name, value) in [("pn-param", &self.param), ("pn-prid", &self.prid)] {
            params.extend(value.as_deref().map(|value| param(name, Some(&escape_pvalue(value)))));
        }
        params
    }
}

/// Describes a phone.
pub struct PhoneBuilder {
    pub(super) profile: Profile,
    pub(super) push: Option<PushParams>,
    pub(super) wakes: Option<mpsc::Receiver<Wake>>,
    pub(super) instance: Option<String>,
    pub(super) reg_id: Option<u32>,
    pub(super) pnsreg: bool,
}

impl PhoneBuilder {
    pub(super) fn new(profile: Profile) -> Self {
        Self { profile, push: None, wakes: None, instance: None, reg_id: None, pnsreg: false }
    }

    /// The password for digest; the user name is the phone's user unless [`Self::auth_user`] says otherwise.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.profile.password = password.to_owned();
        self
    }

    /// The user name for digest.
    #[must_use]
    pub fn auth_user(mut self, user: &str) -> Self {
        self.profile.auth_user = user.to_owned();
        self
    }

    /// Which digest algorithms the phone can do; all by default.
    #[must_use]
    pub fn digest(mut self, support: DigestSupport) -> Self {
        self.profile.digest = support;
        self
    }

    /// Gives the phone a device of the lab push service: its push parameters and its wake-ups.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.push = Some(PushParams::of(&device));
        self.wakes = Some(device.wakes);
        self
    }

    /// Push parameters alone.
    #[must_use]
    pub fn push(mut self, push: PushParams) -> Self {
        self.push = Some(push);
        self
    }

    /// The UUID of `+sip.instance`.
    #[must_use]
    pub fn instance(mut self, instance: uuid::Uuid) -> Self {
        self.instance = Some(instance.to_string());
        self
    }

    /// `reg-id` (RFC 5626 §4.2); the phone then says `Supported: outbound, path`. Needs an instance.
    #[must_use]
    pub fn reg_id(mut self, reg_id: u32) -> Self {
        self.reg_id = Some(reg_id);
        self
    }

    /// Says `+sip.pnsreg`: the phone can refresh by itself (P-028).
    #[must_use]
    pub fn pnsreg(mut self) -> Self {
        self.pnsreg = true;
        self
    }

    /// How long the phone waits for responses; 10 s by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.profile.patience = patience;
        self
    }

    /// The script answers MESSAGE, OPTIONS and their like itself; without this they get 200.
    #[must_use]
    pub fn manual(mut self) -> Self {
        self.profile.auto_answer = false;
        self
    }

    /// Nothing at all is automatic: every message goes to [`Phone::next_message`].
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.profile.raw = true;
        self
    }

    /// Does not keep the bytes received: for load tests.
    #[must_use]
    pub fn without_transcript(mut self) -> Self {
        self.profile.keep_transcript = false;
        self
    }

    /// The phone, not connected yet.
    pub fn build(self) -> Phone {
        Phone::new(self)
    }
}
