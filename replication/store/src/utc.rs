//! A wall clock time in UTC, for the names of files.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// A wall clock time in UTC: year, month, day, hour, minute, second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc(i64, u32, u32, u32, u32, u32);

impl Utc {
    /// Times before 1970 count as 1970: the clock is wrong then anyway.
    #[must_use]
    pub fn of(time: SystemTime) -> Utc {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let days = i64::try_from(seconds / 86_400).unwrap_or(0);
        let second = u32::try_from(seconds % 86_400).unwrap_or(0);
        // Days since 1970 to a date: eras of 400 years, years that begin in March.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = u32::try_from(day_of_year - (153 * month + 2) / 5 + 1).unwrap_or(1);
        let month = u32::try_from(if month < 10 { month + 3 } else { month - 9 }).unwrap_or(1);
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Utc(year, month, day, second / 3600, second / 60 % 60, second % 60)
    }

    /// `20260131T235959Z`, fit for a file name.
    #[must_use]
    pub fn compact(&self) -> String {
        let Utc(year, month, day, hour, minute, second) = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Utc(year, month, day, hour, minute, second) = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_since_1970_become_dates() {
        let date = |seconds| Utc::of(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(date(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(Utc::of(UNIX_EPOCH - Duration::from_secs(5)).compact(), "19700101T000000Z");
    }
}
