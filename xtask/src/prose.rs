//! The project's prose: comments and doc comments of every language here, and documents, as sentences with their lines.

/// A line of prose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Line of its file, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
}

/// A sentence that begins with a word that is no subject.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    pub(crate) line: usize,
    /// The sentence's first words.
    pub(crate) text: String,
    pub(crate) word: &'static str,
}

/// Words that begin a sentence without a subject. All but `Where` fail `tidy`.
const OPENERS: [&str; 7] = ["Whose", "Whom", "Who", "What", "Of", "The same", "Where"];

/// Returns the prose of a file, split at everything that ends a paragraph. An unknown kind of file has none.
pub(crate) fn paragraphs(file: &str, text: &str) -> Vec<Vec<Line>> {
    let blocks = match file.rsplit('.').next().unwrap_or_default() {
        "rs" => rust_comments(text),
        "js" | "mjs" | "ts" | "css" => script_comments(text),
        "py" => python_comments(text),
        "toml" | "sh" | "yml" | "yaml" => hash_comments(text),
        "md" => vec![text.lines().enumerate().map(|(at, line)| line_of(at, line)).collect()],
        _ => Vec::new(),
    };
    blocks.into_iter().flat_map(split).collect()
}

fn line_of(at: usize, text: &str) -> Line {
    Line { number: at + 1, text: text.trim().to_owned() }
}

/// Finds Rust's comments: the text after `//` outside of strings. Adjacent lines form one block.
fn rust_comments(text: &str) -> Vec<Vec<Line>> {
    let mut blocks: Vec<Vec<Line>> = Vec::new();
    let mut kind_before = "";
    let mut scan = Scan { state: State::Code };
    for (at, line) in text.lines().enumerate() {
        let Some(comment) = scan.line(line) else { continue };
        let kind = ["//!", "///", "//"].into_iter().find(|kind| comment.starts_with(kind)).unwrap_or("");
        let text = line_of(at, &comment[kind.len()..]);
        let is_whole = line.trim_start().len() == comment.len();
        match blocks.last_mut() {
            Some(block)
                if is_whole && kind == kind_before && block.last().is_some_and(|line| line.number == at) =>
            {
                block.push(text);
            }
            _ => blocks.push(vec![text]),
        }
        kind_before = if is_whole { kind } else { "" };
    }
    blocks
}

/// The construct that contains the next character of Rust source.
enum State {
    Code,
    /// A string; a raw one with its number of hashes.
    String(Option<usize>),
    /// A block comment, with the number of open ones.
    Block(usize),
}

/// A scanner of Rust source that goes line by line.
struct Scan {
    state: State,
}

impl Scan {
    /// Reads a line and returns its comment with the slashes, if it has one.
    fn line<'l>(&mut self, line: &'l str) -> Option<&'l str> {
        let bytes = line.as_bytes();
        let mut at = 0;
        let mut comment = None;
        if let State::Block(_) = self.state {
            comment = Some(line.trim_start());
        }
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                State::Block(open) => {
                    if rest.starts_with(b"*/") {
                        *open -= 1;
                        if *open == 0 {
                            self.state = State::Code;
                        }
                        at += 2;
                    } else if rest.starts_with(b"/*") {
                        *open += 1;
                        at += 2;
                    } else {
                        at += 1;
                    }
                }
                State::String(None) => match rest[0] {
                    b'\\' => at += 2,
                    b'"' => {
                        self.state = State::Code;
                        at += 1;
                    }
                    _ => at += 1,
                },
                State::String(Some(hashes)) => {
                    let hashes = *hashes;
                    if rest[0] == b'"'
                        && rest[1..].iter().take(hashes).filter(|&&b| b == b'#').count() == hashes
                    {
                        self.state = State::Code;
                        at += 1 + hashes;
                    } else {
                        at += 1;
                    }
                }
                State::Code => {
                    if rest.starts_with(b"//") {
                        return Some(&line[at..]);
                    }
                    at += self.code(bytes, at);
                }
            }
        }
        comment
    }

    /// Steps over a piece of code and returns its length.
    fn code(&mut self, bytes: &[u8], at: usize) -> usize {
        let rest = &bytes[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if rest.starts_with(b"/*") {
            self.state = State::Block(1);
            return 2;
        }
        match rest[0] {
            b'"' => {
                self.state = State::String(None);
                1
            }
            b'r' | b'b' | b'c' if !after_word => {
                // A raw string of any prefix: r, br, cr.
                let letters = rest.iter().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
                let hashes = rest[letters..].iter().take_while(|&&b| b == b'#').count();
                if rest[..letters].contains(&b'r') && rest.get(letters + hashes) == Some(&b'"') {
                    self.state = State::String(Some(hashes));
                    letters + hashes + 1
                } else {
                    1
                }
            }
            b'\'' => {
                // A character, or a lifetime.
                if rest.get(1) == Some(&b'\\') {
                    2 + rest[2..].iter().skip(1).position(|&b| b == b'\'').map_or(1, |end| end + 2)
                } else {
                    let width = rest.get(1).map_or(1, |&b| match b {
                        0xF0.. => 4,
                        0xE0.. => 3,
                        0xC0.. => 2,
                        _ => 1,
                    });
                    if rest.get(1 + width) == Some(&b'\'') { 2 + width } else { 1 }
                }
            }
            _ => 1,
        }
    }
}

