//! A disk that remembers every write and every flush, so that any power cut can be played.
//!
//! A file system in user space with one file, over the kernel's own protocol (`include/uapi/linux/fuse.h`); a loop device
//! on that file, without the page cache between; a file system on that device. What the disk was told before the last
//! flush is on it after a cut; of what came since, anything may be, in any order.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::random::Random;

/// What reordering is played with; no disk tears less.
const SECTOR: usize = 4096;

/// What the disk was told.
#[derive(Clone)]
pub enum Told {
    Write { offset: u64, bytes: Arc<Vec<u8>> },
    Flush,
}

/// The recording disk, with a file system on it.
pub struct RecordedDisk {
    folder: tempfile::TempDir,
    told: Arc<Mutex<Vec<Told>>>,
    size: u64,
    loop_device: String,
    server: Option<JoinHandle<()>>,
}

impl RecordedDisk {
    /// An ext4 file system of `size` bytes, mounted.
    pub fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["fuse", "disk"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let status = Command::new("mount")
            .args([
                "-i",
                "-t",
                "fuse",
                "-o",
                "fd=0,rootmode=40000,user_id=0,group_id=0,max_read=1048576",
                "recorded",
            ])
            .arg(folder.path().join("fuse"))
            .stdin(Stdio::from(device.try_clone().unwrap()))
            .status()
            .unwrap();
        assert!(status.success(), "mount -t fuse");
        let told = Arc::new(Mutex::new(Vec::new()));
        let server = Server { device, size, told: Arc::clone(&told), now: BTreeMap::new() };
        let server = std::thread::spawn(move || server.run());
        let image = folder.path().join("fuse/disk");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        let loop_device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let disk = Self { folder, told, size, loop_device, server: Some(server) };
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^resize_inode"]).arg(&disk.loop_device));
        run(Command::new("mount").arg(&disk.loop_device).arg(disk.mount_point()));
        disk
    }

    pub fn mount_point(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// All that the disk was told so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// What is on the disk when the power fails after the first `count` of `told`.
    pub fn after_cut(&self, told: &[Told], count: usize, random: &mut Random, image: &Path) {
        let file = File::create(image).unwrap();
        file.set_len(self.size).unwrap();
        let told = &told[..count];
        let flushed = told.iter().rposition(|told| matches!(told, Told::Flush)).unwrap_or(0);
        let write = |told: &Told, random: Option<&mut Random>| {
            let Told::Write { offset, bytes } = told else { return };
            match random {
                None => file.write_all_at(bytes, *offset).unwrap(),
                Some(random) => {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.chance(50) {
                            file.write_all_at(sector, offset + (index * SECTOR) as u64).unwrap();
                        }
                    }
                }
            }
        };
        told[..flushed].iter().for_each(|told| write(told, None));
        told[flushed..].iter().for_each(|told| write(told, Some(random)));
    }
}

impl Drop for RecordedDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount_point()).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.loop_device).status();
        let _ = Command::new("umount").arg("-l").arg(self.folder.path().join("fuse")).status();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// An image of a disk, mounted until dropped.
