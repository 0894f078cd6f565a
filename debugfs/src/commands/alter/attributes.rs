//! Commands that change modes, owners, times, extended attributes and ACLs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use cowfs_format::layout::FileType;
use cowfs_format::ops::{self, Change};
use cowfs_format::read::acl::{self, AclTag};
use cowfs_format::read::inode;
use cowfs_format::time::Utc;
use cowfs_format::txn::{Timestamp, Txn};
use cowfs_format::units::BlockNo;

use super::below::each_below;
use super::mode::Mode;
use super::names::make;
use super::{
    AllAltered, Altered, FILES, Said, command, each, entry, find, found, one, place, text, text_of,
    value, word,
};
use crate::schema;
use crate::session::Session;
use crate::table::{Args, Command, Count, FILE, OperandKind, Opt, flag, operand};
use crate::words;

const RECURSIVE: Opt = flag('R', "recursive", "change all that is below as well");

pub(in crate::commands) const COMMANDS: &[Command] = &[
    command(
        "chmod",
        &[RECURSIVE],
        &[word("MODE"), FILES],
        (
            "Changes the permission bits of files.",
            "MODE is octal, or symbolic as with chmod(1): u+x,go-w,a=rX. Without ugoa a change is for \
             all. An access ACL follows, as on a mounted volume. With -R symbolic links are left out, \
             and a large tree takes several transactions, each of which leaves a sound volume.",
        ),
        schema::of::<AllAltered>,
        chmod,
    ),
    command(
        "chown",
        &[RECURSIVE],
        &[word("UID:GID"), FILES],
        (
            "Changes the owner and group of files.",
            "They are numbers; UID, UID: and :GID leave the other one as it is. Set-ID bits and \
             capabilities of files go, and quota moves, as on a mounted volume. With -R symbolic links \
             are changed themselves, and a large tree takes several transactions, each of which leaves \
             a sound volume.",
        ),
        schema::of::<AllAltered>,
        chown,
    ),
    command(
        "touch",
        &[
            flag('a', "atime", "the time of the last access only"),
            flag('m', "mtime", "the time of the last change only"),
            flag('c', "no-create", "make no file"),
            value(
                'd',
                "date",
                "TIME",
                "in place of now: seconds since 1970, or YYYY-MM-DD[THH:MM[:SS]] in UTC; the seconds \
                 may have a fraction",
            ),
        ],
        &[FILES],
        (
            "Sets the times of files; makes an empty file where there is none.",
            "What is made is as mknod makes it.",
        ),
        schema::of::<AllAltered>,
        touch,
    ),
    command(
        "setxattr",
        &[value(
            'f',
            "file",
            "HOST",
            "take the value from a file of the host",
        )],
        &[
            FILE,
            word("NAME"),
            operand("VALUE", OperandKind::Word, Count::Optional),
        ],
        (
            "Sets an extended attribute of a file.",
            "NAME has its namespace: user.NAME, trusted.NAME, security.NAME. VALUE is text, or \
             hexadecimal digits behind 0x. ACLs are set with setfacl.",
        ),
        schema::of::<Altered>,
        set_xattr,
    ),
    command(
        "rmxattr",
        &[],
        &[FILE, operand("NAME", OperandKind::Word, Count::Many)],
        ("Removes extended attributes of a file.", ""),
        schema::of::<Altered>,
        remove_xattrs,
    ),
    command(
        "setfacl",
        &[
            value('m', "modify", "ACL", "add or change entries"),
            value(
                'x',
                "remove",
                "ENTRIES",
                "remove the entries of users and groups",
            ),
            value('s', "set", "ACL", "replace all entries"),
            flag('b', "remove-all", "remove all entries beyond the mode"),
            flag('d', "default", "change the default ACL of a directory"),
            flag('k', "remove-default", "remove the default ACL"),
        ],
        &[FILES],
        (
            "Changes access control lists.",
            "An ACL is written as setfacl(1) does, with numbers: u:1000:rwx,g:50:r-x,m::rwx,o::---. \
             Unless an entry of the mask is given, it becomes what the entries beside those of the \
             owner and the others grant. The mode of the file follows.",
        ),
        schema::of::<AllAltered>,
        set_acl,
    ),
];

