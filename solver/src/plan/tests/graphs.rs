use super::*;

#[test]
fn one_stage() {
    assert_snapshot!(rendered("FROM busybox\nWORKDIR /src\nCOPY a b ./\nRUN make -C $PWD\nCMD [\"x\"]\n"), @r#"
    #0 [1/4] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [2/4] WORKDIR /src  <- #0
       mkdir /src 755 None
    #2 [internal] load build context
       context context
    #3 [3/4] COPY a b ./  <- #1 #2
       copy /a of input 1 to /src/
       copy /b of input 1 to /src/
    #4 [4/4] RUN make -C $PWD  <- #3
       exec ["/bin/sh", "-c", "make -C $PWD"] in /src env ["PATH=/bin"]
    result #4 for linux/amd64
    env ["PATH=/bin"]
    cwd /src
    cmd ["x"]
    history WORKDIR /src
    history COPY a b ./ # buildkit
    history RUN /bin/sh -c make -C $PWD # buildkit
    history (no layer) CMD ["x"]
    "#);
}

#[test]
fn a_builder_and_its_result() {
    assert_snapshot!(rendered(
        "FROM busybox AS build\nCOPY src /src\nRUN cc -o /app /src/*.c\n\
         FROM scratch AS unused\nCOPY nothing /\n\
         FROM scratch\nCOPY --from=build --chown=1000 /app /app\nENTRYPOINT [\"/app\"]\n"
    ), @r#"
    #0 [build 1/3] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [internal] load build context
       context context
    #2 [build 2/3] COPY src /src  <- #0 #1
       copy /src of input 1 to /src
    #3 [build 3/3] RUN cc -o /app /src/*.c  <- #2
       exec ["/bin/sh", "-c", "cc -o /app /src/*.c"] in / env ["PATH=/bin"]
    #4 [internal] scratch
       scratch
    #5 [stage-2 1/1] COPY --from=build --chown=1000 /app /app  <- #4 #3
       copy /app of input 1 to /app
    result #5 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /
    entrypoint ["/app"]
    history COPY --chown=1000 /app /app # buildkit
    history (no layer) ENTRYPOINT ["/app"]
    "#);
}

#[test]
fn a_stage_on_a_stage() {
    assert_snapshot!(rendered(
        "FROM busybox AS base\nARG V=1\nENV A=$V\nWORKDIR w\n\
         FROM base AS left\nRUN left\nFROM base AS right\nRUN right\n\
         FROM left\nCOPY --from=right /r /r\nRUN both $V\n"
    ), @r#"
    #0 [base 1/2] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [base 2/2] WORKDIR w  <- #0
       mkdir /w 755 None
    #2 [left 1/1] RUN left  <- #1
       exec ["/bin/sh", "-c", "left"] in /w env ["PATH=/bin", "V=1", "A=1"]
    #3 [right 1/1] RUN right  <- #1
       exec ["/bin/sh", "-c", "right"] in /w env ["PATH=/bin", "V=1", "A=1"]
    #4 [stage-3 1/2] COPY --from=right /r /r  <- #2 #3
       copy /r of input 1 to /r
    #5 [stage-3 2/2] RUN both 1  <- #4
       exec ["/bin/sh", "-c", "both $V"] in /w env ["PATH=/bin", "V=1", "A=1"]
    result #5 for linux/amd64
    env ["PATH=/bin", "A=1"]
    cwd /w
    cmd ["/bin/sh"]
    history (no layer) ARG V=1
    history (no layer) ENV A=1
    history WORKDIR /w
    history RUN |1 V=1 /bin/sh -c left # buildkit
    history COPY /r /r # buildkit
    history RUN |1 V=1 /bin/sh -c both $V # buildkit
    "#);
}

#[test]
fn equal_steps_of_two_stages_are_one() {
    assert_snapshot!(rendered(
        "FROM busybox AS a\nRUN same\nFROM busybox AS b\nRUN same\nRUN other\n\
         FROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n"
    ), @r#"
    #0 [a 1/2] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [a 2/2] RUN same  <- #0
       exec ["/bin/sh", "-c", "same"] in / env ["PATH=/bin"]
    #2 [b 3/3] RUN other  <- #1
       exec ["/bin/sh", "-c", "other"] in / env ["PATH=/bin"]
    #3 [internal] scratch
       scratch
    #4 [stage-2 1/2] COPY --from=a /x /a  <- #3 #1
       copy /x of input 1 to /a
    #5 [stage-2 2/2] COPY --from=b /x /b  <- #4 #2
       copy /x of input 1 to /b
    result #5 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /
    history COPY /x /a # buildkit
    history COPY /x /b # buildkit
    "#);
}

#[test]
fn linked_copies() {
    assert_snapshot!(rendered(
        "FROM busybox\nWORKDIR /w\nCOPY --link a ./\nCOPY --link --chmod=600 b /b\nADD --link c /c/\n"
    ), @r#"
    #0 [1/5] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [2/5] WORKDIR /w  <- #0
       mkdir /w 755 None
    #2 [internal] load build context
       context context
    #3 [internal] scratch
       scratch
    #4 [3/5] COPY --link a ./  <- #3 #2
       copy /a of input 1 to /w/
    #5 [3/5] LINK COPY --link a ./  <- #1 #4
       merge
    #6 [4/5] COPY --link --chmod=600 b /b  <- #5 #2
       copy /b of input 1 to /b
    #7 [5/5] ADD --link c /c/  <- #3 #2
       copy /c of input 1 to /c/
    #8 [5/5] LINK ADD --link c /c/  <- #6 #7
       merge
    result #8 for linux/amd64
    env ["PATH=/bin"]
    cwd /w
    cmd ["/bin/sh"]
    history WORKDIR /w
    history COPY a ./ # buildkit
    history COPY --chmod=600 b /b # buildkit
    history ADD c /c/ # buildkit
    "#);
}

#[test]
fn heredocs() {
    assert_snapshot!(rendered(
        "FROM busybox\nARG who=world\nRUN <<EOF\necho one\necho two\nEOF\nRUN <<EOF\n#!/bin/awk -f\nBEGIN {}\nEOF\n\
         RUN cat <<A >/a && cat <<B >/b\n1\nA\n2\nB\nCOPY <<hello.txt <<'raw.txt' /etc/\n\"$who\"\nhello.txt\n$who\nraw.txt\n"
    ), @r##"
    #0 [1/5] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [2/5] RUN <<EOF (echo one...)  <- #0
       exec ["/bin/sh", "-c", "echo one\necho two\n"] in / env ["PATH=/bin", "who=world"]
    #2 [3/5] RUN <<EOF (#!/bin/awk -f...)  <- #1
       exec ["/bin/sh", "-c", "/dev/pipes/EOF"] in / env ["PATH=/bin", "who=world"]
       script EOF "#!/bin/awk -f\nBEGIN {}\n"
    #3 [4/5] RUN cat <<A >/a && cat <<B >/b  <- #2
       exec ["/bin/sh", "-c", "cat <<A >/a && cat <<B >/b\n1\nA\n2\nB"] in / env ["PATH=/bin", "who=world"]
    #4 [5/5] COPY <<hello.txt <<'raw.txt' /etc/  <- #3
       write hello.txt "\"world\"\n" to /etc/
       write raw.txt "$who\n" to /etc/
    result #4 for linux/amd64
    env ["PATH=/bin"]
    cmd ["/bin/sh"]
    history (no layer) ARG who=world
    history RUN |1 who=world /bin/sh -c echo one
    echo two
     # buildkit
    history RUN |1 who=world /bin/sh -c /dev/pipes/EOF # buildkit
    history RUN |1 who=world /bin/sh -c cat <<A >/a && cat <<B >/b
    1
    A
    2
    B # buildkit
    history COPY <<hello.txt <<raw.txt /etc/ # buildkit
    "##);
}

#[test]
fn triggers_of_an_image() {
    assert_snapshot!(rendered("FROM onbuild\nRUN after\n")
        .replace(&Digest::of(b"onbuild").to_string(), "sha256:…"), @r#"
    #0 [1/4] FROM docker.io/library/onbuild:latest@sha256:…
       image docker.io/library/onbuild:latest
    #1 [internal] load build context
       context context
    #2 [2/4] ONBUILD COPY . /app  <- #0 #1
       copy / of input 1 to /app
    #3 [3/4] ONBUILD RUN make  <- #2
       exec ["/bin/sh", "-c", "make"] in / env ["PATH=/bin"]
    #4 [4/4] RUN after  <- #3
       exec ["/bin/sh", "-c", "after"] in / env ["PATH=/bin"]
    result #4 for linux/amd64
    env ["PATH=/bin"]
    cmd ["/bin/sh"]
    history COPY . /app # buildkit
    history RUN /bin/sh -c make # buildkit
    history RUN /bin/sh -c after # buildkit
    "#);
}

#[test]
fn triggers_of_a_stage() {
    assert_snapshot!(rendered(
        "FROM busybox AS tool\nRUN build\nFROM busybox AS parent\nONBUILD COPY --from=tool /t /t\nONBUILD ENV T=1\n\
         FROM parent AS child\nRUN child\nFROM child\nRUN grandchild\n"
    ), @r#"
    #0 [tool 1/2] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [tool 2/2] RUN build  <- #0
       exec ["/bin/sh", "-c", "build"] in / env ["PATH=/bin"]
    #2 [child 1/2] ONBUILD COPY --from=tool /t /t  <- #0 #1
       copy /t of input 1 to /t
    #3 [child 2/2] RUN child  <- #2
       exec ["/bin/sh", "-c", "child"] in / env ["PATH=/bin", "T=1"]
    #4 [stage-3 1/1] RUN grandchild  <- #3
       exec ["/bin/sh", "-c", "grandchild"] in / env ["PATH=/bin", "T=1"]
    result #4 for linux/amd64
    env ["PATH=/bin", "T=1"]
    cmd ["/bin/sh"]
    history COPY /t /t # buildkit
    history (no layer) ENV T=1
    history RUN /bin/sh -c child # buildkit
    history RUN /bin/sh -c grandchild # buildkit
    "#);
}

#[test]
fn mounts() {
    assert_snapshot!(rendered(
        "FROM busybox AS deps\nFROM busybox\nWORKDIR /w\nARG ID=npm\n\
         RUN --mount=target=ctx --mount=type=bind,from=deps,source=lib,target=/lib,rw \
         --mount=type=cache,id=$ID,target=.cache --mount=type=cache,target=/c/,from=deps,source=/seed,mode=0700 \
         --mount=type=tmpfs,target=/tmp --mount=type=secret,id=s --mount=type=secret,id=t,env=TOKEN \
         --mount=type=secret,id=r,target=rel/r --mount=type=ssh build $TOKEN\n"
    ), @r#"
    #0 [deps 1/1] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [stage-1 2/3] WORKDIR /w  <- #0
       mkdir /w 755 None
    #2 [internal] load build context
       context context
    #3 [stage-1 3/3] RUN --mount=target=ctx --mount=type=bind,from=deps,source=lib,target=/lib,rw --mount=type=cache,id=npm,target=.cache --mount=type=cache,target=/c/,from=deps,source=/seed,mode=0700 --mount=type=tmpfs,target=/tmp --mount=type=secret,id=s --mount=type=secret,id=t,env=TOKEN --mount=type=secret,id=r,target=rel/r --mount=type=ssh build ****  <- #1 #2 #0
       exec ["/bin/sh", "-c", "build $TOKEN"] in /w env ["PATH=/bin", "ID=npm", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]
       mount "/w/ctx" bind / of input 1, writable false
       mount "/lib" bind /lib of input 2, writable true
       mount "/w/.cache" Cache { id: "/npm", seed: None, source: "/", sharing: Shared, read_only: false, mode: 493, uid: 0, gid: 0 }
       mount "/c" Cache { id: "//c", seed: Some(InputIndex(2)), source: "/seed", sharing: Shared, read_only: false, mode: 448, uid: 0, gid: 0 }
       mount "/tmp" Tmpfs { size: None, read_only: false }
       mount "/run/secrets/s" Secret { id: "s", env: None, required: false, mode: 256, uid: 0, gid: 0 }
       mount "" Secret { id: "t", env: Some("TOKEN"), required: false, mode: 256, uid: 0, gid: 0 }
       mount "/w/rel/r" Secret { id: "r", env: None, required: false, mode: 256, uid: 0, gid: 0 }
       mount "/run/buildkit/ssh_agent.0" Ssh { id: "default", required: false, mode: 384, uid: 0, gid: 0 }
    result #3 for linux/amd64
    env ["PATH=/bin"]
    cwd /w
    cmd ["/bin/sh"]
    history WORKDIR /w
    history (no layer) ARG ID=npm
    history RUN |1 ID=npm /bin/sh -c build $TOKEN # buildkit
    "#);
}

#[test]
fn sources_that_are_fetched() {
    assert_snapshot!(rendered(
        "FROM scratch\nADD https://example.org/a.tar.gz?x=1 /dl/\n\
         ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src\nADD --unpack=true https://example.org/b.tgz local /x/\n"
    ), @r#"
    #0 [internal] scratch
       scratch
    #1 [1/3] ADD https://example.org/a.tar.gz?x=1 /dl/
       Http { url: "https://example.org/a.tar.gz?x=1", checksum: None }
    #2 [1/3] ADD https://example.org/a.tar.gz?x=1 /dl/  <- #0 #1
       copy /a.tar.gz of input 1 to /dl/
    #3 [2/3] ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src
       Git(GitSource { remote: "https://example.org/o/r.git", reference: "v1", subdir: "sub", keep_git_dir: true, checksum: None, submodules: true, times: Checkout, fetch_by_commit: false })
    #4 [2/3] ADD --keep-git-dir https://example.org/o/r.git#v1:sub /src  <- #2 #3
       copy / of input 1 to /src
    #5 [3/3] ADD --unpack=true https://example.org/b.tgz local /x/
       Http { url: "https://example.org/b.tgz", checksum: None }
    #6 [internal] load build context
       context context
    #7 [3/3] ADD --unpack=true https://example.org/b.tgz local /x/  <- #4 #5 #6
       copy /b.tgz of input 1 to /x/
       copy /local of input 2 to /x/
    result #7 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /
    history ADD https://example.org/a.tar.gz?x=1 /dl/ # buildkit
    history ADD https://example.org/o/r.git#v1:sub /src # buildkit
    history ADD https://example.org/b.tgz local /x/ # buildkit
    "#);
}

#[test]
fn shell_forms() {
    assert_snapshot!(rendered(
        "FROM busybox\nRUN [\"a\", \"b c\"]\nSHELL [\"/bin/bash\", \"-ec\"]\nRUN x | y\nENTRYPOINT run me\nCMD [\"arg\"]\n"
    ), @r#"
    #0 [1/3] FROM docker.io/library/busybox:latest@sha256:…
       image docker.io/library/busybox:latest
    #1 [2/3] RUN ["a", "b c"]  <- #0
       exec ["a", "b c"] in / env ["PATH=/bin"]
    #2 [3/3] RUN x | y  <- #1
       exec ["/bin/bash", "-ec", "x | y"] in / env ["PATH=/bin"]
    result #2 for linux/amd64
    env ["PATH=/bin"]
    entrypoint ["/bin/bash", "-ec", "run me"]
    cmd ["arg"]
    history RUN a b c # buildkit
    history (no layer) SHELL [/bin/bash -ec]
    history RUN /bin/bash -ec x | y # buildkit
    history (no layer) ENTRYPOINT ["/bin/bash" "-ec" "run me"]
    history (no layer) CMD ["arg"]
    "#);
}

#[test]
fn arguments() {
    let text = "ARG TAG=1 BASE=busybox\nFROM $BASE:$TAG\nARG TAG\nARG A=a B C=$A-$TARGETARCH\nARG TARGETARCH\n\
                RUN go\nENV A=env\nRUN again\n";
    let plan = plan_with(text, &with_args(&[("TAG", "2"), ("B", "b b"), ("HTTP_PROXY", "p")])).unwrap();
    assert_snapshot!(render(&plan).replace(&Digest::of(b"busybox:2").to_string(), "sha256:…"), @r#"
    #0 [1/3] FROM docker.io/library/busybox:2@sha256:…
       image docker.io/library/busybox:2
    #1 [2/3] RUN go  <- #0
       exec ["/bin/sh", "-c", "go"] in / env ["PATH=/bin", "TAG=2", "A=a", "B=b b", "C=a-", "TARGETARCH=amd64"]
    #2 [3/3] RUN again  <- #1
       exec ["/bin/sh", "-c", "again"] in / env ["PATH=/bin", "TAG=2", "B=b b", "C=a-", "TARGETARCH=amd64", "A=env"]
    result #2 for linux/amd64
    env ["PATH=/bin", "A=env"]
    cmd ["/bin/sh"]
    history (no layer) ARG TAG=2
    history (no layer) ARG A=a B=b b C=a-
    history (no layer) ARG TARGETARCH=amd64
    history RUN |5 TAG=2 A=a B=b b C=a- TARGETARCH=amd64 /bin/sh -c go # buildkit
    history (no layer) ENV A=env
    history RUN |5 TAG=2 A=env B=b b C=a- TARGETARCH=amd64 /bin/sh -c again # buildkit
    "#);
}

#[test]
fn named_contexts() {
    let text = "FROM busybox AS base\nRUN base\nFROM base\nCOPY --from=data /f /f\nCOPY --from=replaced /g /g\n\
                FROM busybox AS replaced\nRUN never\n";
    let text = format!("{text}FROM src\nCOPY --from=1 / /one\nCOPY --from=replaced /r /r\n");
    let alpine = NamedContext::Image("alpine:3".parse().unwrap());
    let contexts = [
        ("base", alpine),
        ("data", NamedContext::Tree),
        ("src", NamedContext::Tree),
        ("replaced", NamedContext::Tree),
    ];
    let text = text.replace("COPY --from=replaced /g /g\n", "");
    let plan = plan_with(&text, &with_contexts(&contexts)).unwrap();
    assert_snapshot!(render(&plan).replace(&Digest::of(b"alpine:3").to_string(), "sha256:…"), @r#"
    #0 [context base] docker.io/library/alpine:3@sha256:…
       image docker.io/library/alpine:3
    #1 [context data] load from client
       context data
    #2 [stage-1 1/1] COPY --from=data /f /f  <- #0 #1
       copy /f of input 1 to /f
    #3 [context replaced] load from client
       context replaced
    #4 [context src] load from client
       context src
    #5 [internal] scratch
       scratch
    #6 [internal] copy named context  <- #5 #4
       copy / of input 1 to /
    #7 [stage-3 1/2] COPY --from=1 / /one  <- #6 #2
       copy / of input 1 to /one
    #8 [stage-3 2/2] COPY --from=replaced /r /r  <- #7 #3
       copy /r of input 1 to /r
    result #8 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /
    history COPY / /one # buildkit
    history COPY /r /r # buildkit
    "#);
}

#[test]
fn parents_and_excludes() {
    assert_snapshot!(rendered("FROM scratch\nCOPY --parents --exclude=*.md a/./b/*.c ../x/ /out\nCOPY a/../../b /.\n"), @r#"
    #0 [internal] scratch
       scratch
    #1 [internal] load build context
       context context
    #2 [1/2] COPY --parents --exclude=*.md a/./b/*.c ../x/ /out  <- #0 #1
       copy /a/./b/*.c of input 1 to /out
       copy /x of input 1 to /out
    #3 [2/2] COPY a/../../b /.  <- #2 #1
       copy /b of input 1 to /.
    result #3 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /
    history COPY --parents a/./b/*.c ../x/ /out # buildkit
    history COPY a/../../b /. # buildkit
    "#);
}

#[test]
fn metadata() {
    let text = "FROM scratch\nLABEL a=\"b c\" d=e\nEXPOSE 80 53/udp 7000-7001\nVOLUME /v \"/w\"\nUSER 1:2\nWORKDIR /d\n\
                STOPSIGNAL SIGINT\nHEALTHCHECK --interval=90s --retries=2 CMD true\nONBUILD RUN x\nCMD a \"b\"\nMAINTAINER me\n";
    assert_snapshot!(rendered(text), @r#"
    #0 [internal] scratch
       scratch
    #1 [1/1] WORKDIR /d  <- #0
       mkdir /d 755 Some(Owner("1:2"))
    result #1 for linux/amd64
    env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    cwd /d
    user 1:2
    cmd ["/bin/sh", "-c", "a \"b\""]
    history (no layer) LABEL a=b c d=e
    history (no layer) EXPOSE [53/udp 7000/tcp 7001/tcp 80/tcp]
    history (no layer) VOLUME [/v /w]
    history (no layer) USER 1:2
    history WORKDIR /d
    history (no layer) STOPSIGNAL SIGINT
    history (no layer) HEALTHCHECK {Test:[CMD-SHELL true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}
    history (no layer) CMD ["/bin/sh" "-c" "a \"b\""]
    history (no layer) MAINTAINER me
    "#);
}
