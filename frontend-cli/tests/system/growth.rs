//! Builds of more steps than anybody should write.

use kiln_fixtures::Context;

use crate::kiln::Kiln;
use crate::ordinary::Ordinary;

/// More layers than overlayfs mounts, with what hides lower ones in different groups of them.
fn dockerfile() -> String {
    let copies = |from: usize, to: usize| -> String {
        (from..to).map(|number| format!("COPY file /many/{number}\n")).collect()
    };
    let mut text =
        String::from("FROM busybox\nRUN mkdir -p /emptied /kept /gone && touch /emptied/a /kept/a /gone/a\n");
    text += &copies(0, 170);
    text += "RUN rm -r /emptied /gone && mkdir /emptied && touch /emptied/b /kept/b && chmod 711 /kept\n";
    text += &copies(170, 505);
    text += "RUN [ $(ls /many | wc -l) = 505 ] && cat /many/504 && ls / && ls /emptied /kept && stat -c %a /kept\n";
    text + "RUN --mount=type=bind,from=busybox,target=/b echo 5 > /many/504 && cat /many/0 /many/504 && ls /emptied\n"
}

const SHOWN: [&str; 2] = ["/emptied:\nb\n\n/kept:\na\nb\n711\n", "text\n5\nb\n"];

#[test]
fn a_process_runs_on_more_layers_than_overlayfs_mounts() {
    let Some(kiln) = Kiln::new("many layers") else { return };
    let context = Context::with_dockerfile(&dockerfile());
    std::fs::write(context.path().join("file"), "text\n").unwrap();
    let ended = kiln.build(context.path(), &["--progress=plain", "."]);
    let said = output(&ended.stderr);
    assert!(SHOWN.iter().all(|shown| said.contains(shown)) && !said.contains("gone\n"), "{said}");
    assert_eq!(kiln.build(context.path(), &["-t", "many", "."]).steps().0, 0);
    let script = "ls /many | wc -l; cat /many/0 /many/504; ls /emptied";
    assert_eq!(kiln.run(&["many", "sh", "-c", script]), "505\ntext\n5\nb\n");
    kiln.is_sound();
}

#[test]
fn an_ordinary_users_process_does_too() {
    let Some(user) = Ordinary::new("many layers") else { return };
    let folder = user.folder("many", &[("Dockerfile", &dockerfile()), ("file", "text\n")]);
    let ended = user.build(&folder, &["--progress=plain", "."]);
    let said = output(&ended.stderr);
    assert!(SHOWN.iter().all(|shown| said.contains(shown)) && !said.contains("gone\n"), "{said}");
}

/// What steps printed, without the display's words before each line.
fn output(display: &str) -> String {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let is_step = words.next().is_some_and(|word| word.starts_with('#'));
        let is_time = words.next().is_some_and(|word| word.parse::<f64>().is_ok());
        (is_step && is_time).then(|| format!("{}\n", words.next().unwrap_or_default()))
    };
    display.lines().filter_map(line).collect()
}
