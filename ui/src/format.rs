//! Numbers as text: short, of steady width where they stand in columns, and never more exact than
//! they are.

use std::time::Duration;

/// `850us`, `12ms`, `4.5s`, `3m07s`, `2h05m`, `3d04h`: six cells at most.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.is_zero() => "0s".to_owned(),
        0 if length.as_millis() == 0 => format!("{}us", length.as_micros()),
        0 => format!("{}ms", length.as_millis()),
        1..10 => format!("{:.1}s", length.as_millis() as f64 / 1000.0).replace("10.0s", "10s"),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        86_400..8_640_000 => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// An age in whole steps, for what is looked at now and then: `3s`, `5m`, `2h`, `4d`.
pub(crate) fn age(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `0 B`, `1023 B`, `1.5 KiB`, `12 GiB`: nine cells at most.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (value, unit) = scaled(bytes, 1024.0);
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// `999`, `12.3k`, `4.5M`: five cells at most.
pub(crate) fn count(number: u64) -> String {
    const UNITS: [char; 6] = ['k', 'M', 'G', 'T', 'P', 'E'];
    if number < 10_000 {
        return number.to_string();
    }
    let (value, unit) = scaled(number, 1000.0);
    if value < 99.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// A part of some bytes, in the unit of the whole: `12.0/50.0 GiB`.
pub(crate) fn bytes_of(part: u64, whole: u64) -> String {
    let text = bytes(whole);
    let Some((number, unit)) = text.split_once(' ') else { return text };
    let step = match unit {
        "B" => return format!("{part}/{text}"),
        "KiB" => 1,
        "MiB" => 2,
        "GiB" => 3,
        "TiB" => 4,
        "PiB" => 5,
        _ => 6,
    };
    let part = part as f64 / 1024_f64.powi(step);
    if number.contains('.') || part < 9.95 {
        format!("{part:.1}/{text}")
    } else {
        format!("{part:.0}/{text}")
    }
}

/// Bytes a second.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// `97%`; `-` of nothing. 100% and 0% are said only when they are true.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    share(part as f64 / whole as f64)
}

/// A share of 0 to 1 as `97%`, with the promise of [`percent`].
pub(crate) fn share(share: f64) -> String {
    if !share.is_finite() {
        return "-".to_owned();
    }
    let rounded = (share * 100.0).round();
    if rounded >= 100.0 && share < 1.0 {
        return "99%".to_owned();
    }
    if rounded <= 0.0 && share > 0.0 {
        return "<1%".to_owned();
    }
    format!("{rounded:.0}%")
}

/// `one item`, `2 items`.
pub(crate) fn plural(number: u64, word: &str) -> String {
    format!("{} {word}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `number` in units of `step` to a power, at most the sixth, so that it is less than `step`.
fn scaled(number: u64, step: f64) -> (f64, usize) {
    let mut value = number as f64 / step;
    let mut unit = 0;
    while value >= step - 0.5 && unit < 5 {
        value /= step;
        unit += 1;
    }
    (value, unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_steps() {
        let texts = [0, 850, 12_300, 4_560_000, 9_999_000, 59_900_000, 187_000_000, 7_500_000_000]
            .map(|micros| duration(Duration::from_micros(micros)));
        assert_eq!(texts, ["0s", "850us", "12ms", "4.6s", "10s", "59s", "3m07s", "2h05m"]);
        assert_eq!(duration(Duration::from_secs(273_600)), "3d04h");
        assert_eq!(duration(Duration::from_secs(864_000_000)), "10000d");
        assert_eq!(age(Duration::from_secs(7300)), "2h");
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!([bytes((1 << 20) - 1), bytes(250 << 30)], ["1.0 MiB", "250 GiB"]);
        assert_eq!([count(9_999), count(12_345), count(1_234_567)], ["9999", "12.3k", "1.2M"]);
        assert_eq!(bytes_of(12 << 30, 50 << 30), "12.0/50.0 GiB");
        assert_eq!([bytes_of(1 << 30, 500 << 30), bytes_of(3, 7)], ["1.0/500 GiB", "3/7 B"]);
        assert_eq!(plural(1, "build"), "1 build");
        assert_eq!(plural(0, "build"), "0 builds");
    }

    #[test]
    fn shares_do_not_round_to_a_lie() {
        assert_eq!([percent(1, 1), percent(0, 9), percent(0, 0)], ["100%", "0%", "-"]);
        assert_eq!([percent(9_999, 10_000), percent(1, 10_000)], ["99%", "<1%"]);
        assert_eq!(share(f64::NAN), "-");
    }

    proptest! {
        #[test]
        fn columns_hold(number: u64, micros in 0..u64::MAX / 1000) {
            prop_assert!(bytes(number).len() <= 9, "{}", bytes(number));
            prop_assert!(count(number).len() <= 5, "{}", count(number));
            let text = duration(Duration::from_micros(micros % 8_000_000_000_000));
            prop_assert!(text.len() <= 6, "{}", text);
        }
    }
}
