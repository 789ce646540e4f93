//! `key = value` arguments of attributes: parsing, spans, and what can be said about a literal
//! before the program runs. Not here: what an argument means. Every error stands on the user's own
//! token and names the mend.

use proc_macro2::Span;
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, ExprLit, ExprPath, Ident, Lit, LitStr, Result, Token, Type};

/// Longest topic and group names a RocketMQ broker accepts.
const TOPIC_MAX_LENGTH: usize = 127;
const GROUP_MAX_LENGTH: usize = 120;

/// Several mistakes of one item, reported together.
#[derive(Default)]
pub(crate) struct Mistakes(Option<Error>);

impl Mistakes {
    pub(crate) fn add(&mut self, at: impl ToTokens, text: impl std::fmt::Display) {
        self.push(Error::new_spanned(at, text));
    }

    /// The value of a step that went well; a failure is kept for [`Mistakes::finish`].
    pub(crate) fn take<T>(&mut self, step: Result<T>) -> Option<T> {
        step.map_err(|error| self.push(error)).ok()
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }

    fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }
}

/// One `name`, or `name = value`.
pub(crate) struct Pair {
    pub(crate) name: Ident,
    value: Option<Expr>,
    /// A value that is no expression: `dyn Trait`.
    dynamic: Option<Type>,
}

impl Parse for Pair {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name: Ident = input.parse()?;
        let mut pair = Pair { name, value: None, dynamic: None };
        if input.parse::<Option<Token![=]>>()?.is_some() {
            match input.peek(Token![dyn]) {
                true => pair.dynamic = Some(input.parse()?),
                false => pair.value = Some(input.parse()?),
            }
        }
        Ok(pair)
    }
}

/// The arguments of one attribute, each known and given once.
pub(crate) struct Args(Vec<Pair>);

impl Args {
    /// Parses `name = value, ...` and checks the names against `known`.
    pub(crate) fn parse(input: ParseStream<'_>, known: &[&str]) -> Result<Self> {
        let pairs: Vec<Pair> =
            Punctuated::<Pair, Token![,]>::parse_terminated(input)?.into_iter().collect();
        let mut mistakes = Mistakes::default();
        for (at, pair) in pairs.iter().enumerate() {
            if !known.iter().any(|name| pair.name == name) {
                mistakes.add(&pair.name, unknown(&pair.name, known));
            } else if pairs.iter().take(at).any(|earlier| earlier.name == pair.name) {
                mistakes.add(&pair.name, format!("`{}` is given twice; keep one", pair.name));
            }
        }
        mistakes.finish().map(|()| Args(pairs))
    }

    /// A bare word such as `provided`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.find(name) {
            None => Ok(false),
            Some(Pair { value: None, dynamic: None, .. }) => Ok(true),
            Some(pair) => Err(Error::new(
                pair.span(),
                format!("`{name}` takes no value; write `{name}` alone"),
            )),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<LitStr>> {
        let Some(pair) = self.find(name) else { return Ok(None) };
        match &pair.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Ok(Some(text.clone())),
            _ => Err(Error::new(
                pair.span(),
                format!("`{name}` takes a string literal: `{name} = \"...\"`"),
            )),
        }
    }

    /// A count of at least one, as text; or text with `${...}`, which start-up makes a count.
    pub(crate) fn count(&self, name: &str) -> Result<Option<LitStr>> {
        let Some(pair) = self.find(name) else { return Ok(None) };
        let text = match &pair.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Int(number), .. })) => {
                Some(LitStr::new(number.base10_digits(), number.span()))
            }
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Some(text.clone()),
            _ => None,
        };
        let legal = |text: &LitStr| {
            is_template(text) || text.value().parse::<usize>().is_ok_and(|count| count >= 1)
        };
        text.filter(legal).map(Some).ok_or_else(|| {
            let text = format!(
                "`{name}` takes a whole number of at least 1, `{name} = 8`, or the key of one, \
                 `{name} = \"${{key:8}}\"`"
            );
            Error::new(pair.span(), text)
        })
    }

    /// A whole number, 0 unless given.
    pub(crate) fn number(&self, name: &str) -> Result<i32> {
        let Some(pair) = self.find(name) else { return Ok(0) };
        let digits = pair.value.as_ref().map(|value| value.to_token_stream().to_string());
        let digits = digits.unwrap_or_default().replace(' ', "");
        digits.parse().map_err(|_| {
            let text = format!("`{name}` takes a whole number: `{name} = -10`");
            Error::new(pair.span(), text)
        })
    }

    /// A trait object type.
    pub(crate) fn dynamic(&self, name: &str) -> Result<Option<&Type>> {
        let Some(pair) = self.find(name) else { return Ok(None) };
        pair.dynamic.as_ref().map(Some).ok_or_else(|| {
            let text = format!("`{name}` takes the type of a trait: `{name} = dyn Trait`");
            Error::new(pair.span(), text)
        })
    }

    /// The path of a type or function; `like` is an example.
    pub(crate) fn path(&self, name: &str, like: &str) -> Result<Option<&ExprPath>> {
        let Some(pair) = self.find(name) else { return Ok(None) };
        match &pair.value {
            Some(Expr::Path(path)) => Ok(Some(path)),
            _ => {
                let text = format!("`{name}` takes a path: `{name} = {like}`");
                Err(Error::new(pair.span(), text))
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Pair> {
        self.0.iter().find(|pair| pair.name == name)
    }
}

impl Pair {
    /// That of the value, if there is one.
    fn span(&self) -> Span {
        let of_type = self.dynamic.as_ref().map(Spanned::span);
        let span = of_type.or_else(|| self.value.as_ref().map(Spanned::span));
        span.unwrap_or_else(|| self.name.span())
    }
}

fn unknown(name: &Ident, known: &[&str]) -> String {
    match nearest(&name.to_string(), known.iter().copied()) {
        Some(near) => format!("unknown attribute `{name}`; did you mean `{near}`?"),
        None => format!("unknown attribute `{name}`; known are: {}", known.join(", ")),
    }
}

/// The conditions an item is compiled under, for what is generated beside it.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<&Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect()
}

/// The candidate that a typing mistake most likely meant.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3 + 1)
        .min()
        .map(|(_, name)| name)
}

