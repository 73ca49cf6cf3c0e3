//! The shapes of Dockerfiles that tutorials have, with apt and pip really installing.

use std::path::Path;

use kiln_fixtures::{Context, FileServer, tutorial};

use crate::kiln::Kiln;

#[test]
fn a_python_app_builds_from_its_development_dockerfile_and_the_second_build_is_cached() {
    let Some(kiln) = Kiln::new("tutorial app") else { return };
    let app = tutorial("app");
    let line = ["-t", "hello", "-f", "Dockerfile.dev", "--build-arg", "UID=4711", "."];
    let first = kiln.build(&app, &line);
    assert_eq!(first.steps(), (5, 0), "{}", first.stderr);
    assert_eq!(kiln.run(&["hello"]), "hello from numpy 45\ndevelopment build for uid 4711\n");

    let again = kiln.build(&app, &line);
    assert_eq!(again.steps(), (0, 5), "{}", again.stderr);
    // Nothing new gives the same image, not one that differs in its time only.
    let images = kiln.ok(&app, &["images", "-q", "--no-trunc", "-a"]).stdout;
    assert_eq!(images.lines().count(), 2, "hello and its base: {images}");

    // Another file than the one edited is not installed again.
    let edited = Context::copy_of(&app).file("app.py", "print('edited')\n");
    let third = kiln.build(edited.path(), &line);
    assert_eq!(third.steps(), (2, 3), "{}", third.stderr);
    assert_eq!(kiln.run(&["hello"]), "edited\ndevelopment build for uid 4711\n");
}

#[test]
fn a_user_with_the_callers_id_owns_what_later_steps_make() {
    let Some(kiln) = Kiln::new("tutorial user") else { return };
    kiln.build(&tutorial("user"), &["-t", "user", "--build-arg", "UID=1234", "."]);
    assert_eq!(kiln.run(&["user"]), "1234\nworker\n/home/worker/project\nmade-by-worker\nnotes\n");
    let listing = kiln.run(&["user", "stat", "-c", "%u %n", "made-by-worker", "."]);
    assert_eq!(listing, "1234 made-by-worker\n1234 .\n");
}

#[test]
fn an_entrypoint_script_makes_the_user_that_run_asks_for() {
    let Some(kiln) = Kiln::new("tutorial entrypoint") else { return };
    kiln.build(&tutorial("entrypoint"), &["-t", "entry", "."]);
    let id = kiln.run(&["-e", "UID=1001", "entry"]);
    assert!(id.starts_with("uid=1001(user) gid=1001(user)"), "{id}");
}

#[test]
fn a_notebook_stack_builds_on_a_base_named_by_an_argument() {
    let Some(kiln) = Kiln::new("tutorial notebook") else { return };
    kiln.build(&tutorial("notebook"), &["-t", "notebook", "."]);
    assert_eq!(kiln.run(&["notebook"]), "all there for 1000 /home/jovyan\n");
}

#[test]
fn a_jupyter_base_has_its_locale_scripts_and_group_permissions() {
    let Some(kiln) = Kiln::new("tutorial jupyter") else { return };
    let folder = tutorial("jupyter");
    let server = FileServer::start(&folder.join("scripts"));
    let burl = format!("BURL={}", server.url());
    kiln.build(&folder, &["-t", "jupyter", "--network=host", "--build-arg", &burl, "."]);
    assert_eq!(kiln.run(&["jupyter"]), "start.sh as 1000 in /home/jovyan with en_US.UTF-8: notebook\n");
    let modes = kiln.run(&["jupyter", "stat", "-c", "%a %U %g %n", "/opt/app", "/home/jovyan/work"]);
    assert_eq!(modes, "6775 jovyan 100 /opt/app\n6775 jovyan 100 /home/jovyan/work\n");
    let config = kiln.ok(Path::new("/"), &["inspect", "jupyter"]).stdout;
    for part in ["\"8888/tcp\"", "\"tini\"", "PATH=/opt/app/bin:/usr/local/sbin", "fixtures@example.org"] {
        assert!(config.contains(part), "{part} in {config}");
    }
}

#[test]
fn a_conda_image_reads_the_profile_that_earlier_steps_wrote() {
    let Some(kiln) = Kiln::new("tutorial conda") else { return };
    let folder = tutorial("conda");
    let line = ["-t", "conda", "--file", "../../images/Dockerfile", "--build-arg", "uid=4321", "../"];
    kiln.build(&folder.join("project/docker"), &line);
    let output = kiln.run(&["conda"]);
    assert_eq!(output, "tool activate /home/analyst/env\ntool install --file /tmp/environment.yml\n");
    assert_eq!(kiln.run(&["conda", "id", "-u"]), "tool activate /home/analyst/env\n4321\n");
}