fn chmod(session: &mut Session, args: &Args) -> Said {
    let mode = Mode::parse(text_of(args, 0)?)?;
    let files = args.all().get(1..).unwrap_or_default();
    let change = |txn: &mut Txn<'_>, blkno| -> Result<()> {
        let old = inode::read(txn.view(), blkno)?.i_mode.get();
        let wanted = Change {
            mode: Some(mode.applied(old) & 0o7777),
            ..Change::default()
        };
        Ok(ops::change(txn, blkno, &wanted, Timestamp::now())?)
    };
    if args.has('R') {
        let kinds = |kind| kind != Some(FileType::Symlink);
        return each_below(session, files, kinds, change);
    }
    each(session, files, |txn, base, spec| {
        let blkno = find(txn, base, spec)?;
        if inode::read(txn.view(), blkno)?.file_type() == Some(FileType::Symlink) {
            bail!("{}: symbolic links have no mode", words::quoted(spec));
        }
        change(txn, blkno)?;
        Ok(blkno)
    })
}

fn chown(session: &mut Session, args: &Args) -> Said {
    let owner = text_of(args, 0)?;
    let (uid, gid) = owner.split_once(':').unwrap_or((owner, ""));
    let id = |word: &str| -> Result<Option<u32>> {
        if word.is_empty() {
            return Ok(None);
        }
        // The largest number stands for none.
        let id = word.parse().ok().filter(|id| *id < u32::MAX);
        id.map(Some)
            .with_context(|| format!("\"{word}\" is no number of a user or group"))
    };
    let (uid, gid) = (id(uid)?, id(gid)?);
    if uid.is_none() && gid.is_none() {
        bail!("neither a user nor a group; give UID:GID, UID or :GID");
    }
    let wanted = Change {
        uid,
        gid,
        ..Change::default()
    };
    let files = args.all().get(1..).unwrap_or_default();
    let change = |txn: &mut Txn<'_>, blkno| -> Result<()> {
        Ok(ops::change(txn, blkno, &wanted, Timestamp::now())?)
    };
    if args.has('R') {
        return each_below(session, files, |_| true, change);
    }
    each(session, files, |txn, base, spec| {
        let blkno = find(txn, base, spec)?;
        change(txn, blkno)?;
        Ok(blkno)
    })
}

/// Seconds since 1970 or a date in UTC, perhaps with a fraction.
fn time_of(word: &str) -> Result<Timestamp> {
    let wrong =
        || format!("\"{word}\" is no time; 1767225600.5 and 2026-01-01T00:00:00.5 are times");
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let seconds = match Utc::parse(whole) {
        Some(time) => time.0,
        None if digits(whole) => whole.parse().with_context(wrong)?,
        None => bail!(wrong()),
    };
    if !digits(fraction) {
        bail!(wrong());
    }
    let nine: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Ok(Timestamp {
        seconds,
        nanos: nine.parse().with_context(wrong)?,
    })
}

fn touch(session: &mut Session, args: &Args) -> Said {
    let time = match args.value('d') {
        None => Timestamp::now(),
        Some(word) => time_of(text(word)?)?,
    };
    let both = args.has('a') == args.has('m');
    let wanted = Change {
        atime: (both || args.has('a')).then_some(time),
        mtime: (both || args.has('m')).then_some(time),
        ..Change::default()
    };
    each(session, args.all(), |txn, base, spec| {
        let blkno = match found(txn, base, spec)? {
            Some(blkno) => blkno,
            None if args.has('c') => return find(txn, base, spec),
            None => {
                let at = place(txn, base, spec)?;
                match entry(txn, &at)? {
                    Some(blkno) => blkno,
                    None => make(txn, &at, (0o100_666, 0o022), |txn, new| {
                        ops::make_node(txn, at.directory, &at.name, 0, new)
                    })?,
                }
            }
        };
        ops::change(txn, blkno, &wanted, Timestamp::now())?;
        Ok(blkno)
    })
}

