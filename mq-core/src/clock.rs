//! `Clock`: wall time in milliseconds since the epoch, and sleeping on it. The only reader of the
//! system's wall clock, and the seam by which tests move time. Not here: time-outs of the network
//! (they are Tokio's, on the monotonic clock).
//!
//! Invariant: a manual clock never goes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::watermark::Watermark;

/// Wall time, real or moved by hand. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is advanced.
    Manual(ManualClock),
}

/// The hand that moves a [`Clock::Manual`].
#[derive(Clone, Debug)]
pub struct ManualClock(Watermark);

/// A system clock that was set back or forward is noticed after at most this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Clock {
    /// A clock that starts at `start_ms` and the hand that moves it.
    #[must_use]
    pub fn manual(start_ms: u64) -> (Self, ManualClock) {
        let hand = ManualClock(Watermark::new(start_ms));
        (Self::Manual(hand.clone()), hand)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => system_now_ms(),
            Self::Manual(hand) => hand.now_ms(),
        }
    }

    /// Returns once [`Self::now_ms`] is at least `at_ms`.
    pub async fn sleep_until(&self, at_ms: i64) {
        match self {
            Self::System => {
                while let Some(left) = positive(at_ms.saturating_sub(system_now_ms())) {
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            }
            Self::Manual(hand) => {
                // A manual clock is never closed, so that the wait cannot fail.
                let _reached = hand.0.reached(u64::try_from(at_ms).unwrap_or(0)).await;
            }
        }
    }

    /// Returns after `duration` of this clock's time.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now_ms().saturating_add(millis(duration))).await;
    }
}

impl ManualClock {
    /// Moves the clock forward and wakes every sleeper that is due.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.advance(self.0.get().saturating_add(by));
    }

    /// Moves the clock forward to `at_ms`; one that is there already stays.
    pub fn advance_to(&self, at_ms: i64) {
        self.0.advance(u64::try_from(at_ms).unwrap_or(0));
    }

    /// When the next sleeper is due.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<i64> {
        self.0.next_target().map(|target| i64::try_from(target).unwrap_or(i64::MAX))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        i64::try_from(self.0.get()).unwrap_or(i64::MAX)
    }
}

/// `duration` in whole milliseconds, at most `i64::MAX`.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn positive(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

#[expect(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
fn system_now_ms() -> i64 {
    // A clock before 1970 reads as the epoch.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// A time since the epoch as year, month, day, hour, minute, second and millisecond in UTC.
#[must_use]
pub fn utc(ms: i64) -> [i64; 7] {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days to date by eras of 400 years that start in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    [year, month, day, hour, minute, of_day / 1000 % 60, of_day % 1000]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleepers_wake_when_the_hand_moves() {
        let (clock, hand) = Clock::manual(1_000);
        let sleeper = clock.sleep(Duration::from_secs(10));
        let mut sleeper = Box::pin(sleeper);
        assert!(futures_util::poll!(&mut sleeper).is_pending());
        assert_eq!(hand.next_due_ms(), Some(11_000));
        hand.advance(Duration::from_millis(9_999));
        assert!(futures_util::poll!(&mut sleeper).is_pending());
        hand.advance_to(11_000);
        sleeper.await;
        assert_eq!(hand.next_due_ms(), None);
        assert_eq!(clock.now_ms(), 11_000);
    }
}
