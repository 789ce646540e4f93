//! Tag expressions: `a`, `a || b`, `*`. Not here: tags of messages, their hashes.

use crate::error::{Error, quote};

/// Tags in one expression.
pub const TAGS_MAX: usize = 1_024;

/// The tags of an expression as a broker reads it, none meaning all messages: blanks around a tag
/// and empty places between `||` do not count.
///
/// # Errors
/// More than [`TAGS_MAX`] tags.
pub fn tags(expression: &str) -> Result<Vec<&str>, Error> {
    let mut tags = Vec::new();
    for tag in expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
        if tags.len() == TAGS_MAX {
            return Err(Error::at(expression, place(expression, tag), "one tag too many")
                .expected(format!("at most {TAGS_MAX}"))
                .mend("subscribe to `*`, or use one tag for several kinds of message"));
        }
        tags.push(tag);
    }
    if tags == ["*"] {
        tags.clear();
    }
    Ok(tags)
}

/// Whether an expression is what its writer means: `*`, or tags joined by `||`, each one word.
///
/// # Errors
/// What is wrong. A broker would take it as [`tags`] does, and no message would match.
pub fn check_tags(expression: &str) -> Result<(), Error> {
    tags(expression)?;
    if expression.trim() == "*" {
        return Ok(());
    }
    for piece in expression.split("||") {
        let tag = piece.trim();
        let at = place(expression, if tag.is_empty() { piece } else { tag });
        if tag.is_empty() {
            return Err(Error::at(expression, at, "no tag")
                .expected("a tag")
                .mend("write `*` for all messages, or tags joined by `||`: `created || paid`"));
        }
        if let Some((inside, bad)) = tag.char_indices().find(|(_, c)| is_illegal(*c)) {
            let found = format!("`{bad}` in the tag {}", quote(tag));
            return Err(Error::at(expression, at + inside, found)
                .expected("a tag without spaces, `|`, `&`, `,` and `*`")
                .mend("join tags by `||`: `created || paid`"));
        }
    }
    Ok(())
}

fn is_illegal(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control() || matches!(letter, '|' | '&' | ',' | '*')
}

/// Where a piece of a text begins in it.
fn place(text: &str, piece: &str) -> usize {
    (piece.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broker_reads_tags_generously() {
        assert_eq!(tags("a || b||c ||  "), Ok(vec!["a", "b", "c"]));
        for all in ["", " ", "*", " * ", "||"] {
            assert_eq!(tags(all), Ok(vec![]), "{all:?}");
        }
        assert_eq!(tags("* || a"), Ok(vec!["*", "a"]));
        let many = vec!["t"; TAGS_MAX + 1].join("||");
        let error = tags(&many).unwrap_err();
        assert_eq!(error.position, many.len(), "{error}");
    }

    #[test]
    fn a_writer_is_told_what_a_broker_would_swallow() {
        for good in ["*", " * ", "a", "created || paid", "a.b-c_d||\u{6807}\u{7B7E}"] {
            assert_eq!(check_tags(good), Ok(()), "{good}");
        }
        let found = |expression| check_tags(expression).unwrap_err().to_string();
        assert_eq!(
            found("a | b"),
            "character 2: ` ` in the tag `a | b`, expected a tag without spaces, `|`, `&`, `,` and \
             `*`; join tags by `||`: `created || paid`"
        );
        for (bad, position) in [("", 1), ("a ||", 5), ("a || * || c", 6), ("a, b", 2), ("|| a", 1)]
        {
            assert_eq!(check_tags(bad).unwrap_err().position, position, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_writer_may_write_a_broker_reads_alike(
            written in prop::collection::vec("[a-zA-Z0-9_.-]{1,8}", 1..9),
        ) {
            let expression = written.join(" || ");
            prop_assert_eq!(check_tags(&expression), Ok(()));
            prop_assert_eq!(tags(&expression).unwrap(), written);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*|[a|* ,]{0,20}") {
            let _ = tags(&text);
            let _ = check_tags(&text);
        }
    }
}
