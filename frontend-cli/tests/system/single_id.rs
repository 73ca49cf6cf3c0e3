//! Builds of an ordinary user without subordinate ids: owners and users are kept beside what the kernel knows, and the
//! images are those that root makes.

use kiln_fixtures::{FileServer, tutorial};

use crate::kiln::{Kiln, facts};
use crate::ordinary::Ordinary;

#[test]
fn users_that_a_step_makes_own_what_is_given_to_them() {
    let Some(root) = Kiln::new("single id users") else { return };
    let Some(user) = Ordinary::new("single id users").map(Ordinary::without_ranges) else { return };
    let dockerfile = "FROM debian\n\
        RUN useradd --create-home app && groupadd extra && usermod -aG extra app && touch /home/app/by-root \
            && chown -R app /home/app && chown app:extra /srv && chmod 2775 /srv && mkdir /srv/sub && touch /srv/file\n\
        COPY --chown=app:extra file /home/app/copied\n\
        USER app\n\
        WORKDIR /home/app/work\n\
        RUN id >/home/app/id && touch made && mkdir -p a/b && umask 077 && echo x >private && cp /etc/passwd a/b/ \
            && sed -i s/x/y/ private && mv made moved && tar -cf /home/app/tar private && test -O private\n\
        CMD stat -c '%u:%g %a %n' /etc/shadow /etc/gshadow /home/app/* /home/app/work/* a/b/passwd /srv /srv/* | sort -k3; cat /home/app/id\n";
    let folder = user.folder("users", &[("Dockerfile", dockerfile), ("file", "text")]);
    let line = ["-t", "users", "-o", "type=docker,dest=image.tar", "-o", "type=image", "."];
    user.build(&folder, &line);
    let own = user.run(&["users", "cat", "/home/app/id"]);
    root.ok(&folder, &["load", "-i", "image.tar"]);
    let by_user = root.run(&["users"]);
    insta::assert_snapshot!(by_user, @r"
    0:42 640 /etc/gshadow
    0:42 640 /etc/shadow
    1000:0 644 /home/app/by-root
    1000:1001 644 /home/app/copied
    1000:1000 644 /home/app/id
    1000:1000 600 /home/app/tar
    1000:1000 755 /home/app/work
    1000:1000 755 /home/app/work/a
    1000:1000 644 /home/app/work/moved
    1000:1000 600 /home/app/work/private
    1000:1001 2775 /srv
    0:1001 644 /srv/file
    0:1001 2755 /srv/sub
    1000:1000 600 a/b/passwd
    uid=1000(app) gid=1000(app) groups=1000(app),1001(extra)
    ");
    assert!(by_user.ends_with(&own));
    // The whole image is what root makes of the same file.
    root.build(&folder, &line);
    assert_eq!(root.run(&["users"]), by_user);
}

#[test]
fn apt_drops_its_rights_and_packages_bring_users_of_their_own() {
    let Some(root) = Kiln::new("single id apt") else { return };
    let Some(user) = Ordinary::new("single id apt").map(Ordinary::without_ranges) else { return };
    let dockerfile = "FROM debian\n\
        RUN apt-get update && apt-get install -y --no-install-recommends sudo && useradd -m app \
            && echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app\n\
        USER app\n\
        RUN sudo sh -c 'id -u >/by-sudo; chown app /by-sudo' && id -u >/tmp/by-app && ! touch /etc/not-mine\n\
        CMD stat -c '%u:%g %a %n' /usr/bin/sudo /by-sudo /tmp/by-app /etc/sudoers /var/cache/apt/archives/partial /var/lib/apt/lists/partial; cat /by-sudo /tmp/by-app\n";
    let folder = user.folder("apt", &[("Dockerfile", dockerfile)]);
    let built = user.build(&folder, &["-t", "apt", "-o", "type=docker,dest=image.tar", "."]);
    assert!(!built.stderr.contains("unsandboxed"), "apt kept its rights\n{}", built.stderr);
    root.ok(&folder, &["load", "-i", "image.tar"]);
    let by_user = root.run(&["apt"]);
    root.build(&folder, &["-t", "apt", "."]);
    assert_eq!(root.run(&["apt"]), by_user);
    assert!(
        by_user.starts_with("0:0 4755 /usr/bin/sudo\n1000:0 644 /by-sudo\n1000:1000 644 /tmp/by-app\n"),
        "{by_user}"
    );
}

#[test]
fn tutorials_build_as_with_ranges() {
    let Some(user) = Ordinary::new("single id tutorials").map(Ordinary::without_ranges) else { return };
    let app = user.copy_of(&tutorial("app"), "app");
    let line = ["-t", "hello", "-f", "Dockerfile.dev", "--build-arg", "UID=4711", "."];
    assert_eq!(user.build(&app, &line).steps(), (5, 0));
    assert_eq!(user.run(&["hello"]), "hello from numpy 45\ndevelopment build for uid 4711\n");
    assert_eq!(user.build(&app, &line).steps(), (0, 5));

    let folder = user.copy_of(&tutorial("user"), "user");
    user.build(&folder, &["-t", "user", "--build-arg", "UID=1234", "."]);
    assert_eq!(user.run(&["user"]), "1234\nworker\n/home/worker/project\nmade-by-worker\nnotes\n");

    let folder = user.copy_of(&tutorial("entrypoint"), "entrypoint");
    user.build(&folder, &["-t", "entry", "."]);
    let id = user.run(&["-e", "UID=1001", "entry"]);
    assert!(id.starts_with("uid=1001(user) gid=1001(user)"), "{id}");

    let folder = user.copy_of(&tutorial("notebook"), "notebook");
    user.build(&folder, &["-t", "notebook", "."]);
    assert_eq!(user.run(&["notebook"]), "all there for 1000 /home/jovyan\n");

    let folder = user.copy_of(&tutorial("jupyter"), "jupyter");
    let server = FileServer::start(&folder.join("scripts"));
    let burl = format!("BURL={}", server.url());
    user.build(&folder, &["-t", "jupyter", "--network=host", "--build-arg", &burl, "."]);
    assert_eq!(user.run(&["jupyter"]), "start.sh as 1000 in /home/jovyan with en_US.UTF-8: notebook\n");
    let modes = user.run(&["jupyter", "stat", "-c", "%a %U %g %n", "/opt/app", "/home/jovyan/work"]);
    assert_eq!(modes, "6775 jovyan 100 /opt/app\n6775 jovyan 100 /home/jovyan/work\n");

    let folder = user.copy_of(&tutorial("conda"), "conda");
    let line = ["-t", "conda", "--file", "../../images/Dockerfile", "--build-arg", "uid=4321", "../"];
    user.build(&folder.join("project/docker"), &line);
    assert_eq!(user.run(&["conda", "id", "-u"]), "tool activate /home/analyst/env\n4321\n");
}

#[test]
fn who_a_process_is_goes_to_its_children_and_cannot_be_taken_back() {
    let Some(user) = Ordinary::new("single id processes").map(Ordinary::without_ranges) else { return };
    let dockerfile = "FROM debian\n\
        RUN test $(setpriv --reuid 7 --regid 8 --groups 9,10 sh -c 'id -u; id -g; id -G; (sleep 0; id -u) & wait' | tr '\\n' . | tr ' ' ,) = 7.8.8,9,10.7.\n\
        RUN setpriv --reuid 7 --clear-groups sh -c '! setpriv --reuid 0 true 2>/dev/null && ! chown 0 /tmp && ! touch /etc/x && touch /tmp/x'\n\
        RUN test \"$(stat -c %u:%g /tmp/x)\" = 7:0\n\
        RUN setpriv --reuid 7 --clear-groups sh -c '(setsid sh -c \"sleep 0.2; touch /tmp/orphan; : >/tmp/done\" &) ; exit 0'; \
            while ! test -e /tmp/done; do sleep 0.05; done; test \"$(stat -c %u /tmp/orphan)\" = 7\n\
        RUN chmod 4755 /usr/bin/id && chown 0 /usr/bin/id && test \"$(stat -c %a /usr/bin/id)\" = 755\n\
        RUN ln -s /dev/stdout /log && chown -h 5:5 /log && chown 5:5 /dev/stdout\n\
        RUN mkdir /jail /jail/tmp && cp /bin/true /jail && chown 3:4 /jail/true && test \"$(stat -c %u /jail/true)\" = 3\n";
    let folder = user.folder("processes", &[("Dockerfile", dockerfile)]);
    user.build(&folder, &["-t", "processes", "."]);
}

#[test]
fn a_hostile_step_gets_nothing_of_the_hosts_by_the_calls_that_are_answered() {
    let Some(user) = Ordinary::new("single id attacks").map(Ordinary::without_ranges) else { return };
    let sentinel = user.folder("sentinel", &[("file", "untouched"), ("dir/x", "untouched")]);
    // An attribute written beside a file changes its time of change.
    let before = facts(&sentinel);
    let at = sentinel.display();
    // Links that lead out, by paths, through procfs, and from a directory outside of a new root.
    let dockerfile = format!(
        "FROM debian\n\
         RUN ln -s /../../..{at} /out && ln -s {at}/file /abs && ! chown 5 /out/file && ! chown 5 /abs && ! chown 5 {at}/file\n\
         RUN for p in /proc/[0-9]*/root /proc/[0-9]*/cwd; do ! test -e $p{at}/file || exit 9; chown 5 $p/../../..{at}/file 2>/dev/null && exit 8; done; true\n\
         RUN mkdir -p /jail && cp -a /bin /lib* /usr /jail/ 2>/dev/null; cd / && chroot /jail sh -c 'cd ../../..; chown 5 ../../..{at}/file; mkdir -p ../../..{at}/made' ; test -d /jail{at}/made\n\
         USER 1000\n\
         RUN cd /tmp && ! touch /out/new && mkdir d && ln -s {at} d/l && ! mkdir d/l/new && ! touch d/l/new\n"
    );
    let folder = user.folder("hostile", &[("Dockerfile", &dockerfile)]);
    let ended = user.call(&folder, &["build", "--progress=plain", "."]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(facts(&sentinel), before);
}
