//! What the compiler says to a user who has made a mistake: one file a mistake under `ui/`, with
//! the text beside it. `TRYBUILD=overwrite cargo test -p mq-macros` writes the texts anew; read
//! them.

#[test]
fn mistakes_are_told_on_the_users_line() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
