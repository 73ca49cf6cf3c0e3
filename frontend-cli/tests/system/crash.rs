//! A kill at any moment leaves a store that works.

use std::time::Duration;

use kiln_fixtures::Context;

use crate::kiln::{Kiln, nothing_is_in_progress};

const KILLS: u64 = 50;

#[test]
fn fifty_kills_at_random_moments_are_each_followed_by_a_good_build() {
    let Some(kiln) = Kiln::new("fifty kills") else { return };
    let text = "FROM busybox\nARG ROUND\nCOPY data /data\n\
        RUN for i in 1 2 3 4 5; do mkdir /d$i; for j in 1 2 3 4 5 6; do echo $ROUND $i $j > /d$i/$j; done; done\n\
        RUN rm -r /d3 && sha256sum /data/* > /sums\n\
        RUN --mount=type=cache,target=/c echo $ROUND > /c/round && cp /c/round /round\n";
    let context = Context::with_dockerfile(text);
    for i in 0..20 {
        context.write(&format!("data/{i}"), vec![i; 40_000]);
    }
    // A fixed sequence, so that a failure can be repeated as far as the scheduler allows.
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for round in 0..KILLS {
        let arg = format!("ROUND={round}");
        let line = ["build", "--progress=plain", "-t", "crash", "--build-arg", &arg, "."];
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let delay = Duration::from_micros((random >> 33) % 150_000);
        let mut build = kiln.command(context.path(), &line);
        let mut build =
            build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Not waiting for anything: the moment of the kill is what is being varied.
        std::thread::sleep(delay);
        build.kill().unwrap();
        build.wait().unwrap();

        kiln.ok(context.path(), &line);
        let check = "cat /round && cat /d1/1 /d5/6 && ls -d /d? | wc -l && sha256sum -c /sums | grep -c OK";
        let output = kiln.run(&["crash", "sh", "-c", check]);
        assert_eq!(output, format!("{round}\n{round} 1 1\n{round} 5 6\n4\n20\n"), "round {round}");
    }
    kiln.is_sound();
    nothing_is_in_progress(&kiln.root(), || _ = kiln.ok(context.path(), &["images"]));
}
