//! Detects changes of the files that settings name, so that a reload can report them.
//!
//! Always: nothing of a file is kept but a hash of its bytes.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use fanwire::config::Config;

/// Hashes of a configuration's files, by key, at the time of the last read.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<&'static str, u64>);

impl Files {
    /// Reads the files. Blocks on the file system.
    pub(super) fn of(config: &Config) -> Self {
        let mut files = Self::default();
        let _ = files.read_again(config);
        files
    }

    /// Reads the files again. Returns each key with its file, and whether the file differs from the previous
    /// read. Blocks on the file system.
    pub(super) fn read_again(&mut self, config: &Config) -> Vec<(&'static str, PathBuf, bool)> {
        let now = config.files().into_iter().map(|(key, path)| {
            let mark = mark(&path);
            (key, path, mark)
        });
        let now: Vec<_> = now.collect();
        let files =
            now.iter().map(|(key, path, mark)| (*key, path.clone(), self.0.get(key) != Some(mark))).collect();
        self.0 = now.into_iter().map(|(key, _, mark)| (key, mark)).collect();
        files
    }
}

/// Returns a hash of a file's path and bytes, or of a folder's file names and their bytes.
fn mark(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    if let Ok(bytes) = fs::read(path) {
        bytes.hash(&mut hasher);
    } else if let Ok(entries) = fs::read_dir(path) {
        let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        all.sort();
        for file in all {
            file.hash(&mut hasher);
            // An unreadable file counts as empty.
            fs::read(&file).unwrap_or_default().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_or_file_of_a_folder_is_noticed() {
        let dir = std::env::temp_dir().join(format!("fanwire-files-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("a.json");
        fs::write(&file, "1").expect("a file");
        let before = (mark(&file), mark(&dir));
        assert_eq!(before, (mark(&file), mark(&dir)));
        fs::write(&file, "2").expect("a file");
        let after = (mark(&file), mark(&dir));
        assert!(before.0 != after.0 && before.1 != after.1);
        fs::remove_dir_all(&dir).expect("ours");
    }
}
