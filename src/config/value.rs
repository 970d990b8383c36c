//! Kinds of settings: how each is read from text, printed as text, and described.
//!
//! Invariant: a printed value reads back as the same value.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::server::auth::Secret;

/// Value as text, before its setting is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// No value.
    Nothing,
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn one(&self) -> Result<&str, String> {
        match self {
            Self::One(text) => Ok(text),
            Self::Nothing => Ok(""),
            Self::Many(_) => Err("expected one value, not a list".to_owned()),
        }
    }

    /// Returns the values of a list; in a single text they are separated by commas.
    fn many(&self) -> Vec<&str> {
        match self {
            Self::Nothing => Vec::new(),
            Self::One(text) => text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect(),
            Self::Many(words) => words.iter().map(String::as_str).collect(),
        }
    }
}

/// Setting in a [`Config`](super::settings::Config): access to one field, and its allowed values.
pub(super) trait Setting {
    /// Sets a value, or returns what was expected.
    fn set(&mut self, words: &Words) -> Result<(), String>;
    fn words(&self) -> Words;
    /// Returns the spelling to use instead of a value that was accepted with a warning.
    fn warning(&self, _words: &Words) -> Option<String> {
        None
    }
    /// Returns the placeholder for a value in help: `BYTES`, `TIME`, ….
    fn kind(&self) -> &'static str;
    /// Returns the allowed values, such as `1 to 256`; empty if the kind says enough.
    fn range(&self) -> String {
        String::new()
    }
    /// Returns whether TOML needs no quotes.
    fn is_bare(&self) -> bool {
        false
    }
}

type Boxed<'a> = Box<dyn Setting + 'a>;

/// Unsigned integer of any width.
pub(super) trait UnsignedInteger {
    fn get(&self) -> u64;
    fn put(&mut self, value: u64);
}

macro_rules! whole {
    ($($number:ty)*) => {$(
        impl UnsignedInteger for $number {
            fn get(&self) -> u64 {
                *self as u64
            }
            fn put(&mut self, value: u64) {
                *self = value as $number;
            }
        }
    )*};
}
whole!(u16 u32 u64 usize);

pub(super) fn whole_number(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

fn within(value: u64, range: &RangeInclusive<u64>, show: impl Fn(u64) -> String) -> Result<u64, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is not from {} to {}", show(value), show(*range.start()), show(*range.end())))
}

/// Splits `30s` into its number and its unit.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

const BYTE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

pub(super) fn read_bytes(text: &str) -> Result<u64, String> {
    let expected = || "expected bytes, as 64KiB, 4MiB or 65536".to_owned();
    let (number, unit) = split_unit(text);
    let number = whole_number(number).ok_or_else(expected)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1_u64 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).ok_or_else(expected)
}

pub(super) fn show_bytes(bytes: u64) -> String {
    let (name, unit) = BYTE_UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .unwrap_or(&("B", 1));
    if *unit == 1 { bytes.to_string() } else { format!("{}{name}", bytes / unit) }
}

const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

pub(super) fn read_time(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let number = whole_number(number).ok_or("expected a time, as 500ms, 30s or 2m")?;
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let (_, unit) = (TIME_UNITS.iter().find(|(name, _)| *name == unit))
        .ok_or_else(|| format!("`{text}` has no unit that is a time's: ms, s, m, h or d, as 30s"))?;
    number.checked_mul(*unit).ok_or_else(|| "expected a time, as 500ms, 30s or 2m".to_owned())
}

pub(super) fn show_time(millis: u64) -> String {
    let (name, unit) = TIME_UNITS
        .iter()
        .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or(&("s", 1));
    format!("{}{name}", millis / unit)
}

struct NumberSetting<'a, N> {
    place: &'a mut N,
    range: RangeInclusive<u64>,
    in_bytes: bool,
}

