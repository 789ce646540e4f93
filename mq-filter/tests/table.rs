//! Every row of the table that Apache RocketMQ's own evaluator has filled (`apache/generate`), the
//! limits that only we have, and what a writer is told.
#![forbid(unsafe_code)]

use mq_filter::{Failed, Sql};
use proptest::prelude::*;

/// `\n`, `\u0041` and the like into what they stand for.
fn decoded(text: &str) -> String {
    let mut decoded = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let meant = match letter {
            '\\' => match letters.next().expect("an escape") {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'f' => '\u{C}',
                'u' => {
                    let digits: String = letters.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).expect("hexadecimal digits");
                    char::from_u32(code).expect("a character")
                }
                other => other,
            },
            other => other,
        };
        decoded.push(meant);
    }
    decoded
}

fn result(condition: &str, properties: &[(&str, String)]) -> &'static str {
    let Ok(sql) = Sql::parse(condition) else { return "REFUSED" };
    match sql.evaluate(properties.iter().map(|(name, value)| (*name, value.as_str()))) {
        Ok(Some(true)) => "TRUE",
        Ok(Some(false)) => "FALSE",
        Ok(None) => "NULL",
        Err(Failed) => "FAILS",
    }
}

#[test]
fn conditions_give_what_they_give_on_apache() {
    let table = include_str!("apache/table.tsv");
    let rows: Vec<&str> = table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    assert!(rows.len() >= 500, "the table has {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let mut columns = row.split('\t');
        let expected = columns.next().expect("the result of 5.5.0");
        let on_4_9_7 = columns.next().expect("the result of 4.9.7");
        let condition = decoded(columns.next().expect("a condition"));
        let pairs = columns.map(|pair| pair.split_once('=').expect("NAME=VALUE"));
        let properties: Vec<_> = pairs.map(|(name, value)| (name, decoded(value))).collect();
        let found = result(&condition, &properties);
        if found != expected {
            wrong.push(format!("{row}\n  gives {found}"));
        }
        // The one thing that is new since 4.9.7.
        let new = ["CONTAINS", "STARTSWITH", "ENDSWITH"];
        let is_new = new.iter().any(|word| condition.to_uppercase().contains(word));
        assert!(is_new || expected == on_4_9_7, "4.9.7 differs where it is not known to: {row}");
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn refused(condition: &str) -> String {
    Sql::parse(condition).expect_err("a limit").to_string()
}

#[test]
fn conditions_have_limits_and_reach_them() {
    let inside = |levels: usize, open: &str, close: &str| {
        format!("{}a = 1{}", open.repeat(levels), close.repeat(levels))
    };
    for (open, close) in [("(", ")"), ("NOT(", ")"), ("-(", ")"), ("((a = ", ")=b=c=d=e=f)=g=h")] {
        let deep = inside(100_000, open, close);
        assert!(refused(&deep).contains("a condition of"), "{open}");
        let deep = inside(500, open, close);
        assert!(refused(&deep).contains("at most 64 levels"), "{open}");
    }
    let deepest = inside(32, "((a = ", ")=b=c=d=e=f)=g=h");
    assert_ne!(result(&deepest, &[]), "REFUSED");
    assert!(refused(&format!("a{}", " = b".repeat(9))).contains("in a row"));
    assert!(refused(&format!("a{}", " CONTAINS 'b'".repeat(1_000))).contains("in a row"));
    let values = |count: usize| format!("a IN ({})", vec!["'x'"; count].join(","));
    assert_eq!(result(&values(2_000), &[("a", "x".to_owned())]), "TRUE");
    let values: Vec<String> = (0..1_025).map(|number| format!("'{number}'")).collect();
    assert!(refused(&format!("a IN ({})", values.join(","))).contains("at most 1024 in one IN"));
    let row = vec!["a=1"; 2_000].join(" OR ");
    assert_eq!(result(&row, &[("a", "1".to_owned())]), "TRUE");
}

#[track_caller]
fn assert_told(condition: &str, told: &str) {
    assert_eq!(Sql::check(condition).expect_err(condition).to_string(), told);
}

#[test]
fn a_writer_is_told_where_and_what_to_do() {
    assert_told(
        "region = 'eu' AND size >> 3",
        "character 25: `>`, expected a property, a text, a number or `(`",
    );
    assert_told(
        "a == 1",
        "character 4: `=`, expected a property, a text, a number or `(`; equality is written with \
         one `=`",
    );
    assert_told(
        "a != 1",
        "character 3: `!` means nothing here; write `<>` for not equal, and `NOT (...)` for the contrary",
    );
    assert_told(
        "a = \"x\"",
        "character 5: `\"` means nothing here; texts stand in single quotes: 'text'",
    );
    assert_told("a = 1 && b = 2", "character 7: `&` means nothing here; write AND");
    assert_told(
        "name LIKE 'x%'",
        "character 6: `LIKE`, expected AND, OR or the end; use CONTAINS, STARTSWITH or ENDSWITH",
    );
    assert_told(
        "a = 1 b = 2",
        "character 7: `b`, expected AND, OR or the end; a broker would ignore everything from here on",
    );
    assert_told(
        "a > 'x'",
        "character 5: a text is neither above nor below anything; order numbers, and compare texts by \
         `=` and `<>`",
    );
    assert_told("a = NULL", "character 5: nothing equals NULL; write `IS NULL` or `IS NOT NULL`");
    assert_told(
        "NOT a = 1",
        "character 5: NOT before a property alone; NOT binds more than `=`: write `NOT (a = 1)`, or \
         `a <> 1`",
    );
    assert_told(
        "NOT (a = 1) = 2",
        "character 1: a condition is never equal to a text or a number; NOT binds more than `=`: \
         write `NOT (a = 1)`, or `a <> 1`",
    );
    assert_told(
        "a IN (1)",
        "character 7: `1`, expected a text in single quotes, as IN has texts only",
    );
    assert_told("a = 0.0", "character 5: `0.0` is too near to zero; write zero as `0`");
    assert_told(
        "a = 'it",
        "character 5: the text `'it` does not end; close it with `'`; a quote inside is written twice: \
         'it''s'",
    );
    assert_told("(a = 1", "character 7: the end, expected an operator or `)`");
    assert_told(
        "a BETWEEN 3 AND 1",
        "character 11: the lower bound is above the upper one; exchange the two",
    );
    assert_told(
        "a AND b = 1",
        "character 1: a property alone is never true; write `a = TRUE`, or `a IS NOT NULL`",
    );
}

proptest! {
    #[test]
    fn any_text_is_a_condition_or_refused(text in "\\PC*|[abANDORNOTIS='<>()1. -]{0,40}") {
        let lenient = Sql::parse(&text);
        let strict = Sql::check(&text);
        prop_assert!(strict.is_err() || lenient.is_ok());
        if let Ok(sql) = lenient {
            let _ = sql.evaluate([("a", "1"), ("b", "x")]);
        }
        if let Err(error) = strict {
            prop_assert!(error.position <= text.chars().count() + 1);
        }
    }

    #[test]
    fn numbers_are_ordered_as_rust_orders_them(left in any::<i64>(), right in any::<i64>()) {
        let sql = Sql::check("a < b").unwrap();
        // By way of doubles, as Apache.
        #[expect(clippy::cast_precision_loss, reason = "that is what is tested")]
        let expected = (left as f64) < (right as f64);
        let (left, right) = (left.to_string(), right.to_string());
        prop_assert_eq!(sql.matches([("a", left.as_str()), ("b", right.as_str())]), expected);
    }

    #[test]
    fn the_contrary_of_a_condition_is_its_contrary(a in 0..9_i32, low in 0..9_i32, more in 0..9_i32) {
        let a = a.to_string();
        let high = low + more;
        for condition in [
            format!("a BETWEEN {low} AND {high}"),
            format!("a > {low} AND a <> {high}"),
            format!("a IN ('{low}', '{high}')"),
            format!("a CONTAINS '{low}' OR NOT (a = {high})"),
        ] {
            let yes = Sql::check(&condition).unwrap().matches([("a", a.as_str())]);
            let no = Sql::check(&format!("NOT ({condition})")).unwrap();
            prop_assert_eq!(no.matches([("a", a.as_str())]), !yes, "{}", condition);
        }
    }
}
