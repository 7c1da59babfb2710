//! What a mistyped word was probably meant to be.

/// The word that `text` was probably meant to be.
pub fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let text: Vec<char> = text
        .chars()
        .map(|c| {
            if c == '_' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect();
    words
        .map(|word| (distance(&text, word), word))
        .filter(|(d, word)| *d <= 1 + word.len() / 4 && *d < word.len())
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (at, c) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for i in 0..a.len() {
            let replaced = diagonal + usize::from(a[i] != c);
            diagonal = row[i + 1];
            row[i + 1] = replaced.min(row[i] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slips_are_recognised_and_nonsense_is_not() {
        let of = |text| nearest(text, ["memory-max", "tasks-max", "uid"].into_iter());
        assert_eq!(of("memory_max"), Some("memory-max"));
        assert_eq!(of("MemoryMax"), Some("memory-max"));
        assert_eq!(of("task-max"), Some("tasks-max"));
        assert_eq!(of("nonsense"), None);
        assert_eq!(of(""), None);
    }

    proptest! {
        #[test]
        fn a_word_is_nearest_to_itself(word in "[a-z-]{1,20}", text in "\\PC{0,80}") {
            prop_assert_eq!(nearest(&word, ["zzzzzzzzzzzzzzzzzzzzzzzzz", &word].into_iter()), Some(word.as_str()));
            let _ = nearest(&text, [word.as_str()].into_iter());
        }
    }
}
