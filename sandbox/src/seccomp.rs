//! The system-call filter: Docker's default profile as a BPF program.
//!
//! The default answer is EPERM; calls newer than the table get ENOSYS. Calls of a foreign ABI (i386, x32, arm) are
//! refused as a whole: the table's numbers mean other calls there, which is how filters have been walked around.

use std::borrow::Cow;
use std::sync::LazyLock;

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use crate::bpf::{
    ALLOW, HAND_OVER, JEQ, JGE, JGT, NATIVE_ARCH, OFFSET_ARCH, OFFSET_ARGUMENTS, OFFSET_NUMBER, and, jump,
    load, ret,
};
use crate::seccomp_table::{ABSENT, ALLOWED, Call, HIGHEST_KNOWN, OF_CAPABILITIES};
use crate::sys::Instruction;

/// The compiled default profile.
static DEFAULT_FILTER: LazyLock<Vec<Instruction>> =
    LazyLock::new(|| compile(Sockets::Allowed, CapabilitySet::empty()));

/// The same with [`Sockets::HandedOver`].
static ON_DEMAND_FILTER: LazyLock<Vec<Instruction>> =
    LazyLock::new(|| compile(Sockets::HandedOver, CapabilitySet::empty()));

/// What becomes of sockets that reach a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// They are made.
    Allowed,
    /// They are handed over ([`crate::on_demand`]).
    HandedOver,
}

/// The profile for a process that holds `capabilities`: some open further calls.
pub(crate) fn filter(sockets: Sockets, capabilities: CapabilitySet) -> Cow<'static, [Instruction]> {
    match (sockets, of_capabilities(capabilities).next()) {
        (Sockets::Allowed, None) => Cow::Borrowed(&DEFAULT_FILTER),
        (Sockets::HandedOver, None) => Cow::Borrowed(&ON_DEMAND_FILTER),
        (_, Some(_)) => Cow::Owned(compile(sockets, capabilities)),
    }
}

fn compile(sockets: Sockets, capabilities: CapabilitySet) -> Vec<Instruction> {
    let socket = match sockets {
        Sockets::Allowed => socket_rule(),
        Sockets::HandedOver => Rule {
            verdict: Verdict::HandOverExcept { allowed: &[libc::AF_UNIX as u32], denied: FORBIDDEN_FAMILIES },
            ..socket_rule()
        },
    };
    let mut program = vec![
        load(OFFSET_ARCH),
        jump(JEQ, NATIVE_ARCH, 1, 0),
        deny(libc::EPERM),
        load(OFFSET_NUMBER),
        // Also answers x32, whose numbers have bit 30 set.
        jump(JGT, HIGHEST_KNOWN, 0, 3),
        jump(JGE, X32_BIT, 0, 1),
        deny(libc::EPERM),
        deny(libc::ENOSYS),
    ];
    socket.emit(&mut program);
    for rule in other_rules(capabilities) {
        rule.emit(&mut program);
    }
    for (low, high) in ranges(allowed_numbers(capabilities)) {
        program.extend([jump(JGT, high, 3, 0), jump(JGE, low, 0, 1), ALLOW, deny(libc::EPERM)]);
    }
    program.push(deny(libc::EPERM));
    program
}

/// A call that is decided by one argument.
///
/// Only the low half is looked at: the kernel takes these arguments as 32 bits, and a filter that compares all 64 lets
/// a set high bit turn a refused value into an allowed one.
struct Rule {
    name: &'static str,
    number: u32,
    argument: u32,
    mask: u32,
    verdict: Verdict,
}

