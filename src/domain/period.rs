//! Periods of a budget: which one a moment belongs to, on the clock of a time zone.
//!
//! A period begins when the zone's clock first shows its first minute, and ends when the next one
//! begins, so that periods follow each other without gap or overlap whatever the clock does: a day
//! has 23, 24 or 25 hours, an hour that happens twice is two periods, and one that never happens is
//! none. Where the clock is moved in the middle of an hour, that hour's period ends there.

use super::error::Error;
use super::name;
use super::time::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp as Instant, ToSpan};
use serde::{Deserialize, Serialize};

/// The longest name of a time zone, in bytes.
pub const ZONE_MAX: usize = 64;
/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

/// How long a budget's tokens have to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// From minute 0 to minute 0.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first to the first.
    Month,
    /// For ever: nothing but a higher limit makes room again.
    None,
}

/// From `start`, which belongs to it, to `end`, which does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it begins; 0 = always was.
    pub start: Timestamp,
    /// When the next one begins; `u64::MAX` = never.
    pub end: Timestamp,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::None];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::None => "none",
        }
    }

    /// The period that `at` belongs to. What is too late for a calendar (after the year 9999)
    /// belongs to the last period there is.
    pub fn span(self, at: Timestamp, zone: &TimeZone) -> Span {
        let last = || Instant::MAX - SignedDuration::from_hours(48);
        let at = i64::try_from(at.0)
            .ok()
            .and_then(|usec| Instant::from_microsecond(usec).ok())
            .map_or_else(last, |at| at.min(last()));
        let bounds = match self {
            Self::None => None,
            Self::Hour => Some(hour(at, zone)),
            Self::Day | Self::Week | Self::Month => self.dates(at, zone),
        };
        let end = bounds.and_then(|(_, end)| u64::try_from(end.as_microsecond()).ok());
        Span {
            // What began before 1970 began at 0.
            start: Timestamp(bounds.map_or(0, |(start, _)| {
                u64::try_from(start.as_microsecond()).unwrap_or(0)
            })),
            end: Timestamp(end.unwrap_or(u64::MAX)),
        }
    }

    /// The bounds of a period that begins with a date; `None` where the calendar ends.
    fn dates(self, at: Instant, zone: &TimeZone) -> Option<(Instant, Instant)> {
        let mut first = self.first_of(zone.to_datetime(at).date())?;
        // A clock that is moved back over midnight shows a date twice: the first time counts.
        while first_moment(first, zone)? > at {
            first = self.first_of(first.yesterday().ok()?)?;
        }
        loop {
            let next = self.next(first)?;
            let end = first_moment(next, zone)?;
            if at < end {
                return Some((first_moment(first, zone)?, end));
            }
            first = next;
        }
    }

    /// The first date of the period that has this date.
    fn first_of(self, date: Date) -> Option<Date> {
        match self {
            Self::Week => {
                let back = i64::from(date.weekday().since(Weekday::Monday));
                date.checked_sub(back.days()).ok()
            }
            Self::Month => Some(date.first_of_month()),
            _ => Some(date),
        }
    }

    fn next(self, first: Date) -> Option<Date> {
        let span = match self {
            Self::Week => 1.week(),
            Self::Month => 1.month(),
            _ => 1.day(),
        };
        first.checked_add(span).ok()
    }
}

/// The moment from which the clock of `zone` shows `date` or, if it skips it, a later one.
fn first_moment(date: Date, zone: &TimeZone) -> Option<Instant> {
    let midnight = zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0));
    let skipped = matches!(midnight.offset(), AmbiguousOffset::Gap { .. });
    let moment = midnight.compatible().ok()?;
    if !skipped {
        return Some(moment);
    }
    // The clock jumps over midnight, and shows the date from the jump on.
    let later = moment + SignedDuration::from_nanos(1);
    zone.preceding(later).next().map(|jump| jump.timestamp())
}

/// From one full hour of the clock to the next, cut where the clock is moved.
fn hour(at: Instant, zone: &TimeZone) -> (Instant, Instant) {
    let offset = zone.to_offset(at);
    let ahead = i64::from(offset.seconds()) * 1_000_000;
    let usec = at.as_microsecond();
    let full = usec - (usec + ahead).rem_euclid(HOUR);
    let instant = |usec| Instant::from_microsecond(usec).unwrap_or(at);
    let (mut start, mut end) = (instant(full), instant(full + HOUR));
    // Not every transition moves the clock: some only rename the time.
    let cut = |t: Instant| zone.to_offset(t) != zone.to_offset(t - SignedDuration::from_nanos(1));
    let until_now = zone.preceding(at + SignedDuration::from_nanos(1));
    let mut before = until_now.map(|t| t.timestamp());
    if let Some(moved) = before.by_ref().take_while(|t| *t > start).find(|t| cut(*t)) {
        start = moved;
    }
    let mut after = zone.following(at).map(|t| t.timestamp());
    if let Some(moved) = after.by_ref().take_while(|t| *t < end).find(|t| cut(*t)) {
        end = moved;
    }
    (start, end)
}

