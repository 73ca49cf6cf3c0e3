//! What steps see and leave where nothing in the Dockerfile says so: as with BuildKit, by which each was tried.

use kiln_fixtures::Context;

use crate::kiln::{Kiln, is_root_to};

/// What `cat /seen` says in an image of this Dockerfile.
fn seen(kiln: &Kiln, dockerfile: &str) -> String {
    let context = Context::with_dockerfile(dockerfile);
    std::fs::create_dir(context.path().join("d")).unwrap();
    std::fs::write(context.path().join("d/in"), "").unwrap();
    std::fs::write(context.path().join("f"), "").unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::open(context.path().join("d")).unwrap().set_modified(time).unwrap();
    kiln.build(context.path(), &["-t", "seen", "."]);
    kiln.run(&["seen", "cat", "/seen"])
}

#[test]
fn a_cache_that_is_mounted_twice_is_one_directory() {
    let Some(kiln) = Kiln::new("a cache twice") else { return };
    for sharing in ["shared", "private", "locked"] {
        let mount =
            |target: &str| format!("--mount=type=cache,id={sharing},target={target},sharing={sharing}");
        let dockerfile = format!(
            "FROM busybox\nRUN {} {} echo {sharing} > /a/f; cat /b/f > /seen\n",
            mount("/a"),
            mount("/b")
        );
        assert_eq!(seen(&kiln, &dockerfile), format!("{sharing}\n"));
    }
    // As strictly as one of them says.
    let both = "FROM busybox\n\
                RUN --mount=type=cache,id=c,target=/a --mount=type=cache,id=c,target=/b,sharing=locked echo x > /a/f; cat /b/f > /seen\n";
    assert_eq!(seen(&kiln, both), "x\n");
}

#[test]
fn a_cache_begins_as_a_file_or_a_part_of_it_is_mounted() {
    let Some(kiln) = Kiln::new("a cache of a file") else { return };
    let seed = "FROM busybox AS seed\n\
        RUN mkdir -p /d && echo one > /d/f && chmod 640 /d/f && chown 5:6 /d/f && ln -s f /d/l\nFROM busybox\n";
    let mount = |target: &str, source: &str| {
        format!("RUN --mount=type=cache,id=file,target={target},from=seed,source={source}")
    };
    let (first, again, link) = (mount("/c", "/d/f"), mount("/e", "/d/f"), mount("/e", "/d/l"));
    let dockerfile = format!(
        "{seed}{first} stat -c '%F %a %u:%g' /c > /seen && cat /c >> /seen && echo more >> /c\n\
         {again} cat /e >> /seen\n{link} cat /e >> /seen\n"
    );
    assert_eq!(seen(&kiln, &dockerfile), "regular file 640 5:6\none\none\nmore\none\n");

    let mount = "--mount=type=cache,id=parts,target=/c";
    let dockerfile = format!(
        "FROM busybox\nRUN {mount} mkdir -p /c/p/q && echo deep > /c/p/q/f && echo top > /c/t && ln -s /p /c/l\n\
         RUN {mount},source=p ls /c > /seen && cat /c/q/f >> /seen\n\
         RUN {mount},source=/p/q/../q/f cat /c >> /seen\n\
         RUN {mount},source=../../l echo new > /c/n && ls /c >> /seen\n\
         RUN {mount} cat /c/p/n >> /seen\n"
    );
    assert_eq!(seen(&kiln, &dockerfile), "q\ndeep\ndeep\nn\nq\nnew\n");

    let context = Context::with_dockerfile(&format!("FROM busybox\nRUN {mount},source=/none true\n"));
    kiln.call(context.path(), &["build", "."]).says("opening the source of the mount /c: No such file");
}

#[test]
fn mounts_have_permissions_only_and_memory_has_those_of_what_it_covers() {
    let Some(kiln) = Kiln::new("modes of mounts") else { return };
    let dockerfile = "FROM busybox\n\
        RUN mkdir -m 2750 /covered && chown 5:6 /covered && ln -s covered /link\n\
        RUN --mount=type=tmpfs,target=/covered --mount=type=tmpfs,target=/new stat -c '%a %u %n' /covered /new > /seen\n\
        RUN --mount=type=tmpfs,target=/link stat -c '%a %u %n' /covered >> /seen\n\
        RUN --mount=type=cache,target=/cache,mode=1777 stat -c '%a %u %n' /cache >> /seen\n";
    assert_eq!(seen(&kiln, dockerfile), "2750 0 /covered\n1777 0 /new\n2750 0 /covered\n777 0 /cache\n");
}

