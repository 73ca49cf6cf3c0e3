//! `--chmod` in chmod(1)'s symbolic form.

/// Applies `change` (`u=rwX,go=rX`) to a mode; `None` when it is none.
///
/// As chmod(1) has it, with a umask of 0: without a who letter all are meant.
pub(super) fn apply(change: &str, mode: u32, is_dir: bool) -> Option<u32> {
    let mut mode = mode & 0o7777;
    for clause in change.split(',') {
        mode = clause_of(clause, mode, is_dir)?;
    }
    Some(mode)
}

fn clause_of(clause: &str, mut mode: u32, is_dir: bool) -> Option<u32> {
    let operator = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(operator);
    let mut whom = 0;
    for letter in who.chars() {
        whom |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if whom == 0 {
        whom = 0o7777;
    }
    while let Some(operator) = rest.chars().next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (letters, next) = rest.split_at(end);
        rest = next;
        let bits = bits_of(letters, mode, is_dir)? & whom;
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // Set-id bits of directories stay unless named, as GNU chmod has it.
            _ => mode & !(whom & 0o777) & !(if is_dir { 0 } else { whom & 0o7000 }) | bits,
        };
    }
    Some(mode)
}

fn bits_of(letters: &str, mode: u32, is_dir: bool) -> Option<u32> {
    // `g=u`: the permissions of another class.
    let copied = |shift: u32| {
        let bits = mode >> shift & 7;
        bits << 6 | bits << 3 | bits
    };
    match letters {
        "u" => return Some(copied(6)),
        "g" => return Some(copied(3)),
        "o" => return Some(copied(0)),
        _ => {}
    }
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => 0o444,
            'w' => 0o222,
            'x' => 0o111,
            'X' if is_dir || mode & 0o111 != 0 => 0o111,
            'X' => 0,
            's' => 0o6000,
            't' => 0o1000,
            _ => return None,
        };
    }
    Some(bits)
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
