//! Date formatting for `strftime_now`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const SECONDS_PER_DAY: i64 = 86_400;

/// A local time in the proleptic Gregorian calendar.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    weekday: i64,
    second_of_day: i64,
}

impl Civil {
    fn new(time: SystemTime, offset: i32) -> Self {
        let whole_seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => whole_seconds(after),
            Err(error) => whole_seconds(error.duration()).saturating_neg(),
        };
        let seconds = seconds.saturating_add(offset.into());
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        // Counting years from March puts the leap day last; 400 years always have 146,097 days.
        let since_march_0 = days + 719_468;
        let era = since_march_0.div_euclid(146_097);
        let day_of_era = since_march_0.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_march_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year = if month > 2 { day_of_march_year + 60 + i64::from(leap) } else { day_of_march_year - 305 };
        Self {
            year,
            month,
            day: day_of_march_year - (153 * month_from_march + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
            second_of_day: seconds.rem_euclid(SECONDS_PER_DAY),
        }
    }

    fn hour(&self) -> i64 {
        self.second_of_day / 3_600
    }

    fn hour_of_12(&self) -> i64 {
        (self.hour() + 11) % 12 + 1
    }

    /// Returns the field of a conversion letter; numbers are padded to their width unless `plain`.
    fn field(&self, letter: char, plain: bool) -> Option<String> {
        let number = |value: i64, width: usize| {
            if plain { value.to_string() } else { format!("{value:0width$}") }
        };
        let name = |names: &[&str], index: i64| {
            usize::try_from(index).ok().and_then(|i| names.get(i).copied()).unwrap_or("").to_owned()
        };
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => number(self.year.rem_euclid(100), 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => format!("{:2}", self.day),
            'j' => number(self.day_of_year, 3),
            'H' => number(self.hour(), 2),
            'I' => number(self.hour_of_12(), 2),
            'M' => number(self.second_of_day / 60 % 60, 2),
            'S' => number(self.second_of_day % 60, 2),
            'p' => if self.hour() < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => name(&MONTHS, self.month - 1),
            'b' | 'h' => name(&MONTHS, self.month - 1).chars().take(3).collect(),
            'A' => name(&WEEKDAYS, self.weekday),
            'a' => name(&WEEKDAYS, self.weekday).chars().take(3).collect(),
            'w' => self.weekday.to_string(),
            // As in Python, whose local time has no zone.
            'Z' | 'z' => String::new(),
            'u' => if self.weekday == 0 { 7 } else { self.weekday }.to_string(),
            'C' => number(self.year.div_euclid(100), 2),
            'k' => format!("{:2}", self.hour()),
            'l' => format!("{:2}", self.hour_of_12()),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            'U' => number((self.day_of_year + 6 - self.weekday) / 7, 2),
            'W' => number((self.day_of_year + 6 - (self.weekday + 6) % 7) / 7, 2),
            'R' => format!("{:02}:{:02}", self.hour(), self.second_of_day / 60 % 60),
            'D' | 'x' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year.rem_euclid(100)),
            'X' => self.field('T', plain)?,
            'c' => {
                let field = |letter| self.field(letter, plain).unwrap_or_default();
                format!("{} {} {} {} {}", field('a'), field('b'), field('e'), field('T'), field('Y'))
            }
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour(), self.second_of_day / 60 % 60, self.second_of_day % 60),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// Formats a time, shifted by `offset` seconds, like C's `strftime` in the C locale. Unknown conversions are copied
/// unchanged.
pub(super) fn strftime(format: &str, time: SystemTime, offset: i32) -> String {
    let civil = Civil::new(time, offset);
    let mut text = String::with_capacity(format.len() + 16);
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let (plain, spec) = match after.strip_prefix('-') {
            Some(spec) => (true, spec),
            None => (false, after),
        };
        let mut letters = spec.chars();
        match letters.next().and_then(|letter| civil.field(letter, plain)) {
            Some(field) => {
                text.push_str(&field);
                rest = letters.as_str();
            }
            None => {
                text.push('%');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, format: &str) -> String {
        let span = Duration::from_secs(seconds.unsigned_abs());
        strftime(format, if seconds < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }, 0)
    }

    #[test]
    fn known_dates() {
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j"), "Thursday 01 January 1970 00:00:00 001");
        assert_eq!(at(951_782_399, "%a %d %b %Y %T"), "Mon 28 Feb 2000 23:59:59");
        assert_eq!(at(951_782_400, "%F %j"), "2000-02-29 060");
        assert_eq!(at(1_735_603_200, "%F %j %I %p %-d/%-m/%y"), "2024-12-31 366 12 AM 31/12/24");
        assert_eq!(at(-1, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(at(4_107_542_400, "%F %j"), "2100-03-01 060");
        assert_eq!(at(0, "100%% %Q %- %"), "100% %Q %- %");
    }

    #[test]
    fn the_ends_of_time() {
        for time in [
            UNIX_EPOCH.checked_add(Duration::from_secs(i64::MAX as u64)),
            UNIX_EPOCH.checked_sub(Duration::from_secs(i64::MAX as u64)),
        ] {
            assert!(time.is_none_or(|time| !strftime("%c %F", time, 0).is_empty()));
        }
    }
}
