//! Records of PAX extended headers: `LENGTH KEY=VALUE\n` (pax(1), "pax Header Block").

use acetate_layer::Time;

/// What extended attributes are called in PAX records (star(1), and every container tool).
pub const XATTR: &[u8] = b"SCHILY.xattr.";

/// Splits an extended header into its records. `None` if it is malformed.
pub fn records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    // Some writers fill the header up with NUL bytes.
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
        let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(records)
}

/// Appends a record.
pub fn append(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() > length {
        length += 1;
    }
    data.extend_from_slice(length.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

/// Reads a decimal number.
pub fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Reads a time in seconds with a fraction, which may be negative.
pub fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nsec: u32 = digits.parse().ok()?;
    let sec: i64 = whole.parse().ok()?;
    // The fraction of a time before 1970 counts backwards.
    Some(if whole.starts_with('-') && nsec > 0 {
        Time { sec: sec.checked_sub(1)?, nsec: 1_000_000_000 - nsec }
    } else {
        Time { sec, nsec }
    })
}

/// Writes a time such that [`time`] reads it.
pub fn format_time(time: Time) -> String {
    let text = if time.sec < 0 && time.nsec > 0 {
        let sec = time.sec + 1;
        let sign = if sec == 0 { "-" } else { "" };
        format!("{sign}{sec}.{:09}", 1_000_000_000 - time.nsec)
    } else {
        format!("{}.{:09}", time.sec, time.nsec)
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_hold_any_bytes() {
        let values: [(&[u8], Vec<u8>); 4] = [
            (b"path", b"a\nb=c".to_vec()),
            (b"SCHILY.xattr.security.capability", vec![1, 0, 10, 2, 0, 0x20]),
            (b"empty", vec![]),
            (b"long", vec![b'x'; 12_345]),
        ];
        let mut data = Vec::new();
        for (key, value) in &values {
            append(&mut data, key, value);
        }
        let expected: Vec<(&[u8], &[u8])> = values.iter().map(|(key, value)| (*key, &value[..])).collect();
        assert_eq!(records(&data), Some(expected));
    }

    #[test]
    fn lengths_count_themselves() {
        for size in 0..1200 {
            let mut data = Vec::new();
            append(&mut data, b"k", &vec![b'v'; size]);
            assert_eq!(records(&data).unwrap()[0].1.len(), size);
        }
    }

    #[test]
    fn malformed_records_are_noticed() {
        for bad in [&b"5 a=b"[..], b"99 a=b\n", b"x a=b\n", b"6 a=b\n7", b"5 ab\n", b" a=b\n"] {
            assert_eq!(records(bad), None, "{bad:?}");
        }
        assert_eq!(records(b"\0\0"), Some(vec![]));
    }

    #[test]
    fn times_have_nanoseconds() {
        let cases =
            [("12", 12, 0), ("12.5", 12, 500_000_000), ("-1.25", -2, 750_000_000), ("-0.5", -1, 500_000_000)];
        for (text, sec, nsec) in cases {
            assert_eq!(time(text.as_bytes()), Some(Time { sec, nsec }), "{text}");
            assert_eq!(format_time(Time { sec, nsec }), text);
        }
        assert_eq!(time(b"12.1234567899"), Some(Time { sec: 12, nsec: 123_456_789 }));
        assert_eq!(time(b"now"), None);
        assert_eq!(format_time(Time { sec: 1000, nsec: 0 }), "1000");
    }
}
