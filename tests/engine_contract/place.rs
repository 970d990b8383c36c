//! Folders and small file systems of a test, removed with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder. A small one is a file system of its own.
pub(crate) struct Place {
    path: PathBuf,
    /// Number of mounts at the folder.
    mounts: usize,
}

impl Place {
    /// Returns a folder that does not exist yet.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fanwire-contract-{}-{number}", std::process::id()));
        Self { path, mounts: 0 }
    }

    /// Creates a folder on a file system of this size, in KiB.
    ///
    /// # Panics
    /// If this process may not mount a file system: these tests need that right (root in CI's container).
    pub(crate) fn small(kib: usize) -> Self {
        let mut place = Self::new();
        fs::create_dir_all(&place.path).expect("a folder");
        place.mount(&format!("size={kib}k"));
        place
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    fn mount(&mut self, options: &str) {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.path).status();
        let is_done = done.is_ok_and(|status| status.success());
        assert!(
            is_done,
            "a tmpfs can't be mounted here: the faults of full and read-only disks need the right to"
        );
        self.mounts += 1;
    }

    /// Mounts an empty read-only file system over the folder, so that no new file can be made in it.
    pub(crate) fn cover(&mut self) {
        self.mount("ro,size=4k");
    }

    /// Removes the cover.
    pub(crate) fn uncover(&mut self) {
        assert!(self.unmount(&[]), "the cover is in use");
    }

    fn unmount(&mut self, options: &[&str]) -> bool {
        self.mounts -= 1;
        Command::new("umount").args(options).arg(&self.path).status().is_ok_and(|status| status.success())
    }

    /// Fills the file system to its last byte.
    pub(crate) fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = fs::File::create(self.path.join("ballast")).expect("a file");
        let chunk = [0; 4096];
        while ballast.write_all(&chunk).is_ok() {}
    }

    /// Frees the space again.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.path.join("ballast")).expect("it is there");
    }

    /// Returns the segments of a log in files, oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(&self.path)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        all.sort();
        all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.mounts > 0 {
            // The unmount is lazy, because a process that a failed test left behind may still have files open.
            self.unmount(&["-l"]);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Copies a folder with its content over another one.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}
