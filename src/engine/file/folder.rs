//! The folder of the log: who may read it, and whether it has room.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// How the names of files end that have no whole content yet.
pub(super) const UNFINISHED: &str = "new";

/// Bytes that are written to see whether the disk takes them: a block, which has room for a record of common size.
const TRIAL_BYTES: usize = 4 << 10;

/// Bytes of room from which on nothing is tried.
const ROOM_BYTES: u64 = 1 << 20;

/// Returns options for a file that only this user may read.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the folder where there is none, for this user alone.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Returns whether a file of this name is one that a log makes.
fn is_ours(name: &str) -> bool {
    matches!(name, "lock" | "notices" | "notices.new" | "notices.broken" | "trial.new")
        || name.split_once('.').is_some_and(|(number, end)| {
            matches!(end, "log" | "broken" | UNFINISHED)
                && number.len() == 20
                && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// Takes from others the right to read what an earlier version wrote, and removes what was not finished.
///
/// The folder itself may hold more than the log: then it stays as it is.
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
            // What can't be removed is written over when its turn comes.
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

/// Returns whether an error says that there is no room, now.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns whether the disk has room for certain.
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

/// Writes a file and removes it.
pub(super) fn try_write(folder: &Path) -> io::Result<()> {
    let path = folder.join("trial").with_extension(UNFINISHED);
    let mut file = private().create(true).truncate(true).write(true).open(&path)?;
    let written = file.write_all(&[0; TRIAL_BYTES]).and_then(|()| file.sync_data());
    drop(file);
    let removed = fs::remove_file(&path);
    written.and(removed)
}
