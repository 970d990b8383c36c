//! Segments on disk, and the one that is written to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::super::error::EngineError;
use super::folder;
use super::segment::{END, SegmentHead};
use crate::event::Sequence;

/// Segment on disk.
#[derive(Clone, Debug)]
pub(super) struct LogSegment {
    pub(super) path: PathBuf,
    pub(super) epoch: u64,
    /// Size of its complete records, in bytes.
    pub(super) bytes: u64,
    pub(super) next: Vec<Sequence>,
}

/// Open segment, to which records are appended.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) file: File,
    pub(super) segment: LogSegment,
    /// Whether something was written since the segment was last synchronized.
    pub(super) is_dirty: bool,
    /// Whether an incomplete record may follow its complete ones.
    pub(super) is_torn: bool,
    /// Whether synchronizing failed: a part of the segment may be missing on disk although it can still be read.
    pub(super) is_suspect: bool,
}

pub(super) fn broken(path: &Path, what: &str, error: &io::Error) -> EngineError {
    EngineError::Unreachable(describe(path, what, error))
}

pub(super) fn describe(path: &Path, what: &str, error: &io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.log"))
}

/// Creates a segment. The file gets its name only once its head is synchronized, so the remains of a failed attempt are
/// never read as a segment.
pub(super) fn begin(dir: &Path, number: u64, head: &SegmentHead) -> io::Result<OpenSegment> {
    let path = path_of(dir, number);
    let bytes = head.to_bytes();
    let new = path.with_extension(folder::UNFINISHED);
    let make = || {
        let mut file = folder::private().create(true).truncate(true).write(true).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        // The folder's entry must be synchronized too.
        #[cfg(unix)]
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    let file = make().inspect_err(|_: &io::Error| {
        // A file that can't be removed is overwritten by the next attempt.
        let _ = fs::remove_file(&new);
        let _ = fs::remove_file(&path);
    })?;
    let segment = LogSegment { path, epoch: head.epoch, bytes: bytes.len() as u64, next: head.next.clone() };
    Ok(OpenSegment { file, segment, is_dirty: false, is_torn: false, is_suspect: false })
}

impl OpenSegment {
    /// Writes after the complete records. The remains of a failed write are cut off, now or before the next write; the
    /// error tells which.
    pub(super) fn write(&mut self, bytes: &[u8], is_safe: bool) -> Result<(), NotWritten> {
        if let Err(error) = self.cut_torn() {
            return Err(NotWritten { error, may_be_there: false });
        }
        self.is_torn = true;
        let written = self.file.write_all(bytes);
        let written = if is_safe { written.and_then(|()| self.file.sync_data()) } else { written };
        if let Err(error) = written {
            let is_cut = self.cut_torn().is_ok();
            return Err(NotWritten { error, may_be_there: !is_cut });
        }
        self.is_torn = false;
        self.segment.bytes += bytes.len() as u64;
        self.is_dirty |= !is_safe;
        Ok(())
    }

    pub(super) fn cut_torn(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.segment.bytes)?;
            self.file.seek(SeekFrom::Start(self.segment.bytes))?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Synchronizes what was written.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        // The kernel reports an error only once: another attempt would succeed although data is lost.
        self.is_suspect |= synced.is_err();
        self.is_dirty &= synced.is_err();
        synced
    }

    /// Marks the segment complete, after synchronizing everything before the mark.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.cut_torn()?;
        self.sync()?;
        if self.is_suspect {
            return Err(io::Error::other("a part of it could not be made safe"));
        }
        self.file.write_all(END)?;
        self.file.sync_data()
    }
}

/// Failed write.
pub(super) struct NotWritten {
    pub(super) error: io::Error,
    /// Whether a reader may still find the bytes.
    pub(super) may_be_there: bool,
}

/// Cuts off everything after the complete records of a segment.
pub(super) fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_data()
}
