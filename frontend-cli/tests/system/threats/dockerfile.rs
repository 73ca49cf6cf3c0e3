//! E: Dockerfiles, the command line, and what is shown of a build.

use super::Who;

#[test]
fn e3_privileges_need_a_word_on_the_command_line() {
    for who in Who::all("threat E3") {
        for (flag, words) in [
            ("--security=insecure", "security.insecure is not allowed"),
            ("--network=host", "network.host is not allowed"),
            ("--security=anything", "security \"anything\" is not valid"),
            ("--network=anything", "invalid network mode \"anything\""),
        ] {
            who.refuses("e3", &format!("FROM busybox\nRUN {flag} true\n"), words);
        }
    }
}

#[test]
fn e4_paths_of_copies_are_anchored_in_their_root() {
    for who in Who::all("threat E4") {
        for source in ["/a/../../SENTINEL/file", "../../../SENTINEL/file", "/l/file"] {
            let dockerfile = format!(
                "FROM busybox AS s\nRUN mkdir /a && ln -s /../../SENTINEL /l\nFROM scratch\nCOPY --from=s {source} /\n"
            );
            who.refuses("e4", &dockerfile, "/file: not found");
        }
        let parents = "FROM busybox\nCOPY --parents ./../../SENTINEL/./file /d/\n";
        who.refuses("e4-parents", parents, "/file: not found");
    }
}

#[test]
fn e7_e9_what_a_step_prints_is_text_with_a_prefix() {
    for who in Who::all("threats E7, E9") {
        let dockerfile = "FROM busybox AS \u{202e}x\nLABEL a=\"\u{1b}]52;c;eA==\u{7}\"\n\
            RUN printf '\\033]52;c;eA==\\007\\033[2K\\033[1A\\n::set-env name=X::y\\n##[group]z\\n\\342\\200\\256backwards\\n'; false\n";
        let plain = dockerfile.replacen(" AS \u{202e}x", "", 1);
        for text in [dockerfile, &plain] {
            let (ended, sound) = who.attempt("e7", text);
            assert!(sound && ended.status != 0);
            // A clipboard would be written, lines hidden, a CI's variable set.
            let hostile =
                |char: char| (char.is_control() && !matches!(char, '\n' | '\t')) || char == '\u{202e}';
            assert!(!ended.stderr.contains(hostile), "{:?}", ended.stderr);
            // Every line of the step's, also where the error repeats them, has something of kiln's before it.
            let commands =
                |line: &str| line.trim_start().starts_with("::") || line.trim_start().starts_with("##[");
            assert!(!ended.stderr.lines().any(commands), "{}", ended.stderr);
            if text == plain {
                ended.says("::set-env");
            }
        }
    }
}

#[test]
fn e8_a_flood_of_output_is_cut_and_the_step_ends() {
    for who in Who::all("threat E8") {
        let dockerfile = "FROM busybox\nRUN head -c 40000000 /dev/zero; yes | head -c 40000000; head -c 1000000 /dev/urandom\n";
        let ended = who.survives("e8", dockerfile);
        assert!(ended.stderr.len() < 16 << 20, "{} bytes", ended.stderr.len());
    }
}

#[test]
fn h4_messages_of_any_size_arrive_or_are_refused() {
    for who in Who::all("threat H4") {
        let mounts: String = (0..500).map(|at| format!(" --mount=type=tmpfs,target=/m/{at}")).collect();
        who.survives("h4-mounts", &format!("FROM busybox\nRUN{mounts} test $(ls /m | wc -l) = 500\n"));
        let long = "x".repeat(60_000);
        who.survives("h4-long", &format!("FROM busybox\nENV A={long}\nRUN test ${{#A}} = 60000\n"));
        // The kernel takes 128 KiB a string.
        let longer = format!("FROM busybox\nENV A={long}\nENV A=$A$A$A$A\nRUN true\n");
        who.refuses("h4-longer", &longer, "too long");
    }
}
