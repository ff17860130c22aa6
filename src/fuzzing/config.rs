//! Settings.

use std::path::Path;

use crate::config::values::{ByteSize, Listen, Span};
use crate::config::{Config, ConfigError, DiskBudget, Host, RawConfig};

/// A file is refused with a place in it, or gives settings that keep the rules of [`Config`]; values are
/// read as what they are written as.
///
/// # Panics
/// When that does not hold.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match RawConfig::parse(text, Path::new("farmhand.toml")) {
        Ok(raw) => check_settings(raw),
        Err(ConfigError::File { line, reason, .. }) => {
            assert!((1..=text.split('\n').count()).contains(&line), "line {line}");
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
        }
        Err(other) => panic!("not about the file: {other}"),
    }
    check_values(text);
}

fn check_settings(raw: RawConfig) {
    let host = Host {
        name: "attic".to_owned(),
        person: "ada".to_owned(),
        cores: 6,
        data_dir: Some("/home/u/.local/share/farmhand".into()),
        config_file: None,
        runtime_dir: "/run/user/7/farmhand".into(),
    };
    let config = match Config::resolve(RawConfig::default(), raw, &host) {
        Ok(config) => config,
        Err(error @ ConfigError::Invalid { .. }) => {
            assert!(!error.to_string().contains('\n'), "{error:?}");
            return;
        }
        Err(other) => panic!("not about a setting: {other}"),
    };
    assert!(!config.name.is_empty() && config.slots >= 1 && config.queue_limit >= 1);
    assert!(config.listen.ip().is_loopback() || config.insecure_lan);
    assert!(config.data_dir.is_absolute() && config.runtime_dir.is_absolute());
    assert!(!config.default_timeout.is_zero() && config.default_timeout <= config.max_timeout);
    assert!(!config.epoch_interval.is_zero() && !config.update_interval.is_zero());
}

fn check_values(text: &str) {
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.0.to_string().parse(), Ok(size));
    }
    if let Ok(Span(span)) = text.parse() {
        assert_eq!(humantime::format_duration(span).to_string().parse(), Ok(Span(span)));
    }
    if let Ok(listen) = text.parse::<Listen>() {
        assert_eq!(listen.0.to_string().parse(), Ok(listen));
    }
    if let Ok(budget) = text.parse::<DiskBudget>() {
        let all = budget.resolve(u64::MAX, u64::MAX);
        assert!(all >= budget.resolve(1 << 40, 0));
        assert!(matches!(budget, DiskBudget::Bytes(_)) || budget.resolve(1 << 40, 0) <= 1 << 40);
    }
}
