//! Who a client is and what its messages are called: client ids and `UNIQ_KEY`s. Not here: offset
//! ids, which brokers make.
//!
//! Invariant: no two messages of one client have one key, however fast it sends and whatever its
//! clock does; two clients differ in 32 random bits besides address and process.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// 16 bytes in hexadecimal.
const KEY_DIGITS: usize = 32;
/// Address, process and random bits; the rest counts.
const PREFIX_DIGITS: usize = 20;
const HEX: &[u8; 16] = b"0123456789ABCDEF";
const DAY_MS: i64 = 86_400_000;

/// A random number that nobody can foresee; for jitter and names, not for secrets.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `address@instance`; without a chosen instance one that no other client has.
pub(super) fn client_id(address: IpAddr, instance: Option<&str>) -> String {
    match instance {
        Some(instance) => format!("{address}@{instance}"),
        None => format!("{address}@{}#{}", std::process::id(), random()),
    }
}

/// The address other machines see this one under, as far as the way to `peer` shows it.
pub(super) async fn own_address(peer: Option<&String>) -> IpAddr {
    let found = async {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.ok()?;
        // Connecting a datagram socket sends nothing; the system only picks the way.
        socket.connect(peer?).await.ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    found.await.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Makes `UNIQ_KEY`s, laid out as RocketMQ's: address, process, 4 bytes of its own, milliseconds
/// since the month began, counter. The last two are one number that starts with the time and
/// counts.
#[derive(Debug)]
pub(super) struct UniqueKeys {
    prefix: [u8; PREFIX_DIGITS],
    next: AtomicU64,
}

impl UniqueKeys {
    pub(super) fn new(address: IpAddr, now_ms: i64) -> Self {
        let address = match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(_) => 0,
        };
        let process = u64::from(std::process::id() & 0xFFFF);
        let mut prefix = [0; PREFIX_DIGITS];
        let (left, right) = prefix.split_at_mut(12);
        write_hex(left, u64::from(address) << 16 | process);
        write_hex(right, random());
        let since_month = u64::try_from(now_ms.saturating_sub(month_start_ms(now_ms))).unwrap_or(0);
        Self { prefix, next: AtomicU64::new(since_month << 16) }
    }

    pub(super) fn next(&self) -> UniqueKey {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut key = [0; KEY_DIGITS];
        let (prefix, rest) = key.split_at_mut(PREFIX_DIGITS);
        prefix.copy_from_slice(&self.prefix);
        write_hex(rest, number);
        UniqueKey(key)
    }
}

/// One message's key.
#[derive(Clone, Copy, Debug)]
pub(super) struct UniqueKey([u8; KEY_DIGITS]);

impl UniqueKey {
    pub(super) fn as_str(&self) -> &str {
        // Hexadecimal digits are always UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The lowest `digits.len()` hexadecimal digits of `number`.
fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = HEX.get((number & 0xF) as usize).copied().unwrap_or(b'0');
        number >>= 4;
    }
}

/// Midnight, in UTC, of the first day of the month of `now_ms`.
fn month_start_ms(now_ms: i64) -> i64 {
    let days = now_ms.div_euclid(DAY_MS);
    // Days to civil date, with years that begin in March: Howard Hinnant's `civil_from_days`.
    let day_of_era = (days + 719_468).rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    (days - day_of_month) * DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_rocketmqs_and_count() {
        let keys = UniqueKeys::new(IpAddr::from([10, 0, 0, 9]), 1_700_000_000_000);
        let (first, second) = (keys.next(), keys.next());
        assert_eq!(first.as_str().len(), 32);
        assert!(first.as_str().starts_with("0A000009"));
        let tail = |key: &UniqueKey| u64::from_str_radix(&key.as_str()[20..], 16).unwrap();
        assert_eq!(tail(&first) + 1, tail(&second));
        // 2023-11-14T22:13:20Z is 13 days and 80,000 seconds into its month.
        assert_eq!(tail(&first) >> 16, 13 * 86_400_000 + 80_000_000);
    }

    #[test]
    fn months_begin_where_they_do() {
        for (now, start) in [
            (0, 0),
            (1_709_251_199_999, 1_706_745_600_000), // the last instant of February 2024
            (1_709_251_200_000, 1_709_251_200_000),
            (1_704_067_199_999, 1_701_388_800_000), // the last instant of 2023
        ] {
            assert_eq!(month_start_ms(now), start);
        }
    }

    #[test]
    fn clients_without_a_chosen_instance_differ() {
        let address = IpAddr::from([10, 0, 0, 9]);
        assert_ne!(client_id(address, None), client_id(address, None));
        assert_eq!(client_id(address, Some("a")), "10.0.0.9@a");
    }
}
