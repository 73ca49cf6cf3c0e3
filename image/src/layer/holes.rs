//! Holes of sparse files: zeros to whoever reads them, and no disk. Reading them costs time and room in the kernel's page
//! cache like any other bytes, and writing what was read costs the disk: ten gigabytes for `truncate -s 10G`.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

/// The next data of `file` within `part`: what lies between `part.start` and the data is zeros. All of `part` where the file
/// has no holes, or too few bytes to look for any. Where it has, the descriptor's offset is the start of the data then; else it
/// stays.
///
/// What lies behind the file's end counts as data, which a reader then misses.
///
/// # Errors
/// The file cannot be looked at.
pub fn next_data(file: impl AsFd, part: Range<u64>) -> io::Result<Range<u64>> {
    if part.end.saturating_sub(part.start) < WORTH_BYTES {
        return Ok(part);
    }
    let stat = fstat(&file)?;
    if stat.st_blocks.saturating_mul(BLOCK_BYTES) >= stat.st_size {
        return Ok(part);
    }
    let start = match seek(&file, SeekFrom::Data(part.start)) {
        Ok(start) => start,
        Err(Errno::NXIO) => u64::try_from(stat.st_size).unwrap_or_default(),
        // A file system that does not tell.
        Err(_) => return Ok(part),
    };
    let start = start.clamp(part.start, part.end);
    let end = match seek(&file, SeekFrom::Hole(start)) {
        Ok(end) if end > start => end.min(part.end),
        // The end, or data that became a hole just now.
        _ => part.end,
    };
    seek(&file, SeekFrom::Start(start))?;
    Ok(start..end)
}

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: i64 = 512;

/// Fewer bytes are read sooner than asked about.
const WORTH_BYTES: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn data_are_found_between_holes_and_the_end_is_no_hole() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 3 * MIB).unwrap();
        file.set_len(8 * MIB).unwrap();
        assert_eq!(next_data(&file, 0..8 * MIB).unwrap(), 3 * MIB..3 * MIB + 4096);
        assert_eq!(next_data(&file, 0..2 * MIB).unwrap(), 2 * MIB..2 * MIB);
        assert_eq!(next_data(&file, 4 * MIB..8 * MIB).unwrap(), 8 * MIB..8 * MIB);
        assert_eq!(next_data(&file, 4 * MIB..9 * MIB).unwrap(), 8 * MIB..9 * MIB);
        assert_eq!(next_data(&file, 10 * MIB..11 * MIB).unwrap(), 10 * MIB..11 * MIB);
        let dense = tempfile::tempfile().unwrap();
        dense.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        assert_eq!(next_data(&dense, 0..9 * MIB).unwrap(), 0..9 * MIB);
    }
}