pub struct Mounted {
    point: tempfile::TempDir,
}

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let point = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(point.path()));
        Self { point }
    }

    /// Whether the file system on `image` is sound by its own check once its journal was replayed. That is done to a copy:
    /// any process that makes a mount namespace meanwhile holds the mount a moment longer, and with it a loop device whose
    /// cache knows other bytes than the file.
    pub fn is_sound(image: &Path) -> bool {
        let copy = image.with_extension("check");
        run(Command::new("cp").arg("--sparse=always").args([image, &copy]));
        drop(Self::new(&copy));
        let mut check = Command::new("e2fsck");
        let status = check.args(["-f", "-n"]).arg(&copy).stdout(Stdio::null()).stderr(Stdio::null()).status();
        std::fs::remove_file(copy).unwrap();
        status.unwrap().success()
    }

    pub fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let is_gone =
            Command::new("umount").arg(self.point.path()).status().is_ok_and(|status| status.success());
        if !is_gone {
            let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Answers the kernel.
struct Server {
    device: File,
    size: u64,
    told: Arc<Mutex<Vec<Told>>>,
    /// The disk as reads see it, by block.
    now: BTreeMap<u64, Vec<u8>>,
}

const ROOT: u64 = 1;
const DISK: u64 = 2;
/// The kernel writes so much at once, and its header.
const BUFFER_BYTES: usize = (1 << 20) + 4096;

impl Server {
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.device.read(&mut buffer) {
                Ok(read) if read >= 40 => self.answer(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // It was unmounted.
                _ => return,
            }
        }
    }

    fn answer(&mut self, request: &[u8]) {
        let number32 = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let number64 = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        let (code, unique, node) = (number32(4), number64(8), number64(16));
        let body = 40;
        match code {
            // FORGET, BATCH_FORGET, INTERRUPT want no answer.
            2 | 42 | 36 => {}
            // INIT: version, read-ahead, flags, background, writes of 1 MB (MAX_PAGES).
            26 => {
                let mut out = Vec::new();
                for number in [7_u32, 31, number32(body + 8), 1 << 5 | 1 << 22] {
                    out.extend(number.to_le_bytes());
                }
                out.extend(16_u16.to_le_bytes());
                out.extend(12_u16.to_le_bytes());
                out.extend((1_u32 << 20).to_le_bytes());
                out.extend(1_u32.to_le_bytes());
                out.extend(256_u16.to_le_bytes());
                out.resize(64, 0);
                self.reply(unique, 0, &out);
            }
            // LOOKUP.
            1 => {
                let name = request[body..].split(|byte| *byte == 0).next().unwrap_or_default();
                if node == ROOT && name == b"disk" {
                    let mut out = Vec::new();
                    for number in [DISK, 0, 3600, 3600, 0] {
                        out.extend(number.to_le_bytes());
                    }
                    out.extend(self.attributes(DISK));
                    self.reply(unique, 0, &out);
                } else {
                    self.reply(unique, -2, &[]);
                }
            }
            // GETATTR, SETATTR.
            3 | 4 => {
                let mut out = Vec::new();
                out.extend(3600_u64.to_le_bytes());
                out.extend(0_u64.to_le_bytes());
                out.extend(self.attributes(node));
                self.reply(unique, 0, &out);
            }
            // OPEN, OPENDIR: FOPEN_DIRECT_IO, so that nothing is between the loop device and this.
            14 | 27 => {
                let mut out = vec![0; 16];
                out[8] = u8::from(code == 14);
                self.reply(unique, 0, &out);
            }
            // READ.
            15 => {
                let (offset, size) = (number64(body + 8), number32(body + 16));
                let end = (offset + u64::from(size)).min(self.size);
                let bytes = self.read(offset, end.saturating_sub(offset) as usize);
                self.reply(unique, 0, &bytes);
            }
            // WRITE: behind a header of 40 bytes.
            16 => {
                let (offset, size) = (number64(body + 8), number32(body + 16));
                let bytes = request[body + 40..body + 40 + size as usize].to_vec();
                self.write(offset, &bytes);
                self.told.lock().unwrap().push(Told::Write { offset, bytes: Arc::new(bytes) });
                let mut out = Vec::from(size.to_le_bytes());
                out.resize(8, 0);
                self.reply(unique, 0, &out);
            }
            // FSYNC.
            20 => {
                self.told.lock().unwrap().push(Told::Flush);
                self.reply(unique, 0, &[]);
            }
            // STATFS, RELEASE, FLUSH, READDIR, RELEASEDIR, DESTROY.
            17 => self.reply(unique, 0, &[0; 80]),
            18 | 25 | 28 | 29 | 38 => self.reply(unique, 0, &[]),
            // ENOSYS.
            _ => self.reply(unique, -38, &[]),
        }
    }

    fn reply(&mut self, unique: u64, error: i32, body: &[u8]) {
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend(u32::try_from(16 + body.len()).unwrap().to_le_bytes());
        out.extend(error.to_le_bytes());
        out.extend(unique.to_le_bytes());
        out.extend(body);
        // An interrupted request wants no answer any more.
        let _ = self.device.write(&out);
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, size) = if node == ROOT { (0o40_755_u32, 0) } else { (0o100_600, self.size) };
        let mut out = Vec::new();
        for number in [node, size, size / 512, 0, 0, 0] {
            out.extend(number.to_le_bytes());
        }
        for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            out.extend(number.to_le_bytes());
        }
        out
    }

    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let block = SECTOR as u64;
        for (at, stored) in self.now.range(offset / block..(offset + size as u64).div_ceil(block)) {
            let start = at * block;
            let from = offset.max(start);
            let to = (offset + size as u64).min(start + block);
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&stored[(from - start) as usize..(to - start) as usize]);
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let block = SECTOR as u64;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % block) as usize;
            let count = (SECTOR - within).min(bytes.len() - done);
            let stored = self.now.entry(at / block).or_insert_with(|| vec![0; SECTOR]);
            stored[within..within + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
    }
}
