//! Answers: words of one to four bytes a character, as the seed wants them.

const WORDS: &[&str] = &[
    "Paris",
    "est",
    "la",
    "capitale",
    "déjà",
    "vu",
    "漢字",
    "😀",
    "naïve",
    "\"quoted\"",
    "back\\slash",
    "line\nbreak",
    "straße",
    "ок",
    "and",
    "so",
    "on",
];

/// Pieces of text, each with the space that follows.
pub(super) fn words(random: &mut fastrand::Rng, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| format!("{} ", WORDS[random.usize(..WORDS.len())]))
        .collect()
}