/// The time zone of this name: of the host's database, else of the one built in.
pub fn zone(text: &str) -> Result<TimeZone, Error> {
    if text.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    let found = (text.len() <= ZONE_MAX && text.chars().all(legal))
        .then(|| jiff::tz::db().get(text).ok())
        .flatten()
        .filter(|zone| zone.iana_name().is_some());
    found.ok_or_else(|| {
        Error::invalid(format!(
            "This host knows no time zone “{}”. Give a name of the IANA database such as UTC or Europe/Berlin (timedatectl list-timezones).",
            name::shown(text)
        ))
    })
}

impl std::str::FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "“{}” is not a period; give {}.",
                    name::shown(text),
                    Self::ALL.map(Self::as_str).join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Zones whose clocks do everything clocks do.
    const ZONES: [&str; 12] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",    // moved at 00:01 until 2011: midnight twice
        "Australia/Lord_Howe", // moved by half an hour
        "America/Havana",      // moved at 01:00 to midnight
        "America/Sao_Paulo",   // moved at midnight: days without one
        "Asia/Kathmandu",      // a quarter of an hour from everybody
        "Asia/Beirut",
        "Pacific/Apia", // skipped 30 December 2011
        "Pacific/Kiritimati",
        "Africa/Casablanca", // four changes a year
    ];

    fn at(text: &str) -> Timestamp {
        let instant: Result<Instant, _> = text.parse();
        Timestamp(instant.map_or(0, |t| t.as_microsecond().unsigned_abs()))
    }

    fn bounds(period: Period, moment: &str, name: &str) -> Result<(String, String), Error> {
        let span = period.span(at(moment), &zone(name)?);
        let show = |t: Timestamp| {
            let usec = i64::try_from(t.0).unwrap_or(i64::MAX);
            Instant::from_microsecond(usec).map_or(String::new(), |t| t.to_string())
        };
        Ok((show(span.start), show(span.end)))
    }

    #[test]
    fn daylight_saving() -> Result<(), Error> {
        use Period::{Day, Hour, Month, Week};
        for (period, moment, zone, start, end) in [
            // 23 hours, 25 hours.
            (
                Day,
                "2026-03-29T12:00:00Z",
                "Europe/Berlin",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Day,
                "2026-10-25T12:00:00Z",
                "Europe/Berlin",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // 02:00 to 03:00 happens twice: two periods. At 01:00Z the second one begins.
            (
                Hour,
                "2026-10-25T00:30:00Z",
                "Europe/Berlin",
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
            ),
            (
                Hour,
                "2026-10-25T01:00:00Z",
                "Europe/Berlin",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
            ),
            // A clock moved back by half an hour in the middle of one.
            (
                Hour,
                "2026-04-04T15:10:00Z",
                "Australia/Lord_Howe",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:30:00Z",
            ),
            (
                Hour,
                "2026-10-03T15:40:00Z",
                "Australia/Lord_Howe",
                "2026-10-03T15:30:00Z",
                "2026-10-03T16:00:00Z",
            ),
            // Quarters of an hour from Greenwich.
            (
                Hour,
                "2026-05-05T05:00:00Z",
                "Asia/Kathmandu",
                "2026-05-05T04:15:00Z",
                "2026-05-05T05:15:00Z",
            ),
            // No midnight: the day begins at one.
            (
                Day,
                "2018-11-04T12:00:00Z",
                "America/Sao_Paulo",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
            // Midnight twice: the first one counts. At 00:01 back to 23:01.
            (
                Day,
                "2010-11-07T03:00:00Z",
                "America/St_Johns",
                "2010-11-07T02:30:00Z",
                "2010-11-08T03:30:00Z",
            ),
            (
                Day,
                "2010-11-07T02:00:00Z",
                "America/St_Johns",
                "2010-11-06T02:30:00Z",
                "2010-11-07T02:30:00Z",
            ),
            // Half past eleven to half past midnight: the day begins with the jump.
            (
                Day,
                "2011-12-29T12:00:00Z",
                "Pacific/Apia",
                "2011-12-29T10:00:00Z",
                "2011-12-30T10:00:00Z",
            ),
            (
                Day,
                "2011-12-30T12:00:00Z",
                "Pacific/Apia",
                "2011-12-30T10:00:00Z",
                "2011-12-31T10:00:00Z",
            ),
            (
                Week,
                "2026-03-29T21:59:59Z",
                "Europe/Berlin",
                "2026-03-22T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Month,
                "2024-02-29T23:30:00Z",
                "Europe/Berlin",
                "2024-02-29T23:00:00Z",
                "2024-03-31T22:00:00Z",
            ),
            (
                Month,
                "2026-12-31T23:59:59Z",
                "UTC",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            let got = bounds(period, moment, zone)?;
            assert_eq!(
                got,
                (start.to_owned(), end.to_owned()),
                "{period:?} of {moment} in {zone}"
            );
        }
        Ok(())
    }

    #[test]
    fn zones_that_are_none() {
        let long = "A/".repeat(100);
        for name in [
            "",
            "Mars/Olympus",
            "../../etc/passwd",
            "/etc/localtime",
            "Etc/Unknown",
            "EST5EDT,M3.2.0",
            "Europe/Berlin\0",
            &long,
        ] {
            let error = zone(name).err().map(|e| e.message);
            assert!(
                error.is_some_and(|e| e.contains("no time zone") && e.len() < 400),
                "{name}"
            );
        }
        let known = |name: &str| zone(name).map(|z| z.iana_name().map(str::to_owned));
        assert_eq!(known("europe/berlin"), Ok(Some("Europe/Berlin".to_owned())));
        assert_eq!(known("utc"), Ok(Some("UTC".to_owned())));
    }

    #[test]
    fn words_read_back() {
        for period in Period::ALL {
            assert_eq!(period.as_str().parse(), Ok(period));
        }
        assert!("daily".parse::<Period>().is_err());
    }

    #[test]
    fn the_ends_of_time() -> Result<(), Error> {
        for name in ZONES {
            for period in Period::ALL {
                let zone = zone(name)?;
                assert_eq!(period.span(Timestamp(0), &zone).start, Timestamp(0));
                let late = period.span(Timestamp(u64::MAX), &zone);
                assert_eq!(late, period.span(Timestamp(u64::MAX - 1), &zone));
                assert!(late.start < late.end);
            }
        }
        Ok(())
    }

    /// Any moment, and often one near a change of the clock.
    fn moments() -> impl Strategy<Value = (usize, u64)> {
        let any = (0..ZONES.len(), 0u64..4_102_444_800_000_000);
        let near = (
            0..ZONES.len(),
            0i64..3_000_000_000,
            -90_000_000_000i64..90_000_000_000,
        );
        let near = near.prop_map(|(zone, from, off)| {
            let moved = Instant::from_second(from).ok().and_then(|from| {
                let zone = super::zone(ZONES[zone]).ok()?;
                Some(zone.following(from).next()?.timestamp().as_microsecond())
            });
            let usec = moved.unwrap_or(from * 1_000_000) + off;
            (zone, u64::try_from(usec).unwrap_or(0))
        });
        prop_oneof![any, near]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn periods_follow_each_other((name, at) in moments(), later in 0u64..100_000_000_000) {
            let zone = zone(ZONES[name]).map_err(|e| TestCaseError::fail(e.message))?;
            for period in Period::ALL {
                let span = period.span(Timestamp(at), &zone);
                prop_assert!(span.start.0 <= at && at < span.end.0, "{:?} {:?} {}", period, span, at);
                // Every moment in it says the same, and its neighbours meet it.
                for inside in [span.start.0, (span.start.0 + span.end.0.min(u64::MAX / 2)) / 2, span.end.0 - 1] {
                    prop_assert_eq!(period.span(Timestamp(inside), &zone), span);
                }
                if period != Period::None {
                    prop_assert_eq!(period.span(span.end, &zone).start, span.end);
                    if span.start.0 > 0 {
                        prop_assert_eq!(period.span(Timestamp(span.start.0 - 1), &zone).end, span.start);
                    }
                }
                let then = period.span(Timestamp(at + later), &zone);
                prop_assert!(then == span || then.start >= span.end);
            }
        }

        /// A period is not longer than its name says, but for clocks moved back (in St John's by two hours,
        /// once), and the clock shows its first minute.
        #[test]
        fn periods_begin_where_the_clock_says((name, at) in moments()) {
            let zone = zone(ZONES[name]).map_err(|e| TestCaseError::fail(e.message))?;
            let clock = |t: Timestamp| {
                let usec = i64::try_from(t.0).unwrap_or(i64::MAX);
                zone.to_datetime(Instant::from_microsecond(usec).unwrap_or_default())
            };
            for (period, hours) in [(Period::Hour, 1), (Period::Day, 26), (Period::Week, 7 * 24 + 2), (Period::Month, 31 * 24 + 2)] {
                let span = period.span(Timestamp(at), &zone);
                prop_assert!(span.end.0 - span.start.0 <= hours * 3_600_000_000);
                if span.start.0 == 0 {
                    continue;
                }
                let (start, before) = (clock(span.start), clock(span.start.minus_usec(1)));
                match period {
                    // Else the clock was moved just then.
                    Period::Hour => prop_assert!(start.time().minute() == 0 || before.checked_add(1.microsecond()).ok() != Some(start)),
                    Period::Week => prop_assert_eq!(start.date().weekday(), Weekday::Monday),
                    Period::Month => prop_assert_eq!(start.date().day(), 1),
                    _ => prop_assert!(before.date() < start.date()),
                }
            }
        }
    }
}
