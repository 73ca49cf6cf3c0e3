//! H: the kernel as the last wall.

use super::Who;

#[test]
fn h2_a_step_makes_no_namespace_and_no_mount() {
    let (refused, denied) = ("Operation not permitted", "permission denied");
    for who in Who::all("threat H2") {
        let commands = [
            ("unshare -U true", refused),
            ("unshare -m true", refused),
            ("umount /proc", refused),
            ("hostname other", refused),
            ("mount -t tmpfs x /tmp", denied),
            ("mount -o bind /bin /tmp", denied),
            ("mount -o remount,rw /proc/sys", denied),
        ];
        who.denies("h2", "", &commands);
        who.denies("h2-user", "USER 1000", &[("unshare -U true", refused), ("unshare -Ur true", refused)]);
    }
}

#[test]
fn h5_shared_memory_and_limits_of_a_step_hold() {
    for who in Who::all("threat H5") {
        let full = "No space left on device";
        let fill = |place: &str| format!("dd if=/dev/zero of={place} bs=1M count=80");
        who.denies("h5", "", &[(&fill("/dev/shm/x"), full), (&fill("/dev/x"), full)]);
        let folder = who.folder("h5-files", &[("Dockerfile", "FROM busybox\nRUN test $(ulimit -n) = 77\n")]);
        who.build(&folder, &["--ulimit", "nofile=77:77", "."]);
    }
}

/// Calls sockets into being in every way there is while the step's network is connected: those that the filter refuses, through
/// a ring, by processes that are killed meanwhile, and by one that stays behind.
const ASK: &str = r#"
import ctypes, errno, os, signal, socket, threading, time
libc = ctypes.CDLL(None, use_errno=True)
SOCKET, SECCOMP, RING = {'x86_64': (41, 317, 425), 'aarch64': (198, 277, 425)}[os.uname().machine]
def refused(number, *words):
    assert libc.syscall(number, *words) < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), (number, words)
for family in (38, 40):
    refused(SOCKET, family, socket.SOCK_STREAM, 0)
refused(RING, 8, ctypes.create_string_buffer(256))
# A listener of the step's own beside the engine's.
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
allow = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 0, 0, 0xff, 0x7f]), 8)
libc.prctl(38, 1, 0, 0, 0)
listener = libc.syscall(SECCOMP, 1, 8, ctypes.byref(Program(1, ctypes.addressof(allow))))
print('listener', listener, errno.errorcode.get(ctypes.get_errno()))
for _ in range(60):
    child = os.fork()
    if child == 0:
        def ask():
            while True: socket.socket().close()
        for _ in range(3): threading.Thread(target=ask).start()
        ask()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
for family in (38, 40):
    refused(SOCKET, family, socket.SOCK_STREAM, 0)
if os.fork() == 0:
    os.setsid()
    while True: socket.socket().close()
print('asked')
"#;

/// Sets every attribute that overlayfs knows, as far as that is allowed.
const MARK: &str = r#"
import os
for name in ('opaque', 'redirect', 'metacopy', 'origin'):
    for kind in ('user', 'trusted'):
        try:
            os.setxattr('/d', kind + '.overlay.' + name, b'y' if name == 'opaque' else b'/other')
            assert kind == 'user'
        except OSError: pass
"#;

#[test]
fn b6_h3_attributes_and_sockets_of_a_step_are_no_way_past_the_engine() {
    for who in Who::all("threats B6, H3") {
        // What lies below a marked directory still shows, to steps and to copies.
        let dockerfile = "FROM python:3.9-slim AS made\nCOPY ask mark /\n\
            RUN python3 /ask && grep -c : /proc/net/dev\nRUN python3 -c 'import socket; socket.socket()'\n\
            RUN mkdir /d && echo shows >/d/below && echo other >/other\nRUN python3 /mark && echo x >/d/above\n\
            RUN [ $(cat /d/below) = shows ] && [ $(ls /d | wc -l) = 2 ]\n\
            FROM busybox\nCOPY --from=made /d /copied\nRUN [ $(cat /copied/below) = shows ] && [ $(ls /copied | wc -l) = 2 ]\n";
        let folder = who.folder("h3", &[("Dockerfile", dockerfile), ("ask", ASK), ("mark", MARK)]);
        who.build(&folder, &["--target=made", "-o", "type=oci,dest=out.tar,compression=uncompressed", "."])
            .says("asked");
        who.build(&folder, &["."]);
        let archive = std::fs::read(folder.join("out.tar")).unwrap();
        let has = |text: &[u8]| archive.windows(text.len()).any(|window| window == text);
        assert!(has(b"os.setxattr") && !has(b"overlay.opaque"));
    }
}
