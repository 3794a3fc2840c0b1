//! What is wrong with base64 text, in Go's words.

use ::base64::DecodeError;

/// The message of Go's decoder for a text of `length` bytes.
pub fn told(error: &DecodeError, length: usize) -> String {
    /// Characters that are decoded together; Go names the place where such a group begins.
    const GROUP: usize = 4;
    let at = match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => *at,
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => length / GROUP * GROUP,
    };
    format!("illegal base64 data at input byte {at}")
}

#[cfg(test)]
mod tests {
    use ::base64::Engine as _;
    use ::base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn the_place_is_the_one_that_go_names() {
        let told_of = |text: &str| told(&STANDARD.decode(text).expect_err("none"), text.len());
        assert_eq!(told_of("plain"), "illegal base64 data at input byte 4");
        assert_eq!(told_of("Not Valid!"), "illegal base64 data at input byte 3");
        assert_eq!(told_of("x"), "illegal base64 data at input byte 0");
    }
}