/// Finds comments of JavaScript and CSS: lines that begin as one, and the text after ` // `.
fn script_comments(text: &str) -> Vec<Vec<Line>> {
    let mut blocks: Vec<Vec<Line>> = Vec::new();
    let mut in_block = false;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let comment = if in_block || trimmed.starts_with("/*") {
            in_block = !trimmed.contains("*/");
            let inner = trimmed.split("*/").next().unwrap_or_default();
            Some(inner.trim_start_matches("/*").trim_start_matches('*'))
        } else if let Some(comment) = trimmed.strip_prefix("//") {
            Some(comment.trim_start_matches('/'))
        } else {
            line.rsplit_once(" // ").map(|(_, comment)| comment)
        };
        join(&mut blocks, at, comment);
    }
    blocks
}

fn python_comments(text: &str) -> Vec<Vec<Line>> {
    let mut blocks: Vec<Vec<Line>> = Vec::new();
    let mut in_doc = false;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let comment = if in_doc {
            in_doc = !trimmed.contains("\"\"\"");
            Some(trimmed.split("\"\"\"").next().unwrap_or_default())
        } else if let Some(doc) = trimmed.strip_prefix("\"\"\"") {
            in_doc = !doc.contains("\"\"\"");
            Some(doc.split("\"\"\"").next().unwrap_or_default())
        } else if let Some(comment) = trimmed.strip_prefix('#') {
            Some(comment)
        } else {
            line.split_once("  # ").map(|(_, comment)| comment)
        };
        join(&mut blocks, at, comment);
    }
    blocks
}

fn hash_comments(text: &str) -> Vec<Vec<Line>> {
    let mut blocks: Vec<Vec<Line>> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let comment = match line.trim_start().strip_prefix('#') {
            Some(comment) => Some(comment),
            None => line.rsplit_once(" # ").map(|(_, comment)| comment),
        };
        join(&mut blocks, at, comment);
    }
    blocks
}

/// Appends a comment to the block that ends on the line before, or begins another.
fn join(blocks: &mut Vec<Vec<Line>>, at: usize, comment: Option<&str>) {
    let Some(comment) = comment else { return };
    match blocks.last_mut() {
        Some(block) if block.last().is_some_and(|line| line.number == at) => block.push(line_of(at, comment)),
        _ => blocks.push(vec![line_of(at, comment)]),
    }
}

/// Splits a block at blank lines, headings, list items, tables and code, which is left out.
fn split(block: Vec<Line>) -> Vec<Vec<Line>> {
    let mut paragraphs: Vec<Vec<Line>> = Vec::new();
    let mut in_code = false;
    let mut is_open = false;
    for line in block {
        let text = line.text.as_str();
        if text.starts_with("```") || text.starts_with("~~~") {
            in_code = !in_code;
            is_open = false;
            continue;
        }
        if in_code || text.is_empty() {
            is_open = false;
            continue;
        }
        if text.starts_with('|') {
            is_open = false;
            for cell in text.split('|').map(str::trim).filter(|cell| !cell.is_empty()) {
                paragraphs.push(vec![Line { number: line.number, text: cell.to_owned() }]);
            }
            continue;
        }
        let plain = without_marker(text);
        let starts = plain.len() < text.len() || text.starts_with('#') || text.starts_with('@');
        let ends = text.starts_with('#');
        let line = Line { number: line.number, text: plain.to_owned() };
        match paragraphs.last_mut() {
            Some(paragraph) if is_open && !starts => paragraph.push(line),
            _ => paragraphs.push(vec![line]),
        }
        is_open = !ends;
    }
    paragraphs
}