enum Verdict {
    /// Only these values.
    AllowOnly(&'static [u32]),
    /// All but these.
    AllowExcept(&'static [u32]),
    /// Those of the first kind are allowed, those of the second are not, all others are handed over.
    HandOverExcept { allowed: &'static [u32], denied: &'static [u32] },
    /// Never, with this error.
    Deny(i32),
}

/// AF_ALG has reached page-cache bugs; AF_VSOCK is not namespaced and reaches the host of a VM.
const FORBIDDEN_FAMILIES: &[u32] = &[libc::AF_ALG as u32, libc::AF_VSOCK as u32];

fn socket_rule() -> Rule {
    Rule::new("socket", libc::SYS_socket, u32::MAX, Verdict::AllowExcept(FORBIDDEN_FAMILIES))
}

fn conditional_rules(capabilities: CapabilitySet) -> Vec<Rule> {
    let mut rules = vec![socket_rule()];
    rules.extend(other_rules(capabilities));
    rules
}

fn other_rules(capabilities: CapabilitySet) -> Vec<Rule> {
    let rule = Rule::new;
    let mut rules = vec![
        // Linux, UNAME26, PER_LINUX32, both, and "tell me"; others weaken the process, as ADDR_NO_RANDOMIZE does.
        rule(
            "personality",
            libc::SYS_personality,
            u32::MAX,
            Verdict::AllowOnly(&[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]),
        ),
        // New namespaces would give a process full capabilities over new, less tested code.
        rule("clone", libc::SYS_clone, CLONE_NAMESPACES, Verdict::AllowOnly(&[0])),
        // Its flags are behind a pointer, which a filter cannot follow; ENOSYS makes C libraries use clone.
        rule("clone3", libc::SYS_clone3, 0, Verdict::Deny(libc::ENOSYS)),
    ];
    // What a capability opens is decided by no argument.
    rules.retain(|rule| of_capabilities(capabilities).all(|call| call.0 != rule.name));
    rules
}

impl Rule {
    fn new(name: &'static str, number: libc::c_long, mask: u32, verdict: Verdict) -> Rule {
        Rule { name, number: number as u32, argument: 0, mask, verdict }
    }

    fn emit(&self, program: &mut Vec<Instruction>) {
        let mut body = Vec::new();
        match self.verdict {
            Verdict::Deny(errno) => body.push(deny(errno)),
            Verdict::AllowOnly(values) | Verdict::AllowExcept(values) => {
                body.push(load(OFFSET_ARGUMENTS + self.argument * 8));
                body.push(and(self.mask));
                // A match jumps over the remaining comparisons and the answer for "no match".
                for (index, &value) in values.iter().enumerate() {
                    body.push(jump(JEQ, value, (values.len() - index) as u8, 0));
                }
                let (no_match, matched) = match self.verdict {
                    Verdict::AllowOnly(_) => (deny(libc::EPERM), ALLOW),
                    _ => (ALLOW, deny(libc::EPERM)),
                };
                body.extend([no_match, matched]);
            }
            Verdict::HandOverExcept { allowed, denied } => {
                body.push(load(OFFSET_ARGUMENTS + self.argument * 8));
                body.push(and(self.mask));
                // The three answers stand behind the comparisons.
                let comparisons = allowed.len() + denied.len();
                let to_answer = |index: usize, answer: usize| (comparisons - index - 1 + answer) as u8;
                for (index, &value) in allowed.iter().chain(denied).enumerate() {
                    let answer = if index < allowed.len() { 1 } else { 2 };
                    body.push(jump(JEQ, value, to_answer(index, answer), 0));
                }
                body.extend([HAND_OVER, ALLOW, deny(libc::EPERM)]);
            }
        }
        program.push(jump(JEQ, self.number, 0, body.len() as u8));
        program.extend(body);
    }
}

/// Values that rules of an OCI profile name where all but some are allowed: more address families than there are.
const LISTED_VALUES: u32 = 64;

/// The same profile in the words of the OCI runtime specification (`config-linux.md`, Seccomp).
///
/// Arguments are compared by their low half here too. A foreign ABI is refused by its absence: runtimes kill for it.
pub(crate) fn as_oci(capabilities: CapabilitySet) -> Value {
    const ALLOW: &str = "SCMP_ACT_ALLOW";
    let names: Vec<&str> = allowed(capabilities).map(|call| call.0).collect();
    let mut calls = vec![json!({ "names": names, "action": ALLOW })];
    for rule in conditional_rules(capabilities) {
        let mut allow = |value: u32| {
            calls.push(json!({ "names": [rule.name], "action": ALLOW, "args": [{
                "index": rule.argument, "value": rule.mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ",
            }] }));
        };
        match rule.verdict {
            Verdict::AllowOnly(values) => values.iter().copied().for_each(allow),
            Verdict::AllowExcept(values) => {
                (0..LISTED_VALUES).filter(|value| !values.contains(value)).for_each(&mut allow);
            }
            // Not of the rules that a runtime is given.
            Verdict::HandOverExcept { .. } => {}
            Verdict::Deny(errno) => calls.push(json!({
                "names": [rule.name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
            })),
        }
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }],
        "syscalls": calls,
    })
}

