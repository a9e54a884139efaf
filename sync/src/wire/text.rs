//! Text from the other side, which may try to drive a terminal or to look like something else.

/// Whether a text shows as what it is: no control characters, none that turn the direction of writing, are invisible or end
/// a line.
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(misleads)
}

/// The text as one line that is safe to print: whatever is not plain is escaped (`\n`, `\u{1b}`).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The longest start of `text` of at most `max` bytes that ends between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn misleads(c: char) -> bool {
    const UNSEEN: [std::ops::RangeInclusive<char>; 6] = [
        '\u{ad}'..='\u{ad}',
        '\u{61c}'..='\u{61c}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
    ];
    c.is_control() || UNSEEN.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_drive_a_terminal_is_escaped() {
        assert!(is_plain("Müller & Söhne – 東京 \\"));
        assert_eq!(escape("Müller – 東京 \\"), "Müller – 東京 \\");
        for bad in ["\x1b[2J", "a\nb", "\r", "\u{9b}31m", "\u{202e}txt", "a\u{200b}", "\u{feff}", "\0", "\u{2066}"] {
            assert!(!is_plain(bad), "{bad:?}");
            assert!(is_plain(&escape(bad)), "{bad:?}");
        }
        assert_eq!(escape("a\nb\x1b"), "a\\nb\\u{1b}");
    }

    #[test]
    fn a_cut_falls_between_characters() {
        assert_eq!((cut("aäb", 2), cut("aäb", 3), cut("aäb", 9), cut("ä", 0)), ("a", "aä", "aäb", ""));
    }
}
