//! One line of comma-separated values, RFC 4180: how docker writes the fields of `--secret` and `--output`.

use csv_core::{ReadFieldResult, Reader};

/// Splits `line` into its fields. A field in double quotes may hold commas, and quotes as `""`.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, String> {
    if line.contains(['\n', '\r']) {
        return Err(format!("`{}` holds a line break", line.escape_debug()));
    }
    check_quotes(line)?;
    let mut reader = Reader::new();
    let mut input = line.as_bytes();
    // A field is never longer than its source.
    let mut buffer = vec![0; line.len() + 1];
    let mut filled = 0;
    let mut fields = Vec::new();
    loop {
        let (result, read, written) = reader.read_field(input, &mut buffer[filled..]);
        input = &input[read..];
        filled += written;
        match result {
            ReadFieldResult::Field { record_end } => {
                fields.push(String::from_utf8_lossy(&buffer[..filled]).into_owned());
                filled = 0;
                if record_end {
                    return Ok(fields);
                }
            }
            // The end of the input is told once more, by reading nothing.
            ReadFieldResult::InputEmpty => input = &[],
            ReadFieldResult::OutputFull => return Err(format!("`{line}` is no list of fields")),
            ReadFieldResult::End => return Ok(fields),
        }
    }
}

/// The reader takes any quote as it comes; docker refuses a bare one, and so does this.
fn check_quotes(line: &str) -> Result<(), String> {
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = None;
            let mut chars = quoted.char_indices().peekable();
            while let Some((index, char)) = chars.next() {
                if char == '"' && chars.next_if(|(_, next)| *next == '"').is_none() {
                    end = Some(index + 1);
                    break;
                }
            }
            let Some(end) = end else { return Err(format!("`{line}`: a quote is never closed")) };
            match quoted[end..].strip_prefix(',') {
                Some(next) => rest = next,
                None if quoted[end..].is_empty() => return Ok(()),
                None => return Err(format!("`{line}`: there is text after a closing quote")),
            }
        } else {
            let (field, next) =
                rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if field.contains('"') {
                return Err(format!("`{line}`: a quote stands in the middle of a field"));
            }
            match next {
                Some(next) => rest = next,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_at_commas() {
        assert_eq!(fields("id=a,src=b").unwrap(), ["id=a", "src=b"]);
        assert_eq!(fields("one").unwrap(), ["one"]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
    }

    #[test]
    fn a_quoted_field_holds_commas_and_doubled_quotes() {
        assert_eq!(fields(r#"type=image,"name=a,b""#).unwrap(), ["type=image", "name=a,b"]);
        assert_eq!(fields(r#""a""b",c"#).unwrap(), [r#"a"b"#, "c"]);
    }

    #[test]
    fn a_quote_in_the_wrong_place_is_refused() {
        for line in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(fields(line).is_err(), "{line}");
        }
    }
}
