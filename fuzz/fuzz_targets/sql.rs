//! Conditions: any text is parsed or refused, and evaluated without end or panic; a strict parser
//! takes nothing that the lenient one refuses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_filter::{Sql, check_tags, tags};

const PROPERTIES: [(&str, &str); 6] =
    [("a", "5"), ("b", "x"), ("c", "true"), ("d", "-1.5e3"), ("e", "0x1.8p-1"), ("a", "7")];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if check_tags(text).is_ok() {
        assert!(tags(text).is_ok());
    }
    let lenient = Sql::parse(text);
    let strict = Sql::check(text);
    match (lenient, strict) {
        (Ok(lenient), Ok(strict)) => {
            assert_eq!(lenient.evaluate(PROPERTIES), strict.evaluate(PROPERTIES));
        }
        (Ok(lenient), Err(_)) => drop(lenient.evaluate(PROPERTIES)),
        (Err(lenient), Err(strict)) => drop((lenient.to_string(), strict.to_string())),
        (Err(refused), Ok(_)) => panic!("{text:?} is checked and refused: {refused}"),
    }
    // The text as a property: whatever a peer stores is compared with.
    let sql = Sql::check("v > 5 OR v = 2147483648 OR v > w OR v = TRUE OR v < 1.5").expect("legal");
    let _ = sql.evaluate([("v", text), ("w", "1")]);
});
