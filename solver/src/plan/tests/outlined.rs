use super::*;

fn outlined(text: &str, request: &PlanRequest) -> Outline {
    outline(&parse(text), request, &mut |name, _| Ok(image(&name.familiar(), &[]))).unwrap()
}

const TEXT: &str = "\
# BASE the image to start from
ARG BASE=busybox:$TAG
# TAG its version
ARG TAG=1
ARG TAGS=$TAG
ARG UNUSED=1
ARG MODE=fast
FROM busybox:$TAGS AS tools
ARG ONLY_TOOLS
RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=npm,required=true true
FROM scratch AS unneeded
ARG NEVER=1
# app what ships
FROM busybox AS app
# LEVEL how loud
ARG LEVEL=$MODE TARGETARCH
ARG MODE
COPY --from=tools /a /b
RUN --mount=type=ssh --mount=type=secret,id=late,env=LATE true
";

#[test]
fn the_target_and_what_it_needs() {
    let outline = outlined(TEXT, &with_args(&[("LEVEL", "9")]));
    assert_eq!((outline.name.as_str(), outline.description.as_deref()), ("app", Some("what ships")));
    let args = outline.args.iter().map(|arg| {
        let (value, about) = (arg.value.as_deref(), arg.description.as_deref());
        format!("{} {} {:?} {}\n", arg.span.line, arg.name, value, about.unwrap_or("-"))
    });
    assert_snapshot!(args.collect::<String>(), @r#"
    4 TAG Some("1") its version
    5 TAGS Some("1") -
    7 MODE Some("fast") -
    9 ONLY_TOOLS None -
    16 LEVEL Some("9") how loud
    "#);
    let mounts = |list: &[OutlineMount]| {
        let lines = list.iter().map(|mount| format!("{} {} {}", mount.span.line, mount.id, mount.required));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(mounts(&outline.secrets), ["10 npm true", "19 late false"]);
    assert_eq!(mounts(&outline.ssh), ["19 default false"]);
    assert_eq!(mounts(&outline.caches), ["10 /root/.cache false"]);
}

#[test]
fn another_target_has_its_own() {
    let request = PlanRequest { target: Some("unneeded".into()), ..request() };
    let outline = outlined(TEXT, &request);
    let names: Vec<_> = outline.args.iter().map(|arg| arg.name.as_str()).collect();
    assert_eq!(names, ["NEVER"]);
    assert!(outline.secrets.is_empty());
}