fn set_xattr(session: &mut Session, args: &Args) -> Said {
    let (spec, name) = (args.need(0)?, args.need(1)?);
    if acl::is_acl(name) {
        bail!("ACLs are set with setfacl");
    }
    let value = match (args.value('f'), args.get(2)) {
        (Some(host), None) => {
            let host = session.host_dir.join(OsStr::from_bytes(host));
            read_value(&host).with_context(|| host.display().to_string())?
        }
        (None, Some(value)) => match value.strip_prefix(b"0x") {
            Some(digits) => hex(digits).context("0x is followed by pairs of hexadecimal digits")?,
            None => value.to_vec(),
        },
        _ => bail!("a value is given either as VALUE or with -f"),
    };
    one(session, |txn, base| {
        let blkno = find(txn, base, spec)?;
        let kind = inode::read(txn.view(), blkno)?.file_type();
        let plain = matches!(kind, Some(FileType::Regular | FileType::Directory));
        if name.starts_with(b"user.") && !plain {
            bail!("only regular files and directories have attributes of users");
        }
        ops::set_xattr(txn, blkno, name, &value, Timestamp::now())?;
        Ok(blkno)
    })
}

/// The bytes of a small file.
fn read_value(path: &std::path::Path) -> Result<Vec<u8>> {
    /// No value is longer.
    const MOST: u64 = 65536;
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        bail!("it is no regular file");
    }
    if meta.len() > MOST {
        bail!("a value has at most {MOST} bytes");
    }
    Ok(std::fs::read(path)?)
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    let byte = |pair: &[u8]| u8::try_from(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?).ok();
    pairs.map(byte).collect()
}

fn remove_xattrs(session: &mut Session, args: &Args) -> Said {
    let spec = args.need(0)?;
    let names = args.all().get(1..).unwrap_or_default();
    one(session, |txn, base| {
        let blkno = find(txn, base, spec)?;
        for name in names {
            ops::remove_xattr(txn, blkno, name, Timestamp::now())?;
        }
        Ok(blkno)
    })
}

/// What setfacl is asked for.
struct Wanted {
    set: Option<Vec<(AclTag, u16)>>,
    modify: Vec<(AclTag, u16)>,
    remove: Vec<AclTag>,
    clear: bool,
    /// Whether a mask is given.
    masked: bool,
}

fn entries_of(args: &Args, option: char) -> Result<Option<Vec<(AclTag, u16)>>> {
    let Some(word) = args.value(option) else {
        return Ok(None);
    };
    let parsed = acl::parse(text(word)?, &|_, _| None);
    let entries = parsed.and_then(|value| acl::entries(&value));
    entries.map(Some).with_context(|| {
        format!(
            "\"{}\" is no ACL; user::rw-,user:1000:r--,group::r--,mask::r--,other::r-- is one",
            words::quoted(word)
        )
    })
}

/// The entries that `-x` names, like u:1000 and g:50.
fn removed_of(args: &Args) -> Result<Vec<AclTag>> {
    let Some(word) = args.value('x') else {
        return Ok(Vec::new());
    };
    let tag = |entry: &str| -> Option<AclTag> {
        let entry = entry.strip_suffix(':').unwrap_or(entry);
        let (tag, id) = entry.split_once(':').unwrap_or((entry, ""));
        Some(match (tag, id) {
            ("m" | "mask", "") => AclTag::Mask,
            ("u" | "user", id) => AclTag::User(id.parse().ok()?),
            ("g" | "group", id) => AclTag::Group(id.parse().ok()?),
            _ => return None,
        })
    };
    let entries = text(word)?.split(',');
    let all = entries.map(|entry| {
        tag(entry).with_context(|| format!("\"{entry}\" is no entry to remove; u:1000 is one"))
    });
    all.collect()
}

