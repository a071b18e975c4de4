//! One log file that is replaced when it is full, and a few older ones.
//!
//! Owns the files `tanist.log`, `tanist.log.1` (the newest of the old), and so on. Whatever the disk does, the writer only loses
//! lines, never more, and says so in the file when it can again. `tracing-appender` rolls by time alone, which bounds nothing.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use tanist_store::private;

use crate::config::LogFiles;

/// Lines are left out while the disk has less room than this, or than a 16th of it: others need it more.
const LEAST_ROOM: u64 = 4 << 20;
/// Room is looked for after so many bytes.
const LOOK_EVERY: u64 = 64 << 10;

/// A file that can't be renamed (another program has it open, on Windows) is begun anew at so many times its size.
const FULL: u64 = 2;

#[derive(Debug)]
pub(super) struct LogFile {
    files: LogFiles,
    file: Option<File>,
    /// Bytes in the file.
    length: u64,
    /// Bytes written since room was looked for.
    unlooked: u64,
    /// Lines that could not be written, and why the last of them.
    lost: Option<(u64, String)>,
}

impl LogFile {
    /// Opens the file, so that a directory that can't be used is found at the start.
    pub(super) fn open(files: &LogFiles) -> io::Result<LogFile> {
        let mut log =
            LogFile { files: files.clone(), file: None, length: 0, unlooked: LOOK_EVERY, lost: None };
        for age in 0..files.max_files {
            // Of before, which others could read.
            let _ = private::mend_file(&log.path(age));
        }
        log.reopen()?;
        Ok(log)
    }

    fn path(&self, age: usize) -> PathBuf {
        match age {
            0 => self.files.directory.join("tanist.log"),
            age => self.files.directory.join(format!("tanist.log.{age}")),
        }
    }

    fn reopen(&mut self) -> io::Result<&mut File> {
        private::create_dir_all(&self.files.directory)?;
        let file = private::options().create(true).append(true).open(self.path(0))?;
        self.length = file.metadata()?.len();
        Ok(self.file.insert(file))
    }

    /// Makes room for a line of `bytes`.
    fn roll(&mut self, bytes: u64) -> io::Result<()> {
        if self.length == 0 || self.length + bytes <= self.files.max_size {
            return Ok(());
        }
        self.file = None; // Windows renames no open file
        // One file alone has no older ones.
        let oldest = self.files.max_files - 1;
        for age in (0..oldest).rev() {
            // One that can't be renamed may be the next time.
            let _ = fs::rename(self.path(age), self.path(age + 1));
        }
        let (fits, begins_anew) = (self.files.max_size, self.files.max_size * FULL);
        let file = self.reopen()?;
        let length = file.metadata()?.len();
        if length + bytes > begins_anew || (oldest == 0 && length + bytes > fits) {
            file.set_len(0)?;
            self.length = 0;
        }
        Ok(())
    }

    /// After lines were lost for want of room it is looked for at each.
    fn look_for_room(&mut self, bytes: u64) -> io::Result<()> {
        self.unlooked += bytes;
        if self.unlooked < LOOK_EVERY && self.lost.is_none() {
            return Ok(());
        }
        let room = fs4::statvfs(&self.files.directory);
        if room.is_ok_and(|room| room.available_space() < LEAST_ROOM.min(room.total_space() / 16)) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is nearly full"));
        }
        self.unlooked = 0;
        Ok(())
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.look_for_room(line.len() as u64)?;
        if self.file.is_none() {
            self.reopen()?;
        }
        self.roll(line.len() as u64)?;
        let told = match &self.lost {
            Some((lines, why)) => format!("({lines} lines of this log could not be written: {why})\n"),
            None => String::new(),
        };
        let file = match &mut self.file {
            Some(file) => file,
            None => self.reopen()?,
        };
        file.write_all(told.as_bytes())?;
        file.write_all(line)?;
        self.length += (told.len() + line.len()) as u64;
        self.lost = None;
        Ok(())
    }
}

