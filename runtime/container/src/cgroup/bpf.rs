//! Programs of cgroup v2 that decide about devices (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15; bpf(2)).
//!
//! A program of a dozen instructions for each rule needs no compiler and no library: it is put together here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::devices::{DeviceKind, DeviceRule, READ, WRITE};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Codes of `linux/bpf.h`, on 64 bits where they compute.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers: what the program returns, its context, and what is taken from that.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_ACC_MKNOD`, which asks to make a node.
const MKNOD: i32 = 1;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// A program that allows what one of the rules allows, and nothing else.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: kind in the low and access in the high half of the first word.
    let mut program = vec![
        op(LOAD_WORD, KIND, CONTEXT, 0, 0),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        op(MOVE, ACCESS, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for rule in rules {
        let kind = if rule.kind == DeviceKind::Block { 1 } else { 2 };
        // Each leads behind the rule where it does not hold.
        let mut conditions = vec![(KIND, kind), (MAJOR, rule.major as i32)];
        conditions.extend(rule.minor.map(|minor| (MINOR, minor as i32)));
        let denied = 7 & !(rule.access_bits());
        let length = conditions.len() + 3 + 2;
        for (index, (register, value)) in conditions.iter().enumerate() {
            program.push(op(JUMP_IF_NOT, *register, 0, (length - index - 1) as i16, *value));
        }
        program.extend([
            op(MOVE, RESULT, ACCESS, 0, 0),
            op(AND, RESULT, 0, 0, denied),
            op(JUMP_IF_NOT, RESULT, 0, 2, 0),
            op(SET, RESULT, 0, 0, 1),
            op(EXIT, 0, 0, 0, 0),
        ]);
    }
    program.extend([op(SET, RESULT, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

impl DeviceRule {
    /// `BPF_DEVCG_ACC_*`. A node may be made of what may be opened; without MKNOD of the host nobody can.
    fn access_bits(&self) -> i32 {
        let bit = |access, bit| if self.access & access != 0 { bit } else { 0 };
        MKNOD | bit(READ, 2) | bit(WRITE, 4)
    }
}

/// Loads the program of some rules into the kernel. It lives as long as the descriptor or a group that has it.
pub(super) fn load(rules: &[DeviceRule]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out for zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        /// Log level and size, address of the log, kernel version, flags: none.
        unused: [u32; 6],
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const CGROUP_DEVICE: u32 = 15;
    let program = assemble(rules);
    let attributes = Load {
        kind: CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        unused: [0; 6],
    };
    // SAFETY: `attributes` is a valid prefix of the union, of the size that is told, and points to `count`
    // instructions and a C string, all of which the kernel copies. The returned descriptor is new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Load>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as RawFd)) }
    }
}

/// Makes a program decide for a group and those below it, in place of the one that did, except for those below that
/// have their own (`BPF_F_ALLOW_OVERRIDE`).
pub(super) fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// The head of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_OVERRIDE: u32 = 1;
    let attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_OVERRIDE,
    };
    // SAFETY: `attributes` is a valid prefix of the union, of the size that is told.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of::<Attach>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = u64::from(context[offset as usize / 4]);
                }
                MOVE => registers[to] = registers[from],
                SET => registers[to] = immediate as u64,
                AND => registers[to] &= immediate as u64,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_IF_NOT if registers[to] != immediate as u64 => at += offset as usize,
                JUMP_IF_NOT => {}
                EXIT => return registers[usize::from(RESULT)],
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn programs_allow_what_rules_allow() {
        let (char, block) = (DeviceKind::Char, DeviceKind::Block);
        let rule = |kind, major, minor, access| DeviceRule { kind, major, minor, access };
        let program = assemble(&[
            rule(char, 1, Some(3), READ | WRITE),
            rule(char, 136, None, READ | WRITE),
            rule(block, 7, Some(0), READ),
            rule(char, 10, Some(229), WRITE),
        ]);
        let check = |kind: u32, access: u32, major, minor, expect: bool| {
            let allowed = run(&program, [access << 16 | kind, major, minor]);
            assert_eq!(allowed, u64::from(expect), "kind {kind} access {access} {major}:{minor}");
        };
        for access in [2, 4, 6, 7] {
            check(2, access, 1, 3, true);
            check(2, access, 136, 4711, true);
            check(1, access, 1, 3, false);
            check(2, access, 1, 11, false);
            check(2, access, 7, 0, false);
        }
        check(1, 2, 7, 0, true);
        check(1, 4, 7, 0, false);
        check(1, 6, 7, 0, false);
        check(1, 2, 7, 1, false);
        check(2, 4, 10, 229, true);
        check(2, 2, 10, 229, false);
        assert_eq!(run(&assemble(&[]), [2 << 16 | 2, 1, 3]), 0);
    }
}
