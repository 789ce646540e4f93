//! Rules of the repository that no lint knows: the words, the layout, who may name what.
//!
//! Each rule reads the sources as text and tells every breach at once, with its place and what to
//! do instead. A rule that needs an exception lists it here, beside the rule.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository, by its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the file is part of what is shipped, rather than a test, a tool or an example.
    fn is_product(&self) -> bool {
        let crates = ["src/", "mq-filter/src/", "mq-core/src/", "mq-macros/src/", "mq-broker/src/"];
        self.is_rust() && crates.iter().any(|folder| self.path.starts_with(folder))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The numbered lines before the unit tests at the file's foot, with comments cut off.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("#[cfg(test)]\nmod tests").unwrap_or(self.text.len());
        let code = self.text.get(..end).unwrap_or_default();
        code.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line)))
    }

    /// The lines of code for which `is_bad` holds, as breaches.
    fn breaches(&self, is_bad: impl Fn(&str) -> bool, mend: &str) -> Vec<String> {
        let bad = self.code().filter(|(_, line)| is_bad(line));
        bad.map(|(number, line)| format!("{}:{number}: {mend}\n    {line}", self.path)).collect()
    }
}

/// Cuts a line at `//`, unless that stands inside a literal such as an address.
fn without_comment(line: &str) -> &str {
    let mut in_string = false;
    let mut previous = ' ';
    for (at, letter) in line.char_indices() {
        match letter {
            '"' if previous != '\\' && previous != '\'' => in_string = !in_string,
            '/' if previous == '/' && !in_string => return line.get(..at - 1).unwrap_or(line),
            _ => {}
        }
        previous = letter;
    }
    line
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 4] = ["target", "node_modules", "data", "shared"];
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let path = entry.expect("a folder's entry can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hidden = name.starts_with('.') && name != ".ci";
        if path.is_dir() && !hidden && !SKIPPED.contains(&name) {
            walk(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Every file of the repository, by its path from the root.
fn files() -> BTreeSet<String> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&root).ok()?.to_str().map(str::to_owned);
    found.iter().filter_map(name).collect()
}

/// The files whose names end in one of `endings`.
fn sources(endings: &[&str]) -> Vec<Source> {
    let wanted = files().into_iter().filter(|path| endings.iter().any(|end| path.ends_with(end)));
    wanted.filter_map(|path| Some(Source { text: read(&path)?, path })).collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

fn rust() -> Vec<Source> {
    sources(&[".rs"])
}

fn product() -> Vec<Source> {
    rust().into_iter().filter(Source::is_product).collect()
}

#[track_caller]
fn assert_none(breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// A whole word of ASCII letters, digits and underscores.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn lines_have_at_most_100_columns() {
    // rustfmt sees to code, but for literals and macros, which it cannot break; no more can a table
    // be broken.
    let is_prose = |line: &str| line.trim_start().starts_with("//") && !line.contains(" | ");
    let most = |line: &str| if is_prose(line) { 100 } else { 120 };
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".java", ".go", ".js", ".mjs", ".css"]) {
        let long = |line: &str| line.chars().count() > most(line);
        let lines = source.text.lines().enumerate().filter(|(_, line)| long(line));
        breaches.extend(lines.map(|(index, _)| format!("{}:{}: wrap it", source.path, index + 1)));
    }
    assert_none(breaches);
}

#[test]
fn every_file_says_what_lives_in_it() {
    // What the compiler is to say about a mistake depends on line numbers, and nothing else there.
    let silent = |source: &Source| !source.text.starts_with("//!") && !source.path.contains("/ui/");
    let breaches = rust().into_iter().filter(silent);
    assert_none(breaches.map(|s| format!("{}: open it with `//!`", s.path)));
}

/// The sources that a manifest names as a target, `path = "..."`.
fn named_by_manifests() -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for manifest in sources(&["Cargo.toml"]) {
        let folder = manifest.path.strip_suffix("Cargo.toml").unwrap_or_default();
        let paths =
            manifest.text.split("path = \"").skip(1).filter_map(|rest| rest.split('"').next());
        named.extend(paths.map(|path| format!("{folder}{path}")));
    }
    named
}