/// Whether the text holds `${...}`, so that it can only be checked at start-up.
pub(crate) fn is_template(text: &LitStr) -> bool {
    text.value().contains("${")
}

/// The characters and lengths of RocketMQ's `TopicValidator`; the start-up check has the last word.
fn check_name(text: &LitStr, what: &str, max_length: usize) -> Result<()> {
    if is_template(text) {
        return Ok(());
    }
    let name = text.value();
    if name.is_empty() {
        return Err(Error::new_spanned(text, format!("the {what} is empty; give it a name")));
    }
    if name.len() > max_length {
        let text_of = format!("{what} of {} bytes; at most {max_length} are allowed", name.len());
        return Err(Error::new_spanned(text, text_of));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|');
    match name.chars().find(|c| !legal(*c)) {
        None => Ok(()),
        Some(':') if what == "topic" => Err(Error::new_spanned(
            text,
            "a topic holds no `:`; write the tag apart: `topic = \"...\", tags = \"...\"`",
        )),
        Some(c) => Err(Error::new_spanned(
            text,
            format!("`{c}` is not allowed in a {what}; use letters, digits, `_` and `-`"),
        )),
    }
}

pub(crate) fn check_topic(text: &LitStr) -> Result<()> {
    check_name(text, "topic", TOPIC_MAX_LENGTH)
}

pub(crate) fn check_group(text: &LitStr) -> Result<()> {
    check_name(text, "group", GROUP_MAX_LENGTH)
}

/// One tag of a message.
pub(crate) fn check_tag(text: &LitStr) -> Result<()> {
    let tag = text.value();
    if tag.is_empty() || tag.contains('|') || tag.contains(char::is_whitespace) || tag == "*" {
        return Err(Error::new_spanned(text, "a tag is one word without spaces, `|` or `*`"));
    }
    Ok(())
}

/// A subscription's tag expression: `*`, or tags joined by `||`.
pub(crate) fn check_tags(text: &LitStr) -> Result<()> {
    check_expression(text, "tag expression", mq_filter::check_tags)
}

/// A subscription's SQL92 condition.
pub(crate) fn check_sql(text: &LitStr) -> Result<()> {
    check_expression(text, "SQL92 condition", |text| mq_filter::Sql::check(text).map(drop))
}

fn check_expression(
    text: &LitStr,
    what: &str,
    check: fn(&str) -> std::result::Result<(), mq_filter::Error>,
) -> Result<()> {
    if is_template(text) {
        return Ok(());
    }
    let bad = |error| Error::new_spanned(text, format!("bad {what}: {error}"));
    check(&text.value()).map_err(bad)
}