impl Wanted {
    /// A list as it becomes; what has no entry for the owner, the group or the others yet gets it
    /// from `base`.
    fn applied(
        &self,
        mut acl: Vec<(AclTag, u16)>,
        base: &[(AclTag, u16)],
    ) -> Result<Vec<(AclTag, u16)>> {
        if self.clear {
            acl.retain(|(tag, _)| is_base(*tag));
        }
        if let Some(set) = &self.set {
            acl.clone_from(set);
        }
        for tag in &self.remove {
            let before = acl.len();
            acl.retain(|(held, _)| held != tag);
            if acl.len() == before {
                bail!("there is no such entry to remove");
            }
        }
        for (tag, perm) in &self.modify {
            acl.retain(|(held, _)| held != tag);
            acl.push((*tag, *perm));
        }
        for (tag, perm) in base {
            if !acl.iter().any(|(held, _)| held == tag) {
                acl.push((*tag, *perm));
            }
        }
        let named = acl
            .iter()
            .any(|(tag, _)| !is_base(*tag) && *tag != AclTag::Mask);
        let removes_mask = self.remove.contains(&AclTag::Mask);
        if !self.masked
            && !removes_mask
            && (named || acl.iter().any(|(tag, _)| *tag == AclTag::Mask))
        {
            acl.retain(|(tag, _)| *tag != AclTag::Mask);
            let group = |tag: &AclTag| !matches!(tag, AclTag::UserObj | AclTag::Other);
            let granted = acl.iter().filter(|(tag, _)| group(tag));
            let mask = granted.fold(0, |mask, (_, perm)| mask | perm);
            acl.push((AclTag::Mask, mask));
        }
        Ok(acl)
    }
}

const fn is_base(tag: AclTag) -> bool {
    matches!(tag, AclTag::UserObj | AclTag::GroupObj | AclTag::Other)
}

fn set_acl(session: &mut Session, args: &Args) -> Said {
    let wanted = Wanted {
        set: entries_of(args, 's')?,
        modify: entries_of(args, 'm')?.unwrap_or_default(),
        remove: removed_of(args)?,
        clear: args.has('b'),
        masked: ['s', 'm'].iter().any(|option| {
            let given = entries_of(args, *option).ok().flatten().unwrap_or_default();
            given.iter().any(|(tag, _)| *tag == AclTag::Mask)
        }),
    };
    let changes = wanted.clear || ['s', 'm', 'x'].iter().any(|option| args.has(*option));
    if !changes && !args.has('k') {
        bail!("nothing to change; give -m, -x, -s, -b or -k");
    }
    each(session, args.all(), |txn, base, spec| {
        let blkno = find(txn, base, spec)?;
        if args.has('k') {
            ops::acl::set_default(txn, blkno, None, Timestamp::now())?;
        }
        if changes && args.has('d') {
            change_default(txn, blkno, &wanted)?;
        } else if changes {
            change_access(txn, blkno, &wanted)?;
        }
        Ok(blkno)
    })
}

fn change_access(txn: &mut Txn<'_>, blkno: BlockNo, wanted: &Wanted) -> Result<()> {
    let old = ops::acl::access(txn, blkno)?;
    let mut base = old.clone();
    base.retain(|(tag, _)| is_base(*tag));
    let mut new = wanted.applied(old, &base)?;
    if wanted.clear && wanted.set.is_none() && wanted.modify.is_empty() {
        new.retain(|(tag, _)| is_base(*tag));
    }
    Ok(ops::acl::set_access(txn, blkno, &new, Timestamp::now())?)
}

fn change_default(txn: &mut Txn<'_>, blkno: BlockNo, wanted: &Wanted) -> Result<()> {
    let now = Timestamp::now();
    if wanted.clear && wanted.set.is_none() && wanted.modify.is_empty() {
        return Ok(ops::acl::set_default(txn, blkno, None, now)?);
    }
    // What a new default ACL does not say of the owner, the group and the others, the mode says.
    let old = ops::acl::default(txn, blkno)?.unwrap_or_default();
    let mut base = ops::acl::access(txn, blkno)?;
    base.retain(|(tag, _)| is_base(*tag));
    let new = wanted.applied(old, &base)?;
    Ok(ops::acl::set_default(txn, blkno, Some(&new), now)?)
}
