//! Memory sizes as people write them: `512M`, `2G`, `65536K`.

/// Reads a size. A unit is required: QEMU reads a bare number as MiB and most other tools as
/// bytes, so a bare number is a mistake waiting to happen.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = |why: &str| Err(format!("`{text}` is not a size: {why}, e.g. 512M or 2G"));
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        "" if !digits.is_empty() => return wrong("the unit K, M or G is missing"),
        _ => return wrong("want a whole number and a unit K, M or G"),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(0) => wrong("it is zero"),
        Some(bytes) => Ok(bytes),
        None => wrong("want a whole number (that fits in 64 bits) and a unit K, M or G"),
    }
}

/// A size for people, in the largest unit that keeps it exact, else in tenths of MiB.
pub fn show(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        let one = 1u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    let tenths = (bytes / (1 << 10)) * 10 / (1 << 10);
    match tenths {
        0 => format!("{bytes} bytes"),
        _ => format!("{}.{}M", tenths / 10, tenths % 10),
    }
}

/// A file's size for people: tenths of MiB or KiB where it is large, else bytes.
pub fn show_rounded(bytes: u64) -> String {
    match bytes {
        0..0x2800 => format!("{bytes} bytes"),
        0x2800..0x10_0000 => format!("{}K", bytes >> 10),
        _ => format!("{}.{}M", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, show, show_rounded};

    #[test]
    fn a_files_size_is_rounded_down() {
        let sizes = [0, 10_239, 10_240, (1 << 20) - 1, 1 << 20, (5 << 20) - 1];
        let shown = ["0 bytes", "10239 bytes", "10K", "1023K", "1.0M", "4.9M"];
        assert_eq!(sizes.map(show_rounded), shown);
    }

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse("1K"), Ok(1 << 10));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("2GiB"), Ok(2 << 30));
    }

    #[test]
    fn a_bare_number_is_refused_because_nobody_agrees_on_its_unit() {
        assert!(parse("1024").is_err_and(|why| why.contains("unit")));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "M", "-1M", "1.5G", "0M", "12Q", "99999999999999999999M", "20000000T", "é"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_exact_unit() {
        assert_eq!(show(2 << 30), "2G");
        assert_eq!(show(1536 << 20), "1536M");
        assert_eq!(show((3 << 20) + (1 << 19) + 1), "3.5M");
        assert_eq!(show(12), "12 bytes");
    }
}