impl<N: UnsignedInteger> NumberSetting<'_, N> {
    fn shown(&self, value: u64) -> String {
        if self.in_bytes { show_bytes(value) } else { value.to_string() }
    }
}

impl<N: UnsignedInteger> Setting for NumberSetting<'_, N> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?;
        let value = if self.in_bytes {
            read_bytes(text)?
        } else {
            whole_number(text.trim()).ok_or_else(|| format!("expected a number, {}", self.range()))?
        };
        self.place.put(within(value, &self.range, |value| self.shown(value))?);
        Ok(())
    }

    fn words(&self) -> Words {
        Words::One(self.shown(self.place.get()))
    }

    fn kind(&self) -> &'static str {
        if self.in_bytes { "BYTES" } else { "N" }
    }

    fn range(&self) -> String {
        format!("{} to {}", self.shown(*self.range.start()), self.shown(*self.range.end()))
    }

    fn is_bare(&self) -> bool {
        !self.in_bytes || self.shown(self.place.get()).bytes().all(|b| b.is_ascii_digit())
    }
}

/// Returns the setting of a size in bytes.
pub(super) fn bytes<N: UnsignedInteger>(place: &mut N, range: RangeInclusive<u64>) -> Boxed<'_> {
    Box::new(NumberSetting { place, range, in_bytes: true })
}

/// Returns the setting of a count.
pub(super) fn count<N: UnsignedInteger>(place: &mut N, range: RangeInclusive<u64>) -> Boxed<'_> {
    Box::new(NumberSetting { place, range, in_bytes: false })
}

struct TimeSetting<'a>(&'a mut Duration, RangeInclusive<u64>);

impl Setting for TimeSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let millis = read_time(words.one()?)?;
        *self.0 = Duration::from_millis(within(millis, &self.1, show_time)?);
        Ok(())
    }

    fn words(&self) -> Words {
        Words::One(show_time(self.0.as_millis() as u64))
    }

    fn kind(&self) -> &'static str {
        "TIME"
    }

    fn range(&self) -> String {
        format!("{} to {}", show_time(*self.1.start()), show_time(*self.1.end()))
    }
}

/// Returns the setting of a time, with its range in milliseconds.
pub(super) fn time(place: &mut Duration, millis: RangeInclusive<u64>) -> Boxed<'_> {
    Box::new(TimeSetting(place, millis))
}

struct SwitchSetting<'a>(&'a mut bool);

impl Setting for SwitchSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        *self.0 = match words.one()?.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" | "" => false,
            _ => return Err("expected true or false".to_owned()),
        };
        Ok(())
    }

    fn words(&self) -> Words {
        Words::One(self.0.to_string())
    }

    fn kind(&self) -> &'static str {
        "BOOL"
    }

    fn is_bare(&self) -> bool {
        true
    }
}

/// Returns the setting of a switch; as a flag it needs no value.
pub(super) fn switch(place: &mut bool) -> Boxed<'_> {
    Box::new(SwitchSetting(place))
}

struct TextSetting<'a> {
    place: &'a mut String,
    kind: &'static str,
    check: fn(&str) -> Result<(), String>,
}

impl Setting for TextSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?;
        (self.check)(text)?;
        text.clone_into(self.place);
        Ok(())
    }

    fn words(&self) -> Words {
        Words::One(self.place.clone())
    }

    fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Returns the setting of a text that must pass a check.
pub(super) fn text<'a>(
    place: &'a mut String,
    kind: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Boxed<'a> {
    Box::new(TextSetting { place, kind, check })
}

struct SecretSetting<'a>(&'a mut Option<Secret>);

impl Setting for SecretSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?;
        *self.0 = (!text.is_empty()).then(|| Secret::new(text));
        Ok(())
    }

    fn words(&self) -> Words {
        self.0.as_ref().map_or(Words::Nothing, |secret| Words::One(secret.reveal().to_owned()))
    }

    fn kind(&self) -> &'static str {
        SECRET_KIND
    }
}

