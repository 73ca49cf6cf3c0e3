use super::*;
use proptest::prelude::*;

struct Set(&'static [(&'static str, &'static str)]);

impl Variables for Set {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

const SET: Set = Set(&[
    ("a", "one"),
    ("empty", ""),
    ("s", "foobarbaz"),
    ("f", "a.tar.gz"),
    ("p", "/usr/local/bin/tool"),
    ("stars", "a*b*c?d"),
    ("two", "x y"),
]);

fn value(word: &str) -> String {
    expand(word, &SET, '\\').unwrap().value
}

fn error(word: &str) -> String {
    expand(word, &SET, '\\').unwrap_err().to_string()
}

#[test]
fn names_end_where_no_letter_digit_or_underscore_follows() {
    assert_eq!(value("$a ${a}_x $a_x"), "one one_x ");
    assert_eq!(value("$1a x${2}y $ 5$ $$ $@"), "a xy $ 5$  ");
}

#[test]
fn names_may_have_letters_and_digits_of_any_script() {
    assert_eq!(value("$größe|$a²|$à|$٣a|$aⅧ|$a½"), "|one²||a|oneⅧ|one½");
}

#[test]
fn defaults_and_alternatives_tell_empty_from_unset() {
    assert_eq!(value("${a:-d},${empty:-d},${no:-d},${no:-}"), "one,d,d,");
    assert_eq!(value("${a-d},${empty-d},${no-d}"), "one,,d");
    assert_eq!(value("x${a:+d}x${empty:+d}x${no:+d}x"), "xdxxx");
    assert_eq!(value("x${a+d}x${empty+d}x${no+d}x"), "xdxdxx");
    assert_eq!(value("${u1:-${u2:-${a}}} ${a:+<$a>}"), "one <one>");
}

#[test]
fn a_required_variable_fails_with_the_authors_message() {
    assert_eq!(value("${a:?must be set}${a?also}${empty?}"), "oneone");
    assert_eq!(error("${DEST:?say-where}"), "DEST: say-where");
    assert_eq!(error("${DEST?}"), "DEST: is not allowed to be unset");
    assert_eq!(error("${empty:?}"), "empty: is not allowed to be empty");
}

#[test]
fn prefixes_suffixes_and_replacements_use_stars_and_question_marks() {
    assert_eq!(value("${s#f*b} ${s##f*b} ${s#foo} ${s#?} ${s#*}"), "arbaz az barbaz oobarbaz foobarbaz");
    assert_eq!(value("${s%b*} ${f%.*} ${f%%.*} ${s%zzz}"), "foobar a.tar a foobarbaz");
    assert_eq!(value("${stars#a\\*} ${stars%\\?d}"), "b*c?d a*b*c");
    assert_eq!(value("${s//ba/'<$0>'} ${s/ba/'<$0>'} ${s//b/'$x$$'}"), "foo<ba>r<ba>z foo<$0>rbaz foo$ar$az");
    assert_eq!(value("${no/*/x}${no//*/x}${empty/*/x}${no/a/x}${no#*}"), "xxx");
    assert_eq!(value("${s/b?r/-} ${s//o/} ${p//\\//-}"), "foo-baz fbarbaz -usr-local-bin-tool");
}

#[test]
fn quotes_and_escapes_are_removed_and_values_are_not_read_again() {
    assert_eq!(value("'$a'\"$a\"m'x'\"$a\"'y'"), "$aonemxoney");
    assert_eq!(value("\\$a \\${a} \"\\$a\" '\\$a'"), "$a ${a} $a \\$a");
    assert_eq!(value("\"in\\\"ner\" \"C:\\dir\" four\\ words"), "in\"ner C:\\dir four words");
    assert_eq!(expand("C:\\d`$a", &SET, '`').unwrap().value, "C:\\d$a");
}

#[test]
fn words_split_at_white_space_that_is_not_quoted() {
    let words = expand_to_words("$two \"$two\" ${no} a\\ b", &SET, '\\').unwrap();
    assert_eq!(words, ["x", "y", "x y", "a b"]);
}

#[test]
fn a_heredocs_quotes_are_text() {
    let text = expand_heredoc("it's \"$a\" \\$literal ${no:-d}\\\\\n", &SET, '\\').unwrap();
    assert_eq!(text, "it's \"one\" $literal d\\\n");
}

#[test]
fn names_that_are_not_set_are_reported_once_with_or_without_a_default() {
    let expanded = expand("$b ${c:-x} $b ${a}", &SET, '\\').unwrap();
    assert_eq!(expanded.unset, ["b", "c"]);
}

#[test]
fn malformed_words_say_what_is_missing() {
    assert_eq!(error("${open"), "failed to process \"${open\": syntax error: missing '}'");
    assert_eq!(error("${a:-x"), "failed to process \"${a:-x\": syntax error: missing '}'");
    assert_eq!(error("${a/x}"), "failed to process \"${a/x}\": syntax error: missing '/' in ${}");
    assert_eq!(error("${a:=c}"), "failed to process \"${a:=c}\": unsupported modifier (:=) in substitution");
    assert_eq!(error("${a^^}"), "failed to process \"${a^^}\": unsupported modifier (^) in substitution");
    assert_eq!(
        error("${a#x\\y}"),
        "failed to process \"${a#x\\\\y}\": invalid pattern (x\\y) in substitution"
    );
    assert_eq!(error("${}"), "failed to process \"${}\": syntax error: bad substitution");
    assert_eq!(
        error("\"open"),
        "failed to process \"\\\"open\": unexpected end of statement while looking for matching double-quote"
    );
    assert!(error("'open").ends_with("single-quote"));
}

#[test]
fn depth_and_length_have_limits() {
    let deep = format!("{}{}", "${no:-".repeat(100_000), "}".repeat(100_000));
    assert!(matches!(expand(&deep, &SET, '\\'), Err(ExpandError::TooLarge { .. })));
    struct Big(String);
    impl Variables for Big {
        fn get(&self, _: &str) -> Option<&str> {
            Some(&self.0)
        }
    }
    let big = Big("x".repeat(1 << 20));
    assert!(matches!(expand(&"$x".repeat(17), &big, '\\'), Err(ExpandError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn no_word_makes_it_panic(word in "[${}:?+/#%\\\\'\"`*a-c \n-]{0,40}", escape in "[\\\\`]") {
        let escape = escape.chars().next().unwrap();
        let _ = expand(&word, &SET, escape);
        let _ = expand_to_words(&word, &SET, escape);
        let _ = expand_heredoc(&word, &SET, escape);
    }

    #[test]
    fn a_word_without_special_characters_is_itself(word in "[a-zA-Z0-9_./:=@ +-]{0,40}") {
        prop_assert_eq!(expand(&word, &SET, '\\').unwrap().value, word);
    }
}