#[test]
fn every_file_is_declared() {
    let sources = rust();
    let named = named_by_manifests();
    let is_root = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let parent = path.strip_suffix(name).unwrap_or_default();
        let is_crate = name == "lib.rs" || name == "main.rs";
        name == "build.rs"
            || named.contains(path)
            || (parent == "src/" || parent.ends_with("/src/")) && is_crate
            || parent.ends_with("tests/ui/")
            || (parent.ends_with("/tests/") || parent.ends_with("/examples/"))
                && !parent.contains("/src/")
    };
    let declares = |path: &str, module: &str| {
        let text = sources.iter().find(|s| s.path == path).map(|s| s.text.as_str());
        text.is_some_and(|text| {
            text.lines().any(|line| line.trim_end().ends_with(&format!("mod {module};")))
        })
    };
    let is_declared = |path: &str| {
        let stem = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        let Some((parent, module)) = stem.rsplit_once('/') else { return true };
        let inside = ["mod.rs", "lib.rs", "main.rs"].map(|name| format!("{parent}/{name}"));
        inside.iter().any(|file| declares(file, module))
            || declares(&format!("{parent}.rs"), module)
    };
    let lost = sources.iter().filter(|s| !is_root(&s.path) && !is_declared(&s.path));
    assert_none(lost.map(|s| format!("{}: no `mod` line leads here", s.path)));
}

#[test]
fn no_code_is_commented_out() {
    let starts = ["let ", "fn ", "pub fn ", "pub use ", "return ", "#[", "println!", "assert"];
    let is_code = |line: &str| {
        let Some(comment) = line.trim_start().strip_prefix("//") else { return false };
        if comment.starts_with(['/', '!']) {
            return false;
        }
        let comment = comment.trim();
        comment == "}"
            || comment.ends_with(");")
            || comment.ends_with("};")
            || comment.ends_with(") {")
            || comment.ends_with(';') && starts.iter().any(|start| comment.starts_with(start))
    };
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".java", ".go", ".js", ".mjs"]) {
        let lines = source.text.lines().enumerate().filter(|(_, line)| is_code(line));
        breaches.extend(lines.map(|(i, l)| format!("{}:{}: delete it: {l}", source.path, i + 1)));
    }
    assert_none(breaches);
}

#[test]
fn nothing_is_left_to_do_in_the_sources() {
    let notes =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("HA", "CK"), concat!("X", "XX")];
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".java", ".go", ".js", ".mjs", ".md", ".toml"]) {
        let noted = |line: &str| notes.iter().any(|note| has_word(line, note));
        let lines = source.text.lines().enumerate().filter(|(_, line)| noted(line));
        breaches.extend(lines.map(|(i, l)| format!("{}:{}: do it: {l}", source.path, i + 1)));
    }
    assert_none(breaches);
}

#[test]
fn types_are_named_for_what_they_are() {
    const EMPTY_WORDS: [&str; 4] = ["Manager", "Helper", "Util", "Impl"];
    let is_empty_name = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let kind = words.find(|word| ["struct", "enum", "trait", "type"].contains(word));
        let name = kind.and_then(|_| words.find(|word| !word.is_empty())).unwrap_or_default();
        EMPTY_WORDS.iter().any(|word| name.contains(word))
    };
    let check = |s: &Source| s.breaches(is_empty_name, "name the thing, not a job title");
    assert_none(product().iter().flat_map(check));
}

#[test]
fn lints_are_not_silenced() {
    let allow = concat!("[all", "ow(");
    // What a macro writes may or may not be used where it lands, so it cannot expect a warning.
    let sources = rust().into_iter().filter(|s| !s.is_in("mq-macros/src/"));
    let check = |s: Source| s.breaches(|line| line.contains(allow), "use #[expect(.., reason)]");
    assert_none(sources.flat_map(check));
}

#[test]
fn crates_forbid_unsafe_code() {
    let is_crate = |path: &str| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let roots = rust().into_iter().filter(|s| is_crate(&s.path));
    let lax = roots.filter(|s| !s.text.contains("#![forbid(unsafe_code)]"));
    assert_none(lax.map(|s| format!("{}: add #![forbid(unsafe_code)]", s.path)));
}

