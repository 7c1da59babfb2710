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

/// Levenshtein's distance, where two neighbours that changed places count as one slip.
fn distance(a: &[char], b: &str) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    let mut last = None;
    for (at, c) in b.chars().enumerate() {
        let mut next = vec![at + 1];
        for i in 0..a.len() {
            let replaced = row[i] + usize::from(a[i] != c);
            let mut best = replaced.min(row[i + 1] + 1).min(next[i] + 1);
            if i > 0 && a[i - 1] == c && last == Some(a[i]) {
                best = best.min(before[i - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(c);
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
        assert_eq!(of("udi"), Some("uid"));
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
