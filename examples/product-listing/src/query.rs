//! What somebody means by what they typed, as a query of the index. Not here: the index.

use tantivy::Term;
use tantivy::query::{BooleanQuery, BoostQuery, EmptyQuery, FuzzyTermQuery, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption};

use crate::tokenizer::{self, Run};

/// A word of the title says more than a word of the description.
const TITLE_BOOST: f32 = 3.0;
/// Shorter words are too near to too many others for a wrong letter to be forgiven.
const FORGIVEN_FROM_CHARS: usize = 5;
/// Of a longer run of Chinese only the beginning is looked for: the ways to cut it grow
/// exponentially.
const CUT_CHARS: usize = 12;

/// The fields that are searched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Searched {
    pub(crate) title: Field,
    pub(crate) description: Field,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Spelling {
    AsTyped,
    /// One letter of a longer word may be wrong, missing or too many.
    Forgiving,
}

impl Searched {
    /// Every word must be there, the last one perhaps only begun.
    pub(crate) fn query(self, text: &str, spelling: Spelling) -> Box<dyn Query> {
        let mut runs = tokenizer::runs(text);
        let begun = match runs.last() {
            Some(Run::Word(_)) if text.ends_with(char::is_alphanumeric) => runs.pop(),
            _ => None,
        };
        let mut parts: Vec<_> = runs.iter().map(|run| self.run(run, spelling)).collect();
        if let Some(Run::Word(word)) = begun {
            parts.push(self.begun_word(&word, spelling));
        }
        if parts.is_empty() {
            Box::new(EmptyQuery)
        } else {
            Box::new(BooleanQuery::intersection(parts))
        }
    }

    fn run(self, run: &Run, spelling: Spelling) -> Box<dyn Query> {
        match run {
            Run::Word(word) => self.word(word, spelling),
            Run::Han(run) => self.han(run),
        }
    }

    fn word(self, word: &str, spelling: Spelling) -> Box<dyn Query> {
        let stem = tokenizer::stem(word);
        let wrong_letters = wrong_letters(word, spelling);
        self.either(|field| match wrong_letters {
            0 => exact(field, &stem),
            n => Box::new(FuzzyTermQuery::new(Term::from_field_text(field, &stem), n, true)),
        })
    }

    fn begun_word(self, word: &str, spelling: Spelling) -> Box<dyn Query> {
        let wrong_letters = wrong_letters(word, spelling);
        let longer = self.either(|field| {
            let term = Term::from_field_text(field, word);
            Box::new(FuzzyTermQuery::new_prefix(term, wrong_letters, true))
        });
        Box::new(BooleanQuery::union(vec![self.word(word, spelling), longer]))
    }

    /// Chinese does not say where its words end. So every way to cut the run into words is tried,
    /// and one way must be there with all its words: 无线耳机 finds 无线蓝牙耳机 but not 有线耳机.
    fn han(self, run: &[char]) -> Box<dyn Query> {
        let run = run.get(..CUT_CHARS).unwrap_or(run);
        let ways = tokenizer::cuts(run).into_iter().map(|words| self.all_pairs(&words)).collect();
        Box::new(BooleanQuery::union(ways))
    }

    fn all_pairs(self, words: &[&[char]]) -> Box<dyn Query> {
        let pairs = words.iter().flat_map(|word| tokenizer::pairs(word));
        let pairs = pairs.map(|pair| self.either(|field| exact(field, &pair))).collect();
        Box::new(BooleanQuery::intersection(pairs))
    }

    fn either(self, query: impl Fn(Field) -> Box<dyn Query>) -> Box<dyn Query> {
        let title = BoostQuery::new(query(self.title), TITLE_BOOST);
        Box::new(BooleanQuery::union(vec![Box::new(title), query(self.description)]))
    }
}

fn exact(field: Field, term: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, term), IndexRecordOption::WithFreqs))
}

fn wrong_letters(word: &str, spelling: Spelling) -> u8 {
    u8::from(spelling == Spelling::Forgiving && word.chars().count() >= FORGIVEN_FROM_CHARS)
}
