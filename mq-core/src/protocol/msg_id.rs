//! Message ids that say where a message is stored. What a client makes up is not read here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BufMut;

use super::cursor::Cursor;

/// The id that says where a message is stored: host, port and offset in hexadecimal.
pub fn offset_msg_id(host: SocketAddr, physical_offset: i64) -> String {
    let mut bytes = [0; 28];
    let address = match host.ip().to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let address = address.to_be_bytes();
    let length = if host.ip().to_canonical().is_ipv4() { 4 } else { 16 };
    let mut out = &mut bytes[..];
    out.put_slice(address.get(..length).unwrap_or_default());
    out.put_u32(u32::from(host.port()));
    out.put_i64(physical_offset);
    hexadecimal(bytes.get(..length + 12).unwrap_or_default())
}

/// Host and offset of an id made by [`offset_msg_id`]; `None` for any other text. A unique key
/// looks the same and gives a place where nothing is.
pub fn parse_offset_msg_id(id: &str) -> Option<(SocketAddr, i64)> {
    let bytes = from_hexadecimal(id)?;
    let mut cursor = Cursor(&bytes);
    let address: IpAddr = match bytes.len() {
        16 => Ipv4Addr::from(cursor.number::<4>()?).into(),
        28 => Ipv6Addr::from(cursor.number::<16>()?).into(),
        _ => return None,
    };
    let port = u16::try_from(cursor.int()?).ok()?;
    Some((SocketAddr::new(address, port), cursor.long()?))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'A' + half - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 56 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4 | digit(*pair.last()?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_places_come_back() {
        for host in ["192.168.0.1:10911", "[2001:db8::1]:65535"] {
            let host = host.parse().unwrap();
            let id = offset_msg_id(host, i64::MAX);
            assert_eq!(parse_offset_msg_id(&id), Some((host, i64::MAX)));
            assert_eq!(parse_offset_msg_id(&id.to_lowercase()), Some((host, i64::MAX)));
        }
        for odd in
            ["", "C0A8", "C0A8000100002A9F00000000000010", "\u{e9}0A8000100002A9F00000000000010"]
        {
            assert_eq!(parse_offset_msg_id(odd), None);
        }
        assert_eq!(parse_offset_msg_id("C0A80001FFFFFFFF0000000000001000"), None);
    }
}
