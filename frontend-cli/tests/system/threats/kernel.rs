//! H: the kernel as the last wall.

use super::Who;

#[test]
fn h2_a_step_makes_no_namespace_and_no_mount() {
    for who in Who::all("threat H2") {
        who.survives(
            "h2",
            "FROM busybox\nRUN ! unshare -U true && ! unshare -m true && ! mount -t tmpfs x /tmp && ! mount -o bind /bin /tmp\n\
             USER 1000\nRUN ! unshare -U true && ! unshare -Ur true\n",
        );
    }
}

#[test]
fn h5_shared_memory_and_limits_of_a_step_hold() {
    for who in Who::all("threat H5") {
        let dockerfile = "FROM busybox\nRUN ! dd if=/dev/zero of=/dev/shm/x bs=1M count=80 && ! dd if=/dev/zero of=/dev/x bs=1M count=80\n";
        who.survives("h5", dockerfile);
        let folder = who.folder("h5-files", &[("Dockerfile", "FROM busybox\nRUN test $(ulimit -n) = 77\n")]);
        who.build(&folder, &["--ulimit", "nofile=77:77", "."]);
    }
}
