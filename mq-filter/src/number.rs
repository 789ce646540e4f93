//! Numbers as Java has them: what text is one, and how two compare. Not here: literals of
//! conditions, which the lexer cuts out.

use std::cmp::Ordering;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i32),
    Long(i64),
    Double(f64),
}

impl Number {
    /// An integer literal; `None` when it does not fit 64 bits.
    pub(crate) fn integer(digits: &str) -> Option<Self> {
        let long: i64 = digits.parse().ok()?;
        Some(i32::try_from(long).map_or(Self::Long(long), Self::Int))
    }

    /// A text as a number of the same kind; `None` when it is no such.
    pub(crate) fn like(self, text: &str) -> Option<Self> {
        match self {
            Self::Int(_) => i32::try_from(whole(text)?).ok().map(Self::Int),
            Self::Long(_) => i64::try_from(whole(text)?).ok().map(Self::Long),
            Self::Double(_) => double(text).map(Self::Double),
        }
    }

    pub(crate) fn negated(self) -> Self {
        match self {
            Self::Int(int) => Self::Int(int.wrapping_neg()),
            Self::Long(long) => Self::Long(long.wrapping_neg()),
            Self::Double(double) => Self::Double(-double),
        }
    }

    /// Both are widened to the wider kind.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self.long(), other.long()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => compare_doubles(self.double(), other.double()),
        }
    }

    fn long(self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(int.into()),
            Self::Long(long) => Some(long),
            Self::Double(_) => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "Java widens a long so")]
    fn double(self) -> f64 {
        match self {
            Self::Int(int) => int.into(),
            Self::Long(long) => long as f64,
            Self::Double(double) => double,
        }
    }
}

/// `Double.compareTo`: a number that is none equals itself and is above all, and -0.0 is below 0.0.
pub(crate) fn compare_doubles(left: f64, right: f64) -> Ordering {
    match left.partial_cmp(&right) {
        None => left.is_nan().cmp(&right.is_nan()),
        Some(Ordering::Equal) => right.is_sign_negative().cmp(&left.is_sign_negative()),
        Some(unequal) => unequal,
    }
}

/// `0` of each set of decimal digits that fits one UTF-16 unit: Java takes any of them.
const ZEROS: [u32; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6,
    0x0D66, 0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80,
    0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0,
    0xFF10,
];

/// `Long.valueOf`, with room to spare: an optional sign, then digits.
fn whole(text: &str) -> Option<i128> {
    let (sign, digits) = signed(text);
    if digits.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for letter in digits.chars() {
        value = value * 10 + i128::from(digit(letter)?);
        if value > i128::from(u64::MAX) {
            return None;
        }
    }
    Some(if sign { -value } else { value })
}

fn digit(letter: char) -> Option<u32> {
    let code = u32::from(letter);
    ZEROS.iter().map(|zero| code.wrapping_sub(*zero)).find(|digit| *digit <= 9)
}

/// Whether a text begins with a minus, and what follows its sign.
fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// `Double.valueOf`.
pub(crate) fn double(text: &str) -> Option<f64> {
    // As Java trims: all control characters count as blanks.
    let (negative, text) = signed(text.trim_matches(|c| c <= ' '));
    let size = match text {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        _ if text.starts_with("0x") || text.starts_with("0X") => hexadecimal(text.get(2..)?)?,
        _ => decimal(text)?,
    };
    Some(if negative { -size } else { size })
}

fn without_suffix(text: &str) -> &str {
    text.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(text)
}

fn decimal(text: &str) -> Option<f64> {
    let text = without_suffix(text);
    // What is left to refuse: names of what is no number.
    let spelled = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if starts && text.chars().all(spelled) { text.parse().ok() } else { None }
}

/// What follows `0x`: hexadecimal digits with or without a point, `p`, a power of two.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, power) = without_suffix(text).split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    let (negative, power) = signed(power);
    if power.is_empty() || !power.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A power that does not fit is too large for any number all the same.
    let power = power.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    let mut exponent = if negative { -power } else { power };
    exponent -= 4 * i64::try_from(fraction.len()).ok()?;
    // The first digits count; of those behind it matters only whether they are all zero.
    let (mut value, mut sticky) = (0_u64, false);
    for letter in whole.chars().chain(fraction.chars()) {
        let digit = letter.to_digit(16)?;
        if value >> 58 == 0 {
            value = value << 4 | u64::from(digit);
        } else {
            sticky |= digit > 0;
            exponent += 4;
        }
    }
    Some(scale(value, exponent, sticky))
}

/// `value * 2^exponent`, rounded once; `sticky`: a bit more than that.
fn scale(value: u64, exponent: i64, sticky: bool) -> f64 {
    if value == 0 {
        return 0.0;
    }
    // The number lies in 2^top .. 2^(top + 1).
    let top = exponent + i64::from(63 - value.leading_zeros());
    if top > 1023 {
        return f64::INFINITY;
    }
    // The value of the last bit that the result has.
    let unit = (top - 52).max(-1074);
    let kept = match unit - exponent {
        shift @ ..=0 => value << -shift,
        shift => round(value, shift, sticky),
    };
    #[expect(clippy::cast_precision_loss, reason = "at most 53 bits are kept")]
    let kept = kept as f64;
    // Two steps, since 2^-1074 cannot be made by one power of a normal number.
    let half = i32::try_from(unit / 2).unwrap_or(0);
    let other = i32::try_from(unit - unit / 2).unwrap_or(0);
    kept * 2_f64.powi(half) * 2_f64.powi(other)
}

/// `value / 2^shift` to the nearest, a tie to the even.
fn round(value: u64, shift: i64, sticky: bool) -> u64 {
    let Ok(shift @ 0..64) = u32::try_from(shift) else { return 0 };
    let (kept, lost) = (value >> shift, value & ((1 << shift) - 1));
    let half = 1_u64 << (shift - 1);
    let up = lost > half || lost == half && (sticky || kept & 1 == 1);
    kept + u64::from(up)
}