#[test]
fn folders_are_shallow_and_worth_opening() {
    let paths: Vec<String> = product().into_iter().map(|s| s.path).collect();
    let mut breaches = Vec::new();
    for path in &paths {
        let inside = path.split_once("src/").map_or("", |(_, inside)| inside);
        let Some((folder, _)) = inside.rsplit_once('/') else { continue };
        if folder.matches('/').count() > 1 {
            breaches.push(format!("{path}: two levels below src are enough"));
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let beside = paths.iter().filter(|other| other.starts_with(&format!("{parent}/"))).count();
        if beside < 3 {
            breaches.push(format!("{path}: a folder of {beside} files hides them"));
        }
    }
    assert_none(breaches);
}

#[test]
fn files_are_worth_opening() {
    let roots = ["lib.rs", "main.rs", "mod.rs"];
    let is_crumb = |s: &Source| {
        s.text.lines().count() < 30 && !roots.iter().any(|name| s.path.ends_with(name))
    };
    let crumbs = product().into_iter().filter(is_crumb);
    assert_none(crumbs.map(|s| format!("{}: put it beside what uses it", s.path)));
}

#[test]
fn protocol_and_store_do_not_know_the_runtime() {
    let folders = ["mq-core/src/protocol/", "mq-broker/src/store/"];
    let pure = product().into_iter().filter(|s| folders.iter().any(|folder| s.is_in(folder)));
    let check =
        |s: Source| s.breaches(|line| has_word(line, "tokio"), "the caller knows the runtime");
    assert_none(pure.flat_map(check));
}

#[test]
fn protocol_does_no_io() {
    let io = ["std::fs", "std::net::Tcp", "TcpStream", "File::"];
    let does_io = |line: &str| io.iter().any(|name| line.contains(name));
    let pure = product().into_iter().filter(|s| s.is_in("mq-core/src/protocol/"));
    assert_none(pure.flat_map(|s| s.breaches(does_io, "bytes in, values out")));
}

#[test]
fn the_store_does_not_know_requests() {
    let store = product().into_iter().filter(|s| s.is_in("mq-broker/src/store/"));
    let check = |s: Source| {
        s.breaches(|line| has_word(line, "RequestCode"), "a request is the broker's concern")
    };
    assert_none(store.flat_map(check));
}

#[test]
fn layers_of_the_core_look_down_only() {
    let mut breaches = Vec::new();
    for source in product().iter().filter(|s| s.is_in("mq-core/src/")) {
        breaches.extend(source.breaches(|line| has_word(line, "mq_broker"), "go by embedded.rs"));
        if source.is_in("mq-core/src/client/") {
            let names_app = |line: &str| line.contains("crate::app") || line.contains("super::app");
            breaches.extend(source.breaches(names_app, "the client serves applications unseen"));
        }
        if source.is_in("mq-core/src/app/") {
            let wire = ["TcpStream", "TcpListener", "protocol::header", "protocol::command"];
            let names_wire = |line: &str| wire.iter().any(|name| line.contains(name));
            breaches.extend(source.breaches(names_wire, "go by the client"));
        }
    }
    assert_none(breaches);
}

#[test]
fn request_codes_are_matched_in_three_files() {
    const MATCHING: [&str; 5] = [
        "mq-broker/src/dispatch.rs",
        "mq-broker/src/namesrv.rs",
        "mq-core/src/client/mod.rs",
        // Three codes are one verb there, and tell in which of two forms its header is written.
        "mq-broker/src/send.rs",
        // The codes themselves, with the numbers they stand for.
        "mq-core/src/protocol/code.rs",
    ];
    let matches = |line: &str| {
        let before_arrow = line.split("=>").next().unwrap_or_default();
        let is_arm = line.contains("=>") && before_arrow.contains("RequestCode::");
        is_arm
            || line.trim_start().starts_with("| RequestCode::")
            || line.contains("RequestCode::*")
    };
    let others = product().into_iter().filter(|s| !MATCHING.contains(&s.path.as_str()));
    assert_none(others.flat_map(|s| s.breaches(matches, "ask once, in dispatch.rs")));
}

/// The texts of the constants `NAME = "text",` of a file's `keys!` list.
fn property_keys() -> Vec<String> {
    let text = read("mq-core/src/properties.rs").expect("the property keys have their file");
    let literal = |line: &str| {
        let (name, value) = line.trim().split_once(" = ")?;
        let is_name =
            name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let value = value.strip_suffix(',')?;
        (is_name && value.len() > 2).then(|| value.to_owned())
    };
    text.lines().filter_map(literal).filter(|value| value.starts_with('"')).collect()
}

#[test]
fn property_keys_are_spelled_once() {
    // Answers carry some of the same names in their headers, where they are fields of the wire.
    const MAY: [&str; 2] = ["mq-core/src/properties.rs", "mq-core/src/protocol/header/"];
    let keys = property_keys();
    assert!(keys.len() > 20, "the keys of properties.rs are no longer found: {keys:?}");
    let spells = |line: &str| keys.iter().any(|key| line.contains(key.as_str()));
    let others = product().into_iter().filter(|s| !MAY.iter().any(|may| s.is_in(may)));
    assert_none(others.flat_map(|s| s.breaches(spells, "name it in properties::key")));
}

#[test]
fn reserved_topics_are_spelled_once() {
    let reserved = ["\"%RETRY%", "\"%DLQ%", "\"TBW102\"", "\"SCHEDULE_TOPIC", "\"RMQ_SYS_"];
    let spells = |line: &str| reserved.iter().any(|topic| line.contains(topic));
    let others = product().into_iter().filter(|s| s.path != "mq-core/src/names.rs");
    assert_none(others.flat_map(|s| s.breaches(spells, "name it in names.rs")));
}

#[test]
fn files_are_reached_in_few_places() {
    const MAY: [&str; 2] = [
        "mq-broker/src/store/disk.rs",
        // The client's one file.
        "mq-core/src/client/local_offsets.rs",
    ];
    let others = product().into_iter().filter(|s| !MAY.contains(&s.path.as_str()));
    let names = |line: &str| line.contains("std::fs") || line.contains("tokio::fs");
    assert_none(others.flat_map(|s| s.breaches(names, "go by store/disk.rs")));
}

/// The pieces of a document between backticks that look like paths.
fn named_files(text: &str) -> Vec<String> {
    let endings = [".rs", ".toml", ".md", ".sh", ".java", ".js", ".mjs", ".html"];
    let prose = text.split("```").step_by(2);
    let quoted = prose.flat_map(|part| part.split('`').skip(1).step_by(2).collect::<Vec<_>>());
    let is_path = |word: &&str| {
        let plain = !word.contains([' ', '*', '(', '<', '{', '$', '%']) && !word.contains("::");
        plain && (endings.iter().any(|end| word.ends_with(end)) || word.ends_with('/'))
    };
    quoted.filter(is_path).map(str::to_owned).collect()
}

#[test]
fn the_map_names_only_files_that_exist() {
    // What the program makes at run time, and what its users write.
    const MADE: [&str; 7] = [
        "commitlog/",
        "consumequeue/",
        "index/",
        "config/",
        "target/",
        "application.toml",
        "application-PROFILE.toml",
    ];
    let files = files();
    let exists = |name: &str| {
        let under_folder =
            |file: &String| file.starts_with(name) || file.contains(&format!("/{name}"));
        let is_file = |file: &String| file == name || file.ends_with(&format!("/{name}"));
        files
            .iter()
            .any(|file| if name.ends_with('/') { under_folder(file) } else { is_file(file) })
    };
    let mut breaches = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = read(document).unwrap_or_else(|| panic!("{document} is missing"));
        let lost = named_files(&text)
            .into_iter()
            .filter(|n| !exists(n) && !MADE.iter().any(|made| n.starts_with(made)));
        breaches.extend(lost.map(|name| format!("{document}: `{name}` does not exist")));
    }
    assert_none(breaches);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut breaches = Vec::new();
    for source in sources(&[".md"]) {
        let folder = Path::new(&source.path).parent().unwrap_or(Path::new("")).to_owned();
        for link in source.text.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://") || target.contains(':');
            if !elsewhere && !root().join(&folder).join(target).exists() {
                breaches.push(format!("{}: nothing at {target}", source.path));
            }
        }
    }
    assert_none(breaches);
}

#[test]
fn the_guide_lists_its_chapters() {
    let summary = read("docs/SUMMARY.md").expect("the guide has a table of contents");
    let chapters = sources(&[".md"]).into_iter().filter(|s| s.is_in("docs/"));
    let unlisted = chapters.filter(|s| {
        let name = s.path.strip_prefix("docs/").unwrap_or(&s.path);
        name != "SUMMARY.md" && !summary.contains(&format!("]({name})"))
    });
    assert_none(unlisted.map(|s| format!("{}: list it in docs/SUMMARY.md", s.path)));
}

#[test]
fn the_product_stays_small() {
    const LINES_MAX: usize = 39_000;
    let lines: usize = product().iter().map(|source| source.code().count()).sum();
    assert!(lines <= LINES_MAX, "{lines} lines of product, tests apart; {LINES_MAX} are enough");
}
