//! Reads big-endian numbers, bytes and hosts from the front of a slice.
//!
//! Every step is `None` when the bytes end early, so no length from outside can overrun them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    pub(super) fn byte(&mut self) -> Option<i32> {
        self.number().map(|[byte]| i32::from(byte))
    }

    pub(super) fn short(&mut self) -> Option<i16> {
        self.number().map(i16::from_be_bytes)
    }

    pub(super) fn int(&mut self) -> Option<i32> {
        self.number().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Option<i64> {
        self.number().map(i64::from_be_bytes)
    }

    /// So many bytes; `None` for a length below zero too.
    pub(super) fn take(&mut self, length: i32) -> Option<&'a [u8]> {
        self.0.split_off(..usize::try_from(length).ok()?)
    }

    pub(super) fn host(&mut self, v6: bool) -> Option<SocketAddr> {
        let address: IpAddr = if v6 {
            Ipv6Addr::from(self.number::<16>()?).into()
        } else {
            Ipv4Addr::from(self.number::<4>()?).into()
        };
        // Java keeps a port in four bytes; a number that is none can only be damage.
        Some(SocketAddr::new(address, u16::try_from(self.int()?).ok()?))
    }
}