/// Returns the setting of a secret text, which is never printed; an empty one is none.
pub(super) fn secret(place: &mut Option<Secret>) -> Boxed<'_> {
    Box::new(SecretSetting(place))
}

struct FileSetting<'a>(&'a mut Option<PathBuf>);

impl Setting for FileSetting<'_> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?;
        *self.0 = (!text.is_empty()).then(|| text.into());
        Ok(())
    }

    fn words(&self) -> Words {
        self.0.as_ref().map_or(Words::Nothing, |path| Words::One(path.display().to_string()))
    }

    fn kind(&self) -> &'static str {
        FILE_KIND
    }
}

/// Returns the setting of a file or folder, or none.
pub(super) fn file(place: &mut Option<PathBuf>) -> Boxed<'_> {
    Box::new(FileSetting(place))
}

struct LimitSetting<'a, N> {
    place: &'a mut Option<N>,
    range: RangeInclusive<u64>,
    in_bytes: bool,
    /// Whether older versions wrote 0 for no limit.
    zero_was_none: bool,
}

impl<N: UnsignedInteger + Default> LimitSetting<'_, N> {
    fn is_old_none(&self, text: &str) -> bool {
        self.zero_was_none && whole_number(split_unit(text).0) == Some(0)
    }
}

impl<N: UnsignedInteger + Default> Setting for LimitSetting<'_, N> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?.trim();
        let mut value = N::default();
        let mut number =
            NumberSetting { place: &mut value, range: self.range.clone(), in_bytes: self.in_bytes };
        *self.place = if text.is_empty() || text == "none" || self.is_old_none(text) {
            None
        } else {
            number.set(words)?;
            Some(value)
        };
        Ok(())
    }

    fn words(&self) -> Words {
        let show = |value: &N| if self.in_bytes { show_bytes(value.get()) } else { value.get().to_string() };
        self.place.as_ref().map_or(Words::Nothing, |value| Words::One(show(value)))
    }

    fn warning(&self, words: &Words) -> Option<String> {
        let text = words.one().ok()?;
        self.is_old_none(text).then(|| "0 is read as none, as in earlier versions; write \"none\"".to_owned())
    }

    fn kind(&self) -> &'static str {
        if self.in_bytes { "BYTES" } else { "N" }
    }

    fn range(&self) -> String {
        let show = |value: u64| if self.in_bytes { show_bytes(value) } else { value.to_string() };
        format!("none, or {} to {}", show(*self.range.start()), show(*self.range.end()))
    }

    fn is_bare(&self) -> bool {
        let Words::One(text) = self.words() else { return true };
        text.bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// Returns the setting of a count that may be none.
pub(super) fn limit<N: UnsignedInteger + Default>(
    place: &mut Option<N>,
    range: RangeInclusive<u64>,
) -> Boxed<'_> {
    Box::new(LimitSetting { place, range, in_bytes: false, zero_was_none: false })
}

/// Returns the setting of a count as [`limit`] does, for a setting in which 0 meant none in earlier versions: a 0 is
/// accepted with a warning.
pub(super) fn limit_not_zero<N: UnsignedInteger + Default>(
    place: &mut Option<N>,
    range: RangeInclusive<u64>,
) -> Boxed<'_> {
    Box::new(LimitSetting { place, range, in_bytes: false, zero_was_none: true })
}

/// Returns the setting of a size in bytes, as [`limit_not_zero`] does for a count.
pub(super) fn byte_limit_not_zero<N: UnsignedInteger + Default>(
    place: &mut Option<N>,
    range: RangeInclusive<u64>,
) -> Boxed<'_> {
    Box::new(LimitSetting { place, range, in_bytes: true, zero_was_none: true })
}

