//! Indexes in short: `1,3-5,7`.

/// Ranges of indexes, first and last included.
pub type Ranges = Vec<(i32, i32)>;

/// Reads ascending indexes below `completions`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str, completions: i32) -> Result<Ranges, String> {
    let mut ranges = Ranges::new();
    if text.is_empty() {
        return Ok(ranges);
    }
    for part in text.split(',') {
        let number = |t: &str| -> Result<i32, String> {
            let n: i32 = t
                .parse()
                .map_err(|_| format!("cannot convert string to integer for index: {t:?}"))?;
            if n >= completions {
                return Err(format!("too large index: {t:?}"));
            }
            Ok(n)
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if part.contains('-') && first >= last {
            return Err(format!(
                "non-increasing order, previous: {first}, current: {last}"
            ));
        }
        if let Some((_, previous)) = ranges.last()
            && *previous >= first
        {
            return Err(format!(
                "non-increasing order, previous: {previous}, current: {first}"
            ));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

/// How many indexes there are.
pub fn count(ranges: &Ranges) -> i32 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_ascend_and_stay_below_the_completions() {
        assert_eq!(parse("1,3-5", 6).map(|r| count(&r)), Ok(4));
        assert_eq!(parse("6", 6), Err("too large index: \"6\"".to_owned()));
        assert_eq!(
            parse("3,2", 6),
            Err("non-increasing order, previous: 3, current: 2".to_owned())
        );
        assert!(parse("a", 6).is_err());
    }
}
