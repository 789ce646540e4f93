//! Cuts English and Chinese text into searchable terms. No dictionary, so it starts at once.
//!
//! English words are lower-cased and stemmed ("headphones" finds "headphone"). Chinese has no
//! spaces: a run of `n` characters gives its characters and its `n - 1` overlapping pairs, 无线耳机
//! gives 无线, 线耳 and 耳机. What a query asks of them is in `query.rs`.

use tantivy::tokenizer::{Language, Stemmer, TextAnalyzer, Token, TokenStream, Tokenizer};

/// Words that say nothing about a product.
const STOP_WORDS: &[&str] = &[
    "a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "the", "to",
    "with",
];

/// What a text is made of, in order; everything else separates.
#[derive(Debug, PartialEq)]
pub(crate) enum Run {
    Word(String),
    Han(Vec<char>),
}

/// The runs of `text`: lower case, full-width letters made plain, stop words left out.
pub(crate) fn runs(text: &str) -> Vec<Run> {
    let folded: String = text.chars().map(half_width).flat_map(char::to_lowercase).collect();
    folded
        .split(|c: char| !c.is_alphanumeric())
        .flat_map(split_scripts)
        .filter(says_something)
        .collect()
}

/// Every way to cut a run into words of two or three characters, as nearly all Chinese words are.
pub(crate) fn cuts(run: &[char]) -> Vec<Vec<&[char]>> {
    match run {
        [] => vec![vec![]],
        [_] => vec![vec![run]],
        _ => [2, 3].into_iter().flat_map(|first| cuts_after(run, first)).collect(),
    }
}

fn cuts_after(run: &[char], first: usize) -> Vec<Vec<&[char]>> {
    match run.split_at_checked(first) {
        // A rest of one character belongs to the word before it.
        None | Some((_, [_])) => Vec::new(),
        Some((word, rest)) => {
            cuts(rest).into_iter().map(|words| [&[word], &words[..]].concat()).collect()
        }
    }
}

/// The terms of a word: its pairs, or the character that stands alone.
pub(crate) fn pairs(word: &[char]) -> Vec<String> {
    match word {
        [lone] => vec![lone.to_string()],
        _ => word.windows(2).map(String::from_iter).collect(),
    }
}

pub(crate) fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(ShopTokenizer).filter(Stemmer::new(Language::English)).build()
}

/// A word as the index has it.
pub(crate) fn stem(word: &str) -> String {
    let mut analyzer = analyzer();
    let mut terms = analyzer.token_stream(word);
    terms.next().map_or_else(|| word.to_owned(), |token| token.text.clone())
}

fn split_scripts(piece: &str) -> Vec<Run> {
    let chars: Vec<char> = piece.chars().collect();
    chars.chunk_by(|a, b| is_han(*a) == is_han(*b)).map(to_run).collect()
}

fn to_run(chars: &[char]) -> Run {
    match chars.first() {
        Some(c) if is_han(*c) => Run::Han(chars.to_vec()),
        _ => Run::Word(chars.iter().collect()),
    }
}

fn says_something(run: &Run) -> bool {
    !matches!(run, Run::Word(word) if STOP_WORDS.contains(&word.as_str()))
}

/// Ideographs, kana and hangul: scripts that are searched by pairs.
fn is_han(c: char) -> bool {
    matches!(u32::from(c),
        0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// Chinese keyboards also type `ＵＳＢ`.
fn half_width(c: char) -> char {
    match u32::from(c) {
        code @ 0xFF01..=0xFF5E => char::from_u32(code - 0xFEE0).unwrap_or(c),
        _ => c,
    }
}

#[derive(Clone)]
struct ShopTokenizer;

impl Tokenizer for ShopTokenizer {
    type TokenStream<'a> = Terms;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Terms {
        let terms: Vec<String> = runs(text).into_iter().flat_map(indexed_terms).collect();
        Terms { rest: terms.into_iter(), token: Token::default() }
    }
}

fn indexed_terms(run: Run) -> Vec<String> {
    match run {
        Run::Word(word) => vec![word],
        Run::Han(run) => {
            let pairs = run.windows(2).map(String::from_iter);
            run.iter().map(char::to_string).chain(pairs).collect()
        }
    }
}

/// The terms of one text. Offsets are not kept: nothing here highlights or looks for phrases.
struct Terms {
    rest: std::vec::IntoIter<String>,
    token: Token,
}

impl TokenStream for Terms {
    fn advance(&mut self) -> bool {
        let Some(text) = self.rest.next() else { return false };
        self.token.text = text;
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        analyzer().token_stream(text).process(&mut |token| terms.push(token.text.clone()));
        terms
    }

    #[test]
    fn english_is_stemmed_and_stop_words_are_dropped() {
        assert_eq!(terms("The Wireless Headphones for Kids"), ["wireless", "headphon", "kid"]);
    }

    #[test]
    fn chinese_gives_characters_and_pairs() {
        assert_eq!(terms("耳机"), ["耳", "机", "耳机"]);
        assert_eq!(terms("无线耳机").len(), 4 + 3);
    }

    #[test]
    fn scripts_are_parted_where_they_meet() {
        let han = |s: &str| Run::Han(s.chars().collect());
        let word = |s: &str| Run::Word(s.to_owned());
        assert_eq!(
            runs("极光X3手机，256GB"),
            [han("极光"), word("x3"), han("手机"), word("256gb")]
        );
        assert_eq!(runs("ＵＳＢ－Ｃ"), [word("usb"), word("c")]);
        assert!(runs(" 、!").is_empty());
    }

    #[test]
    fn runs_are_cut_in_every_way() {
        let run: Vec<char> = "扫地机器人".chars().collect();
        let joined =
            |words: &Vec<&[char]>| words.iter().map(|word| word.iter().collect()).collect();
        let cuts: Vec<Vec<String>> = cuts(&run).iter().map(joined).collect();
        assert_eq!(cuts, [["扫地", "机器人"], ["扫地机", "器人"]]);
        assert_eq!(pairs(&['机', '器', '人']), ["机器", "器人"]);
        assert_eq!(pairs(&['茶']), ["茶"]);
    }

    #[test]
    fn a_long_run_has_few_cuts() {
        assert_eq!(cuts(&['茶']).len(), 1);
        assert_eq!(cuts(&['茶'; 12]).len(), 12);
    }
}
