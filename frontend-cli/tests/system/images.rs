//! Images made of files, files of images, and what differs between images.

use kiln_fixtures::{Context, FileServer};

use crate::kiln::Kiln;

#[test]
fn an_image_s_files_go_out_as_a_tar_and_come_back_as_an_image() {
    let Some(kiln) = Kiln::new("import and export") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN mkdir /d && echo kept > /d/f && ln -s f /d/l && chown 7:8 /d/f && rm -r /root\n",
    );
    let dir = context.path();
    kiln.build(dir, &["-t", "one", "."]);
    kiln.ok(dir, &["export", "-o", "one.tar", "one"]);
    let listed = std::process::Command::new("tar").arg("tf").arg(context.join("one.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("d/l\n") && !listed.contains("root/") && !listed.contains(".wh."), "{listed}");

    let words =
        ["import", "-c", "CMD [\"cat\", \"/d/l\"]", "-c", "ENV A=1", "-m", "by hand", "one.tar", "two:2"];
    let id = kiln.ok(dir, &words).stdout;
    assert_eq!(kiln.run(&["two:2"]), "kept\n");
    assert_eq!(kiln.run(&[id.trim(), "sh", "-c", "stat -c %u:%g /d/f; echo $A"]), "7:8\n1\n");
    let history = kiln.ok(dir, &["history", "--format", "{{.Comment}}", "two:2"]).stdout;
    assert_eq!(history, "by hand\n");
    // An image like any other: a base, and something to save.
    context.write("Dockerfile", "FROM two:2\nRUN test \"$A\" = 1\n");
    kiln.build(dir, &["."]);
    kiln.ok(dir, &["save", "-o", "two.tar", "two:2"]);

    std::fs::rename(context.join("one.tar"), context.join("plain.tar")).unwrap();
    assert!(std::process::Command::new("gzip").arg(context.join("plain.tar")).status().unwrap().success());
    let again = kiln.ok(dir, &["import", "plain.tar.gz"]).stdout;
    assert_eq!(kiln.run(&[again.trim(), "cat", "/d/f"]), "kept\n");

    // From a server, as `ADD` of an address does.
    let server = FileServer::start(dir);
    let url = format!("{}/plain.tar.gz?token=CANARY", server.url());
    kiln.ok(dir, &["import", "--platform", "linux/arm64", &url, "far"]);
    let format = ["--format", "{{.Comment}}", "far"];
    let history = kiln.ok(dir, &[&["history"], &format[..]].concat()).stdout;
    assert_eq!(history, format!("Imported from {}/plain.tar.gz\n", server.url()));
    let platform = kiln.ok(dir, &["inspect", "--format", "{{.Os}}/{{.Architecture}}", "far"]).stdout;
    assert_eq!(platform, "linux/arm64\n");
    let ended = kiln.call(dir, &["import", &format!("{}/none", server.url())]);
    assert_eq!(ended.status, 1);
    ended.says("404");
}

#[test]
fn what_is_no_tar_or_no_change_makes_no_image() {
    let Some(kiln) = Kiln::new("bad imports") else { return };
    let context = Context::with_dockerfile("").file("text", "this is no tar, however long it may be");
    let fails = |words: &[&str]| {
        let ended = kiln.call(context.path(), words);
        assert_ne!(ended.status, 0, "{words:?}");
        ended
    };
    fails(&["import", "text", "x"]);
    fails(&["import", "nowhere", "x"]).says("nowhere");
    fails(&["import", "http://127.0.0.1:1/x.tar", "x"]).says("127.0.0.1:1");
    fails(&["import", "-c", "RUN true", "text", "x"]).says("a change may only say something of the image");
    fails(&["import", "-c", "ENVV A=1", "text", "x"]).says("ENVV");
    fails(&["export", "nothing", "-o", "out.tar"]).says("no such image: nothing");
    assert!(!context.join("out.tar").exists());
    assert_eq!(kiln.ok(context.path(), &["images", "-q"]).stdout, "");
}

#[test]
fn two_images_are_compared_by_file_and_step() {
    let Some(kiln) = Kiln::new("diff") else { return };
    let context = Context::with_dockerfile("FROM busybox\nCOPY a b c /d/\nRUN echo old > /made\n")
        .file("a", "a")
        .file("b", "bb")
        .file("c", "ccc");
    kiln.build(context.path(), &["-t", "old", "."]);
    context.write("a", "A longer one");
    context.write(
        "Dockerfile",
        "FROM busybox\nCOPY a b c /d/\nRUN rm /d/b && chmod 600 /d/c\nRUN echo more > /more\n",
    );
    kiln.build(context.path(), &["-t", "new", "."]);
    let diff = |words: &[&str]| kiln.ok(context.path(), &[&["diff"], words].concat()).stdout;
    insta::assert_snapshot!(diff(&["old", "new"]), @r"
    CHANGE          OLD       NEW       PATH      STEP
    contents+size   1B        12B       /d/a      COPY a b c /d/ # buildkit
    removed         2B        -         /d/b      RUN /bin/sh -c rm /d/b && chmod 600 /d/c # buildkit
    mode            3B        3B        /d/c      RUN /bin/sh -c rm /d/b && chmod 600 /d/c # buildkit
    removed         4B        -         /made     RUN /bin/sh -c echo old > /made # buildkit
    added           -         5B        /more     RUN /bin/sh -c echo more > /more # buildkit
    ");
    let json = diff(&["--format", "json", "old", "new"]);
    assert_eq!(json.lines().count(), 5, "{json}");
    assert_eq!(diff(&["--format", "{{.Path}}", "old", "old"]), "");
}