struct OneOfSetting<'a, T: 'static> {
    place: &'a mut T,
    names: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq> Setting for OneOfSetting<'_, T> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        let text = words.one()?;
        let found = self.names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
        *self.place = found.ok_or_else(|| format!("expected one of {}", self.range()))?.1;
        Ok(())
    }

    fn words(&self) -> Words {
        let name = self.names.iter().find(|(_, value)| value == self.place);
        name.map_or(Words::Nothing, |(name, _)| Words::One((*name).to_owned()))
    }

    fn kind(&self) -> &'static str {
        "NAME"
    }

    fn range(&self) -> String {
        self.names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the setting of a choice among names.
pub(super) fn one_of<'a, T: Copy + PartialEq>(
    place: &'a mut T,
    names: &'static [(&'static str, T)],
) -> Boxed<'a> {
    Box::new(OneOfSetting { place, names })
}

struct ListSetting<'a, T> {
    place: &'a mut Vec<T>,
    kind: &'static str,
    read: fn(&str) -> Result<T, String>,
    show: fn(&T) -> String,
}

impl<T> Setting for ListSetting<'_, T> {
    fn set(&mut self, words: &Words) -> Result<(), String> {
        *self.place = words.many().into_iter().map(self.read).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn words(&self) -> Words {
        Words::Many(self.place.iter().map(self.show).collect())
    }

    fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Returns the setting of a list: an array in TOML, separated by commas elsewhere. A flag may also be repeated.
pub(super) fn list<'a, T>(
    place: &'a mut Vec<T>,
    kind: &'static str,
    read: fn(&str) -> Result<T, String>,
    show: fn(&T) -> String,
) -> Boxed<'a> {
    Box::new(ListSetting { place, kind, read, show })
}

/// Placeholder for a secret text.
pub(super) const SECRET_KIND: &str = "SECRET";

/// Placeholder for a file or folder. A relative one in a config file is relative to that file.
pub(super) const FILE_KIND: &str = "PATH";

/// Returns a text in TOML's quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns a setting's value as TOML; `None` if it has none.
pub(super) fn as_toml(setting: &dyn Setting) -> Option<String> {
    match setting.words() {
        Words::Nothing => None,
        Words::One(text) if setting.is_bare() => Some(text),
        Words::One(text) => Some(quoted(&text)),
        Words::Many(words) => {
            Some(format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units_and_print_as_they_read() {
        for (text, bytes) in [
            ("65536", 65536),
            ("64KiB", 65536),
            ("64 kib", 65536),
            ("1_000", 1000),
            ("5MB", 5_000_000),
            ("2g", 2 << 30),
        ] {
            assert_eq!(read_bytes(text), Ok(bytes), "{text}");
            assert_eq!(read_bytes(&show_bytes(bytes)), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1 parsec", "99999999999999999999", "99999999TiB"] {
            assert!(read_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("0", 0), ("90s", 90_000)]
        {
            assert_eq!(read_time(text), Ok(millis), "{text}");
            assert_eq!(read_time(&show_time(millis)), Ok(millis), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "1week"] {
            assert!(read_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        let mut n = 5_u32;
        assert_eq!(count(&mut n, 1..=10).set(&Words::One("11".into())), Err("11 is not from 1 to 10".into()));
        let mut size = 0_usize;
        let error = bytes(&mut size, 1024..=1 << 20).set(&Words::One("2MiB".into()));
        assert_eq!(error, Err("2MiB is not from 1KiB to 1MiB".into()));
        let mut wait = Duration::ZERO;
        let error = time(&mut wait, 1..=60_000).set(&Words::One("2m".into()));
        assert_eq!((error, n, size), (Err("2m is not from 1ms to 1m".into()), 5, 0));
    }

    #[test]
    fn text_is_quoted_as_toml_reads_it() {
        let text = "a \"b\" \\ \n\t\u{7} é";
        let toml = format!("k = {}", quoted(text));
        let table = toml::de::DeTable::parse(&toml).expect("TOML");
        assert_eq!(table.get_ref().get("k").and_then(|v| v.get_ref().as_str()), Some(text));
    }
}
