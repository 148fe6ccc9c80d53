//! The alphabet of byte-level BPE: one printable character for each of the 256 bytes, as GPT-2 defined it.
//!
//! Vocabularies use it so that a token of any bytes is a string without spaces.

/// Returns the character of a byte: the byte itself if it is printable Latin-1, else the next one from U+0100 on.
pub(super) fn char_of(byte: u8) -> char {
    let code = u32::from(byte);
    let code = match byte {
        0..=0x20 => 0x100 + code,
        0x7F..=0xA0 => 0x121 + (code - 0x7F),
        0xAD => 0x143,
        _ => code,
    };
    // All codes above are below U+0144, so the fallback is unreachable.
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Returns the byte of a character; `None` outside the alphabet.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Encodes bytes as characters of the alphabet.
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char_of).collect()
}

/// Decodes a token's text to bytes. A character outside the alphabet (from a malformed vocabulary) becomes its UTF-8.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection() {
        let characters: std::collections::BTreeSet<char> = (0..=255).map(char_of).collect();
        assert_eq!(characters.len(), 256);
        assert!((0..=255).all(|byte| byte_of(char_of(byte)) == Some(byte)));
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(decode("Ġa€"), " a€".as_bytes());
    }
}
