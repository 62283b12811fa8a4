//! Follows the sidecar's log files: its output goes to a file, so that nothing waits for a slow reader.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most read at one look; older lines are passed over.
const MOST: u64 = 64 * 1024;

/// A file and how far it was read.
#[derive(Debug, Default)]
pub struct Tail {
    path: PathBuf,
    at: u64,
}

impl Tail {
    /// Follow `path` from its present end.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Tail { path: path.to_owned(), at: path.metadata().map_or(0, |m| m.len()) }
    }

    /// The whole lines since the last look. A file that was cut is read from its start.
    pub fn lines(&mut self) -> Vec<String> {
        self.read().unwrap_or_default()
    }

    /// Go on with `path` from its start, if it is another one.
    pub fn switch(&mut self, path: &Path) {
        if self.path != path {
            *self = Tail { path: path.to_owned(), at: 0 };
        }
    }

    fn read(&mut self) -> std::io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.at {
            self.at = 0;
        }
        self.at = self.at.max(length.saturating_sub(MOST));
        file.seek(SeekFrom::Start(self.at))?;
        let mut data = Vec::new();
        file.take(MOST).read_to_end(&mut data)?;
        // What follows the last line end is a line in the making.
        let whole = data.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.at += whole as u64;
        Ok(String::from_utf8_lossy(&data[..whole]).lines().map(str::to_owned).collect())
    }
}

/// The newest service log in `folder`; their names sort by day.
#[must_use]
pub fn newest_service_log(folder: &Path) -> Option<PathBuf> {
    let names = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    names
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("mlx_service_") && name.ends_with(".log")
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn whole_lines_once_and_again_after_a_cut() {
        let path = std::env::temp_dir().join(format!("mlx-sidecar-tail-{}", std::process::id()));
        fs::write(&path, "old\n").expect("written");
        let mut tail = Tail::new(&path);
        let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(tail.lines(), ["one"]);
        file.write_all(b"o\n").expect("written");
        assert_eq!(tail.lines(), ["two"]);
        assert!(tail.lines().is_empty());
        fs::write(&path, "new\n").expect("written");
        assert_eq!(tail.lines(), ["new"]);
        fs::remove_file(&path).expect("removed");
        assert!(tail.lines().is_empty());
    }
}