/// A row's number on this machine.
fn native(&(_, x86_64, aarch64): &Call) -> u16 {
    if cfg!(target_arch = "aarch64") { aarch64 } else { x86_64 }
}

/// Rows of calls that are allowed whatever their arguments; one may be there twice.
fn allowed(capabilities: CapabilitySet) -> impl Iterator<Item = &'static Call> {
    ALLOWED.iter().chain(of_capabilities(capabilities)).filter(|call| native(call) != ABSENT)
}

fn of_capabilities(held: CapabilitySet) -> impl Iterator<Item = &'static Call> {
    OF_CAPABILITIES
        .iter()
        .filter(move |(capability, _)| held.contains(*capability))
        .flat_map(|(_, calls)| *calls)
}

fn allowed_numbers(capabilities: CapabilitySet) -> Vec<u32> {
    let mut numbers: Vec<u32> = allowed(capabilities).map(|call| u32::from(native(call))).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Sorted numbers as inclusive ranges.
fn ranges(numbers: Vec<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, high)) if *high + 1 >= number => *high = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

const X32_BIT: u32 = 0x4000_0000;

/// All `CLONE_NEW*` bits but that of time namespaces, which clone(2) does not take.
const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

fn deny(errno: i32) -> Instruction {
    ret(libc::SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf;

    fn answer(arch: u32, number: u32, argument: u64) -> u32 {
        run(&DEFAULT_FILTER, arch, number, argument)
    }

    fn run(filter: &[Instruction], arch: u32, number: u32, argument: u64) -> u32 {
        bpf::run(filter, arch, number, [argument, 0, 0])
    }

    fn answer_to(number: libc::c_long, argument: u64) -> u32 {
        answer(NATIVE_ARCH, number as u32, argument)
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const YES: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn every_number_of_the_table_is_allowed_and_every_other_one_is_not() {
        let allowed = allowed_numbers(CapabilitySet::empty());
        let special: Vec<u32> =
            conditional_rules(CapabilitySet::empty()).iter().map(|rule| rule.number).collect();
        for number in 0..=HIGHEST_KNOWN {
            if special.contains(&number) {
                continue;
            }
            let expected = if allowed.contains(&number) { YES } else { EPERM };
            assert_eq!(answer(NATIVE_ARCH, number, 0), expected, "call {number}");
        }
        assert_eq!(answer(NATIVE_ARCH, HIGHEST_KNOWN + 1, 0), ENOSYS);
    }

    #[test]
    fn dangerous_calls_are_refused() {
        for number in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_reboot,
        ] {
            assert_eq!(answer_to(number, 0), EPERM, "call {number}");
        }
    }

    #[test]
    fn a_socket_family_is_judged_by_the_bits_the_kernel_reads() {
        assert_eq!(answer_to(libc::SYS_socket, libc::AF_INET as u64), YES);
        assert_eq!(answer_to(libc::SYS_socket, libc::AF_ALG as u64), EPERM);
        assert_eq!(answer_to(libc::SYS_socket, 1 << 32 | libc::AF_ALG as u64), EPERM);
        assert_eq!(answer_to(libc::SYS_socket, libc::AF_VSOCK as u64), EPERM);
    }

    #[test]
    fn sockets_that_reach_a_network_are_handed_over_where_it_is_made_on_demand() {
        let socket = |family: u64| run(&ON_DEMAND_FILTER, NATIVE_ARCH, libc::SYS_socket as u32, family);
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, 0, 63, 1 << 20] {
            assert_eq!(socket(family as u64), libc::SECCOMP_RET_USER_NOTIF, "{family}");
        }
        assert_eq!(socket(libc::AF_UNIX as u64), YES);
        assert_eq!(socket(1 << 32 | libc::AF_UNIX as u64), YES);
        assert_eq!(socket(libc::AF_ALG as u64), EPERM);
        assert_eq!(socket(libc::AF_VSOCK as u64), EPERM);
        for number in (0..=HIGHEST_KNOWN + 1).filter(|&number| number != libc::SYS_socket as u32) {
            for argument in [0, u64::MAX] {
                let (own, usual) = (
                    run(&ON_DEMAND_FILTER, NATIVE_ARCH, number, argument),
                    answer(NATIVE_ARCH, number, argument),
                );
                assert_eq!(own, usual, "call {number}");
            }
        }
    }

    #[test]
    fn clone_makes_threads_but_no_namespaces() {
        assert_eq!(answer_to(libc::SYS_clone, libc::CLONE_VM as u64), YES);
        assert_eq!(answer_to(libc::SYS_clone, libc::CLONE_NEWUSER as u64), EPERM);
        assert_eq!(answer_to(libc::SYS_clone3, 0), ENOSYS);
    }

    #[test]
    fn a_capability_opens_the_calls_that_it_is_for_and_no_others() {
        let with = |capabilities, number: libc::c_long, argument| {
            run(&filter(Sockets::Allowed, capabilities), NATIVE_ARCH, number as u32, argument)
        };
        let admin = CapabilitySet::SYS_ADMIN;
        for number in [libc::SYS_mount, libc::SYS_umount2, libc::SYS_unshare, libc::SYS_setns, libc::SYS_bpf]
        {
            assert_eq!(with(admin, number, 0), YES, "call {number}");
            assert_eq!(with(CapabilitySet::NET_ADMIN, number, 0), EPERM, "call {number}");
        }
        assert_eq!(with(admin, libc::SYS_clone, libc::CLONE_NEWUSER as u64), YES);
        assert_eq!(with(admin, libc::SYS_clone3, 0), YES);
        assert_eq!(with(CapabilitySet::SYS_TIME, libc::SYS_clock_settime, 0), YES);
        assert_eq!(with(CapabilitySet::SYS_TIME, libc::SYS_clone, libc::CLONE_NEWUSER as u64), EPERM);
        // Whatever is held, some are never for a step.
        for number in
            [libc::SYS_keyctl, libc::SYS_kexec_load, libc::SYS_io_uring_setup, libc::SYS_userfaultfd]
        {
            assert_eq!(with(CapabilitySet::all(), number, 0), EPERM, "call {number}");
        }
        assert_eq!(with(CapabilitySet::all(), libc::SYS_socket, libc::AF_ALG as u64), EPERM);
        let on_demand = filter(Sockets::HandedOver, admin);
        assert_eq!(run(&on_demand, NATIVE_ARCH, libc::SYS_mount as u32, 0), YES);
        let socket = run(&on_demand, NATIVE_ARCH, libc::SYS_socket as u32, libc::AF_INET as u64);
        assert_eq!(socket, libc::SECCOMP_RET_USER_NOTIF);
        assert!(matches!(filter(Sockets::Allowed, crate::capabilities::DEFAULT), Cow::Borrowed(_)));
        let oci = as_oci(admin);
        let listed = |name: &str, call: &Value| call["names"].as_array().unwrap().contains(&name.into());
        let calls = oci["syscalls"].as_array().unwrap();
        assert!(listed("mount", &calls[0]) && !calls[1..].iter().any(|call| listed("clone", call)));
    }

    #[test]
    fn foreign_abis_are_refused_as_a_whole() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(answer(I386, 1, 0), EPERM);
        assert_eq!(answer(NATIVE_ARCH, X32_BIT | 1, 0), EPERM);
    }

    #[test]
    fn the_table_is_sorted_and_names_no_call_twice() {
        assert!(ALLOWED.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    /// Docker's profile as it is published, by names.
    const OF_DOCKER: &str = include_str!("../tests/docker-calls.txt");

    #[test]
    fn the_table_is_dockers_profile() {
        let here = std::env::consts::ARCH;
        let of_docker: std::collections::BTreeSet<&str> = OF_DOCKER
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_once(' ').unwrap_or((line, here)))
            .filter(|(_, arch)| *arch == here)
            .map(|(name, _)| name)
            .collect();
        let has = |name: &str| ALLOWED.iter().find(|call| call.0 == name).map(native);
        let refused: Vec<_> = of_docker.iter().filter(|name| has(name).is_none()).collect();
        assert!(refused.is_empty(), "{refused:?}");
        let added: Vec<_> = ALLOWED
            .iter()
            .filter(|call| native(call) != ABSENT && !of_docker.contains(call.0))
            .map(|call| call.0)
            .collect();
        assert!(added.is_empty(), "{added:?}");
    }

    #[test]
    fn a_personality_is_one_of_five() {
        for value in 0..=0x2_0010 {
            let expected = if [0, 8, 0x2_0000, 0x2_0008].contains(&value) { YES } else { EPERM };
            assert_eq!(answer_to(libc::SYS_personality, value), expected, "{value:#x}");
        }
        assert_eq!(answer_to(libc::SYS_personality, 0xffff_ffff), YES);
    }
}
