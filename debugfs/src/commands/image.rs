//! `image`: the metadata of a volume as a sparse file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use cowfs_format::device::FileDevice;
use cowfs_format::ops::image::{ImageOptions, write_image};
use schemars::JsonSchema;
use serde::Serialize;

use crate::out;
use crate::report::{Page, PathNamed, Report, Text};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, Needs, OperandKind, flag, operand};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "image",
    aliases: &[],
    options: &[flag(
        's',
        "scramble",
        "replace names, targets of symlinks and values of attributes",
    )],
    operands: &[operand("HOST", OperandKind::Host, Count::One)],
    summary: "Writes the metadata of the volume, without the data of files, to a file of the host.",
    about: "The file is as large as the volume and almost all a hole (pack it with `tar -S` or \
            zstd before sending it). debugfs.cowfs and fsck.cowfs open it as a volume in which \
            everything is where it was. It holds no data of files, also not such as stands in \
            inodes, and clean journals only by their superblock. It does hold names, targets of \
            symlinks, attributes with their values, owners, sizes and times. -s replaces names \
            (those of the system directory and lost+found excepted) and targets by others of the \
            same length, leaves no values of attributes but ACLs, and removes what is left of \
            deleted entries; names of attributes, the label, the UUID, owners, sizes and times \
            stay. The same volume gives the same image. Blocks that should be metadata and bear no \
            signature of it could be anything: they are left out, and named.",
    needs: Needs::Volume,
    says: schema::of::<Written>,
    run: image,
}];

/// An image that was written.
#[derive(JsonSchema, Serialize)]
struct Written {
    #[serde(flatten)]
    path: PathNamed,
    size: u64,
    /// Bytes that it takes on the host.
    stored_bytes: u64,
    scrambled: bool,
    scrambled_names: u64,
    kept_names: u64,
    left_out_blocks: usize,
}

impl Text for Written {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let (size, stored) = (self.size, self.stored_bytes);
        writeln!(page, "\tSize: {size}   Stored: {stored}")?;
        if self.scrambled {
            let (new, kept) = (self.scrambled_names, self.kept_names);
            writeln!(page, "\tScrambled Names: {new}   Kept: {kept}")?;
        }
        Ok(())
    }
}

fn image(session: &mut Session, args: &Args) -> Result<Option<Box<dyn Report>>> {
    let path = session.host_dir.join(OsStr::from_bytes(args.need(0)?));
    let place = || path.display().to_string();
    session.scanner()?;
    let (scanner, view) = session.scan()?;
    let open = session.opened()?;
    out::create(&path, &open.path).with_context(place)?;
    // What was written is read again for the images in a log.
    let file = File::options().read(true).write(true).open(&path);
    let file = file.with_context(place)?;
    let size = view.geo().bytes();
    file.set_len(size).with_context(place)?;
    let device = FileDevice::new(file).with_context(place)?;
    let options = ImageOptions {
        scramble: args.has('s'),
    };
    let done = write_image(scanner, view, open.journals(), &device, options).with_context(place)?;
    let stored_bytes = device.file().metadata().with_context(place)?.blocks() * 512;
    let report = Written {
        path: PathNamed::new(path.as_os_str().as_bytes()),
        size,
        stored_bytes,
        scrambled: options.scramble,
        scrambled_names: done.scrambled,
        kept_names: done.kept,
        left_out_blocks: done.left_out.len(),
    };
    for error in done.left_out {
        session.note(format!("left out: {error}"));
    }
    if done.kept > 0 {
        let kept = done.kept;
        session.note(format!(
            "{kept} short names were kept, because no other of their length fits into the index"
        ));
    }
    Ok(Some(Box::new(report)))
}