impl Write for LogFile {
    /// One whole line, as the layer gives them. Never fails: there is nobody who could do anything about it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.write_line(line) {
            self.file = None;
            let lines = self.lost.as_ref().map_or(1, |(lines, _)| lines + 1);
            self.lost = Some((lines, error.to_string()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &std::path::Path, max_files: usize) -> LogFile {
        let files = LogFiles { directory: directory.to_owned(), max_files, max_size: 100 };
        LogFile::open(&files).unwrap()
    }

    fn write(log: &mut LogFile, lines: std::ops::Range<usize>) {
        for i in lines {
            log.write_all(format!("line {i:04} {}\n", "x".repeat(20)).as_bytes()).unwrap();
        }
    }

    fn sizes(directory: &std::path::Path) -> Vec<(String, u64)> {
        let mut sizes: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn so_many_files_of_such_a_size_hold_the_newest_lines() {
        let dir = tempfile::TempDir::new().unwrap();
        let directory = dir.path().join("made");
        let mut log = log(&directory, 3);
        write(&mut log, 0..50);
        drop(log);
        let names = sizes(&directory);
        assert_eq!(
            names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["tanist.log", "tanist.log.1", "tanist.log.2"]
        );
        assert!(names.iter().all(|(_, size)| *size <= 100), "{names:?}");
        let all: String = ["tanist.log.2", "tanist.log.1", "tanist.log"]
            .map(|name| fs::read_to_string(directory.join(name)).unwrap())
            .concat();
        let numbers: Vec<_> = all.lines().map(|line| line[5..9].parse::<usize>().unwrap()).collect();
        assert_eq!(numbers, (50 - numbers.len()..50).collect::<Vec<_>>(), "in order, without a gap");
        assert!(numbers.len() >= 7);
    }

    #[test]
    fn next_start_goes_on_in_the_same_file() {
        let dir = tempfile::TempDir::new().unwrap();
        write(&mut log(dir.path(), 3), 0..2);
        write(&mut log(dir.path(), 3), 2..3);
        assert_eq!(fs::read_to_string(dir.path().join("tanist.log")).unwrap().lines().count(), 3);
    }

    #[test]
    fn one_file_alone_begins_anew() {
        let dir = tempfile::TempDir::new().unwrap();
        write(&mut log(dir.path(), 1), 0..50);
        assert!(matches!(&sizes(dir.path())[..], [(name, size)] if name == "tanist.log" && *size <= 100));
    }

    #[test]
    fn line_longer_than_a_file_has_a_file_of_its_own() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut log = log(dir.path(), 2);
        write(&mut log, 0..1);
        log.write_all(&[b'y'; 500]).unwrap();
        write(&mut log, 1..2);
        let names = sizes(dir.path());
        assert_eq!(names[1], ("tanist.log.1".to_owned(), 500), "{names:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_costs_lines_and_is_told_when_there_is_room() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut log = log(dir.path(), 3);
        let file = dir.path().join("tanist.log");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        log.file = None;
        write(&mut log, 0..5);
        fs::remove_file(&file).unwrap();
        write(&mut log, 5..6);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("(5 lines of this log could not be written: No space left"), "{text}");
        assert!(text.contains("line 0005"), "{text}");
    }

    #[test]
    fn folder_in_the_way_of_an_old_file_keeps_the_bound() {
        let dir = tempfile::TempDir::new().unwrap();
        // As if the file could not be renamed.
        fs::create_dir_all(dir.path().join("tanist.log.1").join("in the way")).unwrap();
        let mut log = log(dir.path(), 2);
        for i in 0..50 {
            write(&mut log, i..i + 1);
            let length = fs::metadata(dir.path().join("tanist.log")).unwrap().len();
            assert!(length <= 200, "{length}");
        }
        let text = fs::read_to_string(dir.path().join("tanist.log")).unwrap();
        assert!(text.contains("line 0049"), "{text}");
    }

    #[test]
    fn directory_that_is_a_file_is_refused_at_the_start() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let files = LogFiles { directory: path, max_files: 2, max_size: 100 };
        assert!(LogFile::open(&files).is_err());
    }
}
