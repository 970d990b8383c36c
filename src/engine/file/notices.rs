//! Notices in a file of their own, kept regardless of how many events are removed.
//!
//! Invariant: a notice is synchronized to disk before its sender has an answer. An incomplete notice at the end is cut
//! off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use super::super::log::{NOTICES_MAX, Record};
use super::folder::private;
use super::segment::{SegmentHead, SegmentItem, SegmentReader, write_record};

const HEAD: SegmentHead = SegmentHead { epoch: 0, boot: 0, is_safe: true, next: Vec::new() };

/// File of notices, open at its end.
#[derive(Debug)]
pub(super) struct Notices {
    file: File,
    bytes: u64,
    /// Whether an incomplete notice may follow the complete ones.
    is_torn: bool,
}

impl Notices {
    /// Opens or creates the file, and passes its notices to `on_notice`.
    pub(super) fn open(folder: &Path, on_notice: &dyn Fn(&[u8])) -> io::Result<Self> {
        let path = folder.join("notices");
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let mut whole = None;
        if path.exists() {
            if let Some((_, mut reader)) = SegmentReader::open(BufReader::new(File::open(&path)?))? {
                while reader.next()? == SegmentItem::Record {
                    kept.extend(reader.events().map(|(_, notice)| notice.to_vec()));
                }
                whole = Some(reader.end);
            }
            if whole.is_none() {
                tracing::warn!(path = %path.display(), "no file of notices: it is put aside");
                fs::rename(&path, path.with_extension("broken"))?;
            }
        }
        for notice in &kept {
            on_notice(notice);
        }
        let too_many = kept.len().saturating_sub(NOTICES_MAX as usize);
        if let Some(bytes) = whole.filter(|_| too_many == 0) {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            return Ok(Self { file, bytes, is_torn: false });
        }
        let new = path.with_extension("new");
        let file = private().create(true).truncate(true).write(true).open(&new)?;
        let mut notices = Self { file, bytes: 0, is_torn: false };
        notices.write(&HEAD.to_bytes())?;
        for notice in &kept[too_many..] {
            notices.put(&String::from_utf8_lossy(notice))?;
        }
        notices.file.sync_data()?;
        fs::rename(&new, &path)?;
        Ok(notices)
    }

    /// Appends a notice. Blocks for the disk.
    pub(super) fn add(&mut self, notice: &str) -> io::Result<()> {
        let before = self.bytes;
        self.put(notice)?;
        self.file.sync_data().inspect_err(|_| {
            // The sender retries, so the notice, which may be on disk or not, is cut off.
            self.bytes = before;
            self.is_torn = true;
        })
    }

    fn put(&mut self, notice: &str) -> io::Result<()> {
        let mut record = Vec::new();
        if !write_record(&[Record { shard: 0, json: notice.to_owned() }], &mut record) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.write(&record)
    }

    /// Writes after the complete notices.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.cut_torn()?;
        self.is_torn = true;
        if let Err(error) = self.file.write_all(bytes) {
            // If this fails, the next write cuts it.
            let _ = self.cut_torn();
            return Err(error);
        }
        self.is_torn = false;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn cut_torn(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            self.is_torn = false;
        }
        Ok(())
    }
}