#[test]
fn mounts_take_what_buildah_has() {
    let Some(kiln) = Kiln::new("buildah's keys of mounts") else { return };
    let dockerfile = "FROM busybox\nRUN touch /seen && chmod 666 /seen\nUSER 7:7\n\
        RUN --mount=type=cache,target=/c,U,noexec,Z --mount=type=tmpfs,target=/t,U,noexec,nosuid \
            --mount=from=busybox,source=/bin,target=/s,relabel=shared,private,noexec,nodev \
            stat -c '%u:%g %n' /c /t > /seen && cp /bin/true /c && cp /bin/true /t && \
            for p in /c /t /s; do $p/true 2>&1; echo $? >> /seen; done\n\
        RUN --mount=type=cache,target=/c,uid=7,gid=7 /c/true && echo started >> /seen\n";
    assert_eq!(seen(&kiln, dockerfile), "7:7 /c\n7:7 /t\n126\n126\n126\nstarted\n");
}

#[test]
fn what_a_bind_mount_shows_can_be_the_user_s() {
    let Some(kiln) = Kiln::new("binds of the step's user") else { return };
    let dockerfile = "FROM busybox AS made\nRUN mkdir /m && echo one > /m/f && chmod 600 /m/f && ln -s f /m/l\n\
        FROM busybox\nRUN touch /seen && chmod 666 /seen\nUSER 7:8\n\
        RUN --mount=from=made,source=/m,target=/m,U,no-dereference --mount=target=/ctx,U,rw \
            stat -c '%u:%g %a %n' /m /m/f /ctx/d > /seen && cat /m/l >> /seen && touch /ctx/d/new\n\
        RUN --mount=from=made,source=/m,target=/m cat /m/f 2>&1 | cut -d: -f3 >> /seen\n";
    assert_eq!(
        seen(&kiln, dockerfile),
        "7:8 755 /m\n7:8 600 /m/f\n7:8 755 /ctx/d\none\n Permission denied\n"
    );
}

#[test]
fn an_image_s_layers_may_be_made_one() {
    let Some(kiln) = Kiln::new("squashed layers") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN mkdir -m 1777 /d && echo one > /d/f && ln /d/f /d/hard && ln -s f /d/soft && chown 5:6 /d/f && \
         touch -d @1000000000 /d/f\nRUN rm -r /tmp && chmod 4755 /d && chmod 711 /\nENV A=b\nCMD [\"true\"]\n",
    );
    // The time of `/` is that of the container's start.
    let facts = "cd / && stat -c '%n %a %u:%g' / && stat -c '%n %a %u:%g %h %s %Y %F' d/* bin/busybox && \
        ls -d /tmp 2>&1; echo $A";
    let image = |flags: &[&str]| {
        kiln.build(context.path(), &[flags, &["-t", "s", "."]].concat());
        let config = kiln.ok(context.path(), &["inspect", "--format", "{{json .RootFS}}", "s"]).stdout;
        (kiln.run(&["s", "sh", "-c", facts]), config.matches("sha256:").count())
    };
    let (seen, layers) = image(&[]);
    assert_eq!(layers, 3);
    assert_eq!(image(&["--squash"]), (seen, 1));
}

#[test]
fn a_step_with_all_rights_has_the_devices_that_programs_of_the_kernel_need() {
    if !is_root_to("make device nodes that work", "devices of insecure steps") {
        return;
    }
    let Some(kiln) = Kiln::new("devices of insecure steps") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\n\
         RUN --security=insecure cd /dev && stat -c '%n %a %t,%T' kmsg fuse net/tun loop-control loop0 > /seen && \
         : < /dev/kmsg\n\
         RUN test ! -e /dev/kmsg && test ! -e /dev/loop0\n",
    );
    kiln.build(context.path(), &["--allow", "security.insecure", "-t", "seen", "."]);
    let expected = "kmsg 666 1,b\nfuse 666 a,e5\nnet/tun 666 a,c8\nloop-control 666 a,ed\nloop0 666 7,0\n";
    assert_eq!(kiln.run(&["seen", "cat", "/seen"]), expected);
}

#[test]
fn an_empty_home_is_none() {
    let Some(kiln) = Kiln::new("an empty home") else { return };
    let dockerfile = "FROM busybox\nENV HOME=\nRUN echo $HOME > /seen; env | grep -c ^HOME= >> /seen\n";
    assert_eq!(seen(&kiln, dockerfile), "/root\n1\n");
}

