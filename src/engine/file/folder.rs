//! The folder of a log: permissions, leftovers of unfinished files, and free space.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Extension of files without their whole content.
pub(super) const UNFINISHED: &str = "new";

/// Bytes written to test for free space: one block, which fits a record of common size.
const TRIAL_BYTES: usize = 4 << 10;

/// Free bytes from which no test is needed.
const ROOM_BYTES: u64 = 1 << 20;

/// Returns options for a file that only this user may read.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates the folder if it is missing, for this user alone.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Returns whether a log creates files of this name.
fn is_ours(name: &str) -> bool {
    matches!(name, "lock" | "notices" | "notices.new" | "notices.broken" | "trial.new")
        || name.split_once('.').is_some_and(|(number, end)| {
            matches!(end, "log" | "broken" | UNFINISHED)
                && number.len() == 20
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// Makes files of earlier versions readable for this user alone, and removes unfinished ones.
///
/// The folder itself is made private only if it holds nothing but the log.
pub(super) fn make_private(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut is_all_ours = true;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_ours) {
            is_all_ours = false;
            continue;
        }
        let path = entry.path();
        if path.extension().is_some_and(|end| end == UNFINISHED) {
            // A file that can't be removed is overwritten later.
            let _ = fs::remove_file(&path);
            continue;
        }
        take_from_others(&path, 0o600);
    }
    if is_all_ours {
        take_from_others(folder, 0o700);
    }
}

#[cfg(unix)]
fn take_from_others(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let is_private = found.permissions().mode().trailing_zeros() >= 6;
    if found.is_symlink() || is_private {
        return;
    }
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        tracing::warn!(path = %path.display(), %error, "others on this machine may read the engine's log");
    }
}

#[cfg(not(unix))]
fn take_from_others(_: &Path, _: u32) {}

/// Returns whether an error means that the disk has no space now.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns whether the disk certainly has space.
pub(super) fn has_room(folder: &Path) -> bool {
    #[cfg(unix)]
    {
        rustix::fs::statvfs(folder)
            .is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= ROOM_BYTES)
    }
    #[cfg(not(unix))]
    {
        let _ = (folder, ROOM_BYTES);
        true
    }
}

/// Writes a test file and removes it.
pub(super) fn try_write(folder: &Path) -> io::Result<()> {
    let path = folder.join("trial").with_extension(UNFINISHED);
    let mut file = private().create(true).truncate(true).write(true).open(&path)?;
    let written = file.write_all(&[0; TRIAL_BYTES]).and_then(|()| file.sync_data());
    drop(file);
    let removed = fs::remove_file(&path);
    written.and(removed)
}
