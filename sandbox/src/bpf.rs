//! What seccomp filters are written in: classic BPF over `struct seccomp_data` (seccomp(2), `linux/filter.h`).

use crate::sys::Instruction;

/// Offsets in `struct seccomp_data`; arguments are 64 bits, low half first on the supported architectures.
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
pub(crate) const OFFSET_ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
pub(crate) const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE_ARCH: u32 = 0xc000_00b7;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
/// Jumps where what was loaded is the operand, is greater, is not less, or has one of its bits.
pub(crate) const JEQ: u16 = 0x15;
pub(crate) const JGT: u16 = 0x25;
pub(crate) const JGE: u16 = 0x35;
pub(crate) const JSET: u16 = 0x45;

pub(crate) const ALLOW: Instruction = ret(libc::SECCOMP_RET_ALLOW);
pub(crate) const HAND_OVER: Instruction = ret(libc::SECCOMP_RET_USER_NOTIF);

/// Loads 32 bits of the call.
pub(crate) const fn load(offset: u32) -> Instruction {
    plain(LOAD, offset)
}

/// Keeps some bits of what was loaded.
pub(crate) const fn and(mask: u32) -> Instruction {
    plain(AND, mask)
}

/// Skips so many instructions where the condition holds, and so many where it does not.
pub(crate) const fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// Ends the filter.
pub(crate) const fn ret(action: u32) -> Instruction {
    plain(RETURN, action)
}

const fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// What `filter` answers to a call, run as the kernel would.
#[cfg(test)]
pub(crate) fn run(filter: &[Instruction], arch: u32, number: u32, arguments: [u64; 3]) -> u32 {
    let (mut accumulator, mut at) = (0_u32, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = filter[at];
        at += 1;
        let holds = match code {
            LOAD => {
                accumulator = match operand {
                    OFFSET_NUMBER => number,
                    OFFSET_ARCH => arch,
                    offset => arguments[(offset - OFFSET_ARGUMENTS) as usize / 8] as u32,
                };
                continue;
            }
            AND => {
                accumulator &= operand;
                continue;
            }
            JEQ => accumulator == operand,
            JGT => accumulator > operand,
            JGE => accumulator >= operand,
            JSET => accumulator & operand != 0,
            RETURN => return operand,
            code => panic!("operation {code:#x}"),
        };
        at += usize::from(if holds { jump_true } else { jump_false });
    }
}
