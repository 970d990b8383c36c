//! Whether the files that settings name are others than at the last look: a reload says so.
//!
//! Imports public items only. Always: nothing of a file is kept but a number that its bytes make.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use fanwire::config::Config;

/// The files of a configuration by key, as they were when they were read.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<&'static str, u64>);

impl Files {
    /// Looks at the files. Blocks for them.
    pub(super) fn of(config: &Config) -> Self {
        let mut files = Self::default();
        let _ = files.looked_at_again(config);
        files
    }

    /// Looks at them again: each key with its file, and whether it is another than at the last look. Blocks.
    pub(super) fn looked_at_again(&mut self, config: &Config) -> Vec<(&'static str, PathBuf, bool)> {
        let now = config.files().into_iter().map(|(key, path)| {
            let mark = mark(&path);
            (key, path, mark)
        });
        let now: Vec<_> = now.collect();
        let told =
            now.iter().map(|(key, path, mark)| (*key, path.clone(), self.0.get(key) != Some(mark))).collect();
        self.0 = now.into_iter().map(|(key, _, mark)| (key, mark)).collect();
        told
    }
}

/// A number that is another where the file is another; of a folder, where one of its files is.
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
            // One that can't be read is none.
            fs::read(&file).unwrap_or_default().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_or_a_file_of_a_folder_that_is_another_is_noticed() {
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