/// Removes the mark of a list item, heading or quotation.
fn without_marker(text: &str) -> &str {
    let text = text.trim_start_matches(['#', '>']).trim_start();
    for mark in ["- ", "* ", "+ "] {
        if let Some(rest) = text.strip_prefix(mark) {
            return rest.trim_start();
        }
    }
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    if digits > 0
        && let Some(rest) = text[digits..].strip_prefix(". ").or_else(|| text[digits..].strip_prefix(") "))
    {
        return rest.trim_start();
    }
    text
}

/// Finds the sentences of a paragraph that begin with one of [`OPENERS`] and are no question.
pub(crate) fn openers(paragraph: &[Line]) -> Vec<Opener> {
    let mut text = String::new();
    let mut starts_of_lines = Vec::new();
    for line in paragraph {
        if !text.is_empty() {
            text.push(' ');
        }
        starts_of_lines.push((text.len(), line.number));
        text.push_str(&line.text);
    }
    let mut found = Vec::new();
    for start in sentence_starts(&text) {
        let sentence = text[start..].trim_start_matches(['*', '_', '"', '(', '`', '\u{201c}', '[']);
        let Some(word) = OPENERS.into_iter().find(|word| begins_with(sentence, word)) else { continue };
        if word != "Of" && word != "The same" && is_question(sentence) {
            continue;
        }
        let line = starts_of_lines.iter().rev().find(|(at, _)| *at <= start).map_or(0, |(_, number)| *number);
        found.push(Opener { line, text: sentence.chars().take(60).collect(), word });
    }
    found
}

fn begins_with(sentence: &str, word: &str) -> bool {
    sentence
        .strip_prefix(word)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '\''))
}

/// Returns the positions where sentences begin: at the front, and after a full stop, question mark, exclamation mark or colon.
fn sentence_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let bytes = text.as_bytes();
    for at in 0..bytes.len() {
        if !matches!(bytes[at], b'.' | b'?' | b'!' | b':') {
            continue;
        }
        let closed = bytes[at + 1..].iter().take_while(|b| matches!(b, b')' | b'"' | b'*' | b'_')).count();
        let after = at + 1 + closed;
        if bytes.get(after) == Some(&b' ') {
            starts.push(after + 1);
        }
    }
    starts
}

/// Returns true if a sentence ends with a question mark.
fn is_question(sentence: &str) -> bool {
    let bytes = sentence.as_bytes();
    let end = (0..bytes.len()).find(|&at| {
        matches!(bytes[at], b'.' | b'?' | b'!')
            && bytes.get(at + 1).is_none_or(|b| matches!(b, b' ' | b')' | b'"' | b'*' | b'_'))
    });
    end.is_some_and(|at| bytes[at] == b'?')
}

/// Returns true if a line has one of the words who, whom and whose, outside of code.
pub(crate) fn has_relative(text: &str) -> bool {
    // Every other part lies between backticks: code.
    let prose: Vec<&str> = text.split('`').step_by(2).collect();
    prose
        .join(" ")
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| ["who", "whom", "whose"].iter().any(|relative| word.eq_ignore_ascii_case(relative)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<(usize, &'static str)> {
        paragraphs(file, text)
            .iter()
            .flat_map(|paragraph| openers(paragraph))
            .map(|o| (o.line, o.word))
            .collect()
    }

    #[test]
    fn openers_are_found_where_sentences_begin() {
        let text = "//! Whose turn it is.\nlet s = \"// What\"; // Of all, one.\n/// A line that ends. What\n/// comes next.\n";
        assert_eq!(found("a.rs", text), [(1, "Whose"), (2, "Of"), (3, "What")]);
    }

    #[test]
    fn questions_code_and_the_middle_of_sentences_are_not_openers() {
        let text = "/// What is it?\n/// It says what\n/// the whole is, of which: much.\n///\n/// ```\n/// // Of code\n/// ```\nfn f<'a>(c: char) { '\"'; r#\"\n// Who\n\"#; }\n";
        assert_eq!(found("a.rs", text), []);
    }

    #[test]
    fn documents_and_scripts_are_read_too() {
        assert_eq!(
            found("a.md", "# What is where\n\n- Of them.\n| Who | x |\n"),
            [(1, "What"), (3, "Of"), (4, "Who")]
        );
        assert_eq!(
            found("a.py", "\"\"\"The same for all.\"\"\"\nx = 1  # Whom\n"),
            [(1, "The same"), (2, "Whom")]
        );
        assert_eq!(found("a.js", "/**\n * Where it lies.\n */\nf(); // Who\n"), [(2, "Where"), (4, "Who")]);
    }

    #[test]
    fn relatives_are_words_of_their_own() {
        assert!(has_relative("the client whose turn") && has_relative("Who"));
        assert!(!has_relative("the whole") && !has_relative("the test `who_is_it`"));
    }
}
