//! Structured logs: set up once, from the configuration, before anything else starts.
//!
//! What other crates log is held at `info` whatever the operator asks for: at `debug` and `trace` an HTTP/2 or TLS library may
//! print request paths and headers, and a request path toward APNs *is* a push token.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: one line per event; coloured on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a list of `target=level` directives.
    #[error("not a log level or filter: {0}")]
    Filter(String),
    /// Another subscriber is in place already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// Installs the process's subscriber, writing to standard error. `level` is a level (`info`) or a list of directives
/// (`info,reveille_push=debug`).
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let colour = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, level, colour, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadySet)
}

/// The subscriber that [`init`] installs, writing to `writer`: for tests that read the log.
///
/// # Errors
/// Where `level` cannot be read.
pub fn subscriber<W>(
    format: LogFormat,
    level: &str,
    colour: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = match format {
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).boxed(),
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).json().flatten_event(true).boxed()
        }
    };
    Ok(tracing_subscriber::registry().with(filter(level)?).with(filter_fn(is_fit_to_print)).with(lines))
}

/// Whether `level` is something [`init`] would take.
///
/// # Errors
/// Where it is not, with the reason.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    if level.trim().is_empty() {
        return Err(TelemetryError::Filter("empty".to_owned()));
    }
    EnvFilter::builder().parse(level).map_err(|error| TelemetryError::Filter(error.to_string()))
}

fn is_fit_to_print(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("reveille") || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, act: impl FnOnce()) -> String {
        let sink = Shared::default();
        let writer = sink.clone();
        let subscriber = subscriber(format, level, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn other_crates_stay_at_info_at_any_level() {
        let text = logged(LogFormat::Text, "trace,h2=trace", || {
            tracing::trace!(target: "h2::codec", "path=/3/device/secret");
            tracing::debug!(target: "hyper_util::client", "authorization secret");
            tracing::info!(target: "rustls", "shown");
            tracing::trace!(target: "reveille_pns::pool", "our own trace");
        });
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("shown") && text.contains("our own trace"), "{text}");
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_beside_the_message() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(provider = "apns", "push accepted"));
        assert!(text.starts_with('{') && text.trim_end().ends_with('}'), "{text}");
        assert!(text.contains("\"provider\":\"apns\"") && text.contains("\"message\":\"push accepted\""), "{text}");
    }

    #[test]
    fn levels_are_checked() {
        for good in ["info", "debug", "warn,reveille_push=trace", "off"] {
            check_level(good).unwrap();
        }
        for bad in ["", "  ", "reveille=loudly", "a=b=c"] {
            assert!(check_level(bad).is_err(), "{bad:?}");
        }
    }
}