#[test]
fn the_first_step_of_an_image_without_directories_for_the_kernel_leaves_them() {
    let Some(kiln) = Kiln::new("directories of the kernel") else { return };
    let dockerfile = "FROM busybox AS tools\nFROM scratch AS bare\nCOPY --from=tools /bin /bin\n\
        RUN [\"/bin/busybox\", \"true\"]\n\
        FROM tools\nCOPY --from=bare / /bare\nRUN cd /bare; stat -c '%a %u %n' dev proc sys > /seen\n";
    assert_eq!(seen(&kiln, dockerfile), "755 0 dev\n755 0 proc\n755 0 sys\n");
}

#[test]
fn a_directory_has_the_time_of_the_one_whose_contents_it_got() {
    let Some(kiln) = Kiln::new("times of directories") else { return };
    let dockerfile = "FROM busybox\nRUN mkdir -m 700 /there\n\
        COPY d /new\nCOPY d /there\nCOPY d f /file-last/\nCOPY f d /file-first/\nCOPY --parents ./d/./in /pivot/\n\
        RUN cd /; stat -c '%Y %n' new there file-first pivot > /seen; stat -c %a there >> /seen; \
        [ $(stat -c %Y file-last) -gt 1000000000 ] && echo now >> /seen\n";
    assert_eq!(
        seen(&kiln, dockerfile),
        "1000000000 new\n1000000000 there\n1000000000 file-first\n1000000000 pivot\n700\nnow\n"
    );
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let Some(kiln) = Kiln::new("impossible mounts") else { return };
    for (mount, hint) in [
        ("source=f,target=/etc", "hint: the target is a directory of the image, and a file hides files only"),
        (
            "target=/etc/passwd",
            "hint: the target is a file of the image, and a directory hides directories only",
        ),
        ("type=tmpfs,target=/proc/x", "hint: nothing can be mounted in /proc"),
        ("type=tmpfs, target=/x", "hint: between options there is one comma, and no space"),
    ] {
        let context = Context::with_dockerfile(&format!("FROM busybox\nRUN --mount={mount} true\n"));
        std::fs::write(context.path().join("f"), "").unwrap();
        kiln.call(context.path(), &["build", "."]).says(hint);
    }
}

/// The files in each layer of an image of this Dockerfile above its base's one layer.
fn files_in_layers(kiln: &Kiln, dockerfile: &str) -> Vec<Vec<String>> {
    let context = Context::with_dockerfile(dockerfile);
    let place = context.path().join("out");
    let output = format!(
        "type=oci,tar=false,compression=uncompressed,force-compression=true,dest={}",
        place.display()
    );
    kiln.build(context.path(), &["-o", &output, "."]);
    let blob = |value: &serde_json::Value| {
        place.join("blobs").join(value["digest"].as_str().unwrap().replace(':', "/"))
    };
    let read = |path| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap();
    let manifest = read(blob(&read(place.join("index.json"))["manifests"][0]));
    let layers = manifest["layers"].as_array().unwrap().iter().skip(1);
    let listed = layers.map(|layer| {
        let tar = std::process::Command::new("tar").arg("-tf").arg(blob(layer)).output().unwrap();
        assert!(tar.status.success(), "{tar:?}");
        let names = String::from_utf8(tar.stdout).unwrap();
        names.lines().filter(|name| !name.ends_with('/')).map(str::to_owned).collect()
    });
    listed.collect()
}

#[test]
fn what_a_step_leaves_as_it_was_is_not_in_its_layer() {
    let Some(kiln) = Kiln::new("nothing changed") else { return };
    let dockerfile = "FROM busybox\n\
        RUN mkdir -p /d/e && echo a > /d/a && echo b > /d/e/b && ln -s a /d/l && chown -Rh 7 /d && chmod 640 /d/a\n\
        RUN chown -Rh 7 /d && chown -h 7 /d/l && chmod 640 /d/a && : >> /d/e/b\n\
        RUN mv /d/a /x && mv /x /d/a && echo c >> /d/e/b && chown 8 /d/e/b && chown -h 7 /d/l\n\
        RUN cp -a /d/e /e && rm -r /d/e && mv /e /d/e\n";
    let [first, second, third, fourth] = &files_in_layers(&kiln, dockerfile)[..] else { panic!() };
    assert_eq!(first, &["d/a", "d/e/b", "d/l"]);
    assert_eq!(second, &Vec::<String>::new());
    assert_eq!(third, &["d/e/b"]);
    // The directory is another one, which shows nothing of what was there before.
    assert_eq!(fourth, &["d/e/.wh..wh..opq", "d/e/b"]);
}
