//! `--chmod` in chmod(1)'s symbolic form, as BSD's setmode(3) reads it: BuildKit uses a translation of that.

/// Set-id bits and the permissions of all; what `a` and an absent who mean. The sticky bit is no part of it.
const STANDARD: u32 = 0o6777;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

/// Applies `change` (`u=rwX,go=rX`) to a mode; `None` when it is none.
///
/// The umask is 0: without a who letter all are meant.
pub(crate) fn apply(change: &str, mode: u32, is_dir: bool) -> Option<u32> {
    let before = mode & 0o7777;
    // Whether anyone could execute it before the first clause; later ones do not count.
    let is_executable = is_dir || before & EXECUTE != 0;
    change.split(',').try_fold(before, |mode, clause| clause_of(clause, mode, is_executable))
}

fn clause_of(clause: &str, mut mode: u32, is_executable: bool) -> Option<u32> {
    let operator = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(operator);
    let mut whom = 0;
    for letter in who.chars() {
        whom |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            'a' => STANDARD,
            _ => return None,
        };
    }
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (letters, next) = rest.split_at(end);
        rest = next;
        mode = operation(operator, whom, letters, mode, is_executable)?;
    }
    Some(mode)
}

/// One operator with its letters. `whom` is 0 where nobody is named.
fn operation(operator: char, whom: u32, letters: &str, mut mode: u32, is_executable: bool) -> Option<u32> {
    // Others alone have neither set-id bits nor a sticky bit.
    let has_special = whom != 0o0007;
    let all = if whom == 0 { STANDARD } else { whom };
    // A letter that copies a class is an operation by itself, after those before it and before those behind it.
    let (mut bits, mut searchable, mut is_done) = (0, 0, false);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444 & all,
            'w' => bits |= 0o222 & all,
            'x' => bits |= EXECUTE & all,
            'X' if operator == '-' => bits |= EXECUTE & all,
            'X' if is_executable => searchable |= EXECUTE & all,
            's' if has_special => bits |= 0o6000 & all,
            't' if has_special => bits |= STICKY,
            'X' | 's' | 't' => {}
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    mode = changed(operator, mode, bits, all);
                }
                mode |= searchable;
                let shift = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                // Set-id bits are no part of a class's permissions.
                mode = changed(operator, mode, copied(mode, shift) & all, all & 0o777);
                (bits, searchable, is_done) = (0, 0, true);
            }
            _ => return None,
        }
    }
    if bits != 0 || !is_done {
        mode = changed(operator, mode, bits, all);
    }
    Some(mode | searchable)
}

/// `=` takes away what `all` have first.
fn changed(operator: char, mode: u32, bits: u32, all: u32) -> u32 {
    match operator {
        '+' => mode | bits,
        '-' => mode & !bits,
        _ => mode & !all | bits,
    }
}

/// The permissions of the class at `shift`, for all classes.
fn copied(mode: u32, shift: u32) -> u32 {
    let bits = mode >> shift & 7;
    bits << 6 | bits << 3 | bits
}

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn symbolic_modes_are_applied_as_chmod_does() {
        for (change, mode, is_dir, expected) in [
            ("u=rwX,go=rX", 0o644, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("a+x,u-w", 0o644, false, 0o555),
            ("+x", 0o644, false, 0o755),
            ("go=", 0o755, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o755, true, 0o1755),
            ("u=rw+x", 0o000, false, 0o700),
            ("a+s,+t,o=u", 0o755, false, 0o7757),
            ("o+st", 0o755, false, 0o755),
            ("a=rx", 0o7777, false, 0o1555),
            ("u=rwx", 0o4644, true, 0o0744),
            ("g=u", 0o2640, false, 0o2660),
            ("go=u-w", 0o755, false, 0o755),
            ("a-X", 0o755, false, 0o644),
            ("g=ur", 0o704, false, 0o744),
            ("g=ru", 0o704, false, 0o774),
            ("a-x,a+X", 0o755, false, 0o755),
            ("=", 0o7755, false, 0o1000),
            ("+", 0o640, false, 0o640),
        ] {
            assert_eq!(apply(change, mode, is_dir), Some(expected), "{change} of {mode:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for change in ["", "99z", "u", "q+x", "u+q", "u=rw,"] {
            assert_eq!(apply(change, 0o644, false), None, "{change}");
        }
    }
}
