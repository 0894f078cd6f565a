//! Random operations done to a [`Model`] and written down as a shell script, for the driver to do the same.
//!
//! The script runs in the root of the volume. `$IN/noise` holds [`noise`], which contents are cut from.

#![allow(clippy::unwrap_used)] // Part of tests.

use cowfs_format::layout::{Features, Incompat, RoCompat};
use cowfs_format::units::{index, low16, low32};

use crate::model::{Model, Node, Rng, What};
use crate::session::pattern;
use crate::sum;
use crate::walk::{Entry, Value};

/// Bytes of [`noise`].
const NOISE: u64 = 1 << 20;

/// What contents are cut from.
#[must_use]
pub fn noise() -> Vec<u8> {
    pattern(index(NOISE), 77)
}

fn quoted(path: &[u8]) -> String {
    format!("'{}'", std::str::from_utf8(path).unwrap())
}

/// Does `steps` random operations to the model; the script that does them to the volume.
pub fn play(model: &mut Model, rng: &mut Rng, features: Features, steps: u64) -> String {
    let noise = noise();
    let mut script = "umask 022\ncd $MNT\n".to_owned();
    for _ in 0..steps {
        if let Some(line) = step(model, rng, features, &noise) {
            script.push_str(&line);
            script.push('\n');
        }
    }
    script.push_str("cd /\n");
    script
}

/// An inode that root makes.
fn made(what: What, mode: u16) -> Node {
    let links = if what == What::Directory { 2 } else { 1 };
    Node {
        what,
        mode,
        owner: (0, 0),
        links,
        xattrs: std::collections::BTreeMap::new(),
    }
}

#[allow(clippy::too_many_lines, reason = "a list of operations")]
fn step(model: &mut Model, rng: &mut Rng, features: Features, noise: &[u8]) -> Option<String> {
    let files = model.files();
    Some(match rng.below(17) {
        0 => {
            let path = model.new_ascii_path(rng);
            model.add(&path, made(What::Directory, 0o040_755));
            format!("mkdir {}", quoted(&path))
        }
        1 | 2 => {
            let path = model.new_ascii_path(rng);
            let (line, bytes) = write(&path, 0, rng, noise);
            model.add(&path, made(What::File(bytes), 0o100_644));
            line
        }
        3 | 4 => {
            let path = rng.pick(&files)?.clone();
            let held = model.bytes(&path);
            let offset = rng.below(held.len() as u64 * 3 / 2 + 5000);
            let (line, bytes) = write(&path, offset, rng, noise);
            let offset = index(offset);
            held.resize(held.len().max(offset + bytes.len()), 0);
            held[offset..offset + bytes.len()].copy_from_slice(&bytes);
            line
        }
        // On volumes whose files have no holes, Linux 6.12 leaves the old bytes of a file's last block behind its end, and
        // shows them when it grows again.
        5 if features.has(Incompat::SPARSE_ALLOC) => {
            let path = rng.pick(&files)?.clone();
            let held = model.bytes(&path);
            let size = rng.below(held.len() as u64 * 3 / 2 + 3000);
            held.resize(index(size), 0);
            format!("truncate -s {size} {}", quoted(&path))
        }
        6 if features.has(Incompat::SPARSE_ALLOC) => {
            let path = rng.pick(&files)?.clone();
            let held = model.bytes(&path);
            let from = rng.below(held.len() as u64 + 1);
            let len = rng.below(held.len() as u64 + 5000) + 1;
            let name = quoted(&path);
            if rng.below(2) == 0 && features.ro_compat.contains(RoCompat::UNWRITTEN) {
                held.resize(held.len().max(index(from + len)), 0);
                format!("fallocate -o {from} -l {len} {name}")
            } else {
                // The driver refuses what reaches beyond the end of a file that stands in its inode.
                let len = len.min(held.len() as u64 - from);
                if len == 0 {
                    return None;
                }
                held[index(from)..index(from + len)].fill(0);
                format!("fallocate -p -o {from} -l {len} {name}")
            }
        }
        7 => {
            let all = model.paths(|node| node.what != What::Directory);
            let from = rng.pick(&all)?.clone();
            let to = model.new_ascii_path(rng);
            model.link(&from, &to);
            format!("ln {} {}", quoted(&from), quoted(&to))
        }
        8 => {
            let path = model.new_ascii_path(rng);
            let target = "t/".repeat(index(rng.below(2) * rng.below(1500) + 1));
            let line = format!("ln -s {target} {}", quoted(&path));
            model.add(&path, made(What::Symlink(target.into_bytes()), 0o120_777));
            line
        }
        9 => {
            let path = model.new_ascii_path(rng);
            let (major, minor) = (rng.below(4096), rng.below(1 << 20));
            let device = minor & 0xFF | major << 8 | (minor & !0xFF) << 12;
            model.add(&path, made(What::Node(device), 0o020_644));
            format!("mknod {} c {major} {minor}", quoted(&path))
        }
        10 => {
            let all = model.paths(|node| node.what != What::Directory);
            let path = rng.pick(&all)?.clone();
            model.remove(&path);
            format!("rm -f {}", quoted(&path))
        }
        11 => {
            let mut all = model.paths(|node| node.what == What::Directory);
            all.retain(|path| model.is_empty(path));
            let path = rng.pick(&all)?.clone();
            model.remove(&path);
            format!("rmdir {}", quoted(&path))
        }
        12 => {
            let from = rng.pick(&model.paths(|_| true))?.clone();
            let directory = model.node(&from).what == What::Directory;
            let mut to = model.new_ascii_path(rng);
            if rng.below(3) == 0 {
                let mut over = model.paths(|node| (node.what == What::Directory) == directory);
                over.retain(|path| !directory || model.is_empty(path));
                over.retain(|path| !model.same(path, &from));
                to = rng.pick(&over)?.clone();
            }
            if to.starts_with(&[&from[..], b"/"].concat()) {
                return None;
            }
            model.rename(&from, &to);
            format!("mv -fT {} {}", quoted(&from), quoted(&to))
        }
        13 if features.has(Incompat::REFCOUNT_TREE) => {
            let from = rng.pick(&files)?.clone();
            // Of a file that stands in its inode the driver copies how much room there is beside
            // attributes, which the copy does not have.
            if model.bytes(&from).len() < 4096 {
                return None;
            }
            let to = model.new_ascii_path(rng);
            let (bytes, mode) = (model.bytes(&from).clone(), model.node(&from).mode);
            model.add(&to, made(What::File(bytes), mode & !0o022));
            format!("cp --reflink=always {} {}", quoted(&from), quoted(&to))
        }
        14 | 15 if features.has(Incompat::XATTR) => {
            let all = model.paths(|node| matches!(node.what, What::Directory | What::File(_)));
            let path = rng.pick(&all)?.clone();
            let names: Vec<Vec<u8>> = model.node(&path).xattrs.keys().cloned().collect();
            if rng.below(3) == 0
                && let Some(name) = rng.pick(&names)
            {
                model.node(&path).xattrs.remove(name);
                return Some(format!("setfattr -x {} {}", quoted(name), quoted(&path)));
            }
            let prefix = *rng.pick(&["user.", "trusted.", "security."])?;
            let name = format!("{prefix}{}", rng.below(400));
            let len = [rng.below(60), 80, 81, rng.below(9000)][index(rng.below(4))];
            let from = index(rng.below(NOISE - len));
            let value = noise[from..from + index(len)].to_vec();
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = format!("setfattr -n {name} -v 0x{hex} {}", quoted(&path));
            model.node(&path).xattrs.insert(name.into_bytes(), value);
            line
        }
        16 => {
            let all = model.paths(|node| !matches!(node.what, What::Symlink(_)));
            let path = rng.pick(&all)?.clone();
            let node = model.node(&path);
            if rng.below(2) == 0 {
                let mode = low16(rng.below(0o1000));
                node.mode = node.mode & 0o170_000 | mode;
                format!("chmod {mode:o} {}", quoted(&path))
            } else {
                node.owner = (low32(rng.below(5)), low32(rng.below(3)));
                let (uid, gid) = node.owner;
                format!("chown {uid}:{gid} {}", quoted(&path))
            }
        }
        _ => return None,
    })
}

/// A write of random length at an offset, and its bytes.
fn write(path: &[u8], offset: u64, rng: &mut Rng, noise: &[u8]) -> (String, Vec<u8>) {
    let most = [60, 5000, 40_000, 200_000][index(rng.below(4))];
    let len = rng.below(most) + 1;
    let from = rng.below(NOISE - len);
    let bytes = noise[index(from)..index(from + len)].to_vec();
    let line = format!(
        "dd if=$IN/noise of={} bs=64K iflag=skip_bytes,count_bytes skip={from} count={len} \
         oflag=seek_bytes seek={offset} conv=notrunc status=none",
        quoted(path)
    );
    (line, bytes)
}

/// The first difference between a model and what the driver shows.
#[must_use]
pub fn difference(model: &Model, walk: &[Entry]) -> Option<String> {
    let mut listing = model.listing();
    for entry in walk {
        let path = &entry.path;
        if path == b"." || path == b"lost+found" {
            continue;
        }
        let shown = String::from_utf8_lossy(path).into_owned();
        let Some(node) = listing.remove(path) else {
            return Some(format!("{shown} should not be there"));
        };
        let (kind, size, payload) = match &node.what {
            What::Directory => ('d', None, Vec::new()),
            What::File(bytes) => ('f', Some(bytes.len()), sum::sha256(bytes).into_bytes()),
            What::Symlink(target) => ('l', Some(target.len()), target.clone()),
            What::Node(_) if node.mode & 0o170_000 == 0o010_000 => ('p', None, Vec::new()),
            What::Node(device) => {
                let (major, minor) = (device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xF_FF00);
                ('c', None, format!("{major}:{minor}").into_bytes())
            }
        };
        // Nobody may look at these of a symbolic link.
        let hidden = |name: &[u8]| kind == 'l' && name.starts_with(b"user.");
        let xattrs = node.xattrs.iter().filter(|(name, _)| !hidden(name));
        let xattrs = xattrs.map(|(name, value)| (name.clone(), Value::of(value)));
        let expected = Entry {
            path: path.clone(),
            kind,
            mode: u32::from(node.mode & 0o7777),
            uid: node.owner.0,
            gid: node.owner.1,
            links: node.links.into(),
            size: size.map_or(entry.size, |size| size as u64),
            sectors: entry.sectors,
            inode: entry.inode,
            mtime: entry.mtime.clone(),
            payload,
            xattrs: xattrs.collect(),
        };
        if expected != *entry {
            let brief = |entry: &Entry| {
                let Entry {
                    kind,
                    mode,
                    uid,
                    gid,
                    links,
                    size,
                    ..
                } = entry;
                format!("{kind} {mode:o} {uid}:{gid} links {links} size {size}")
            };
            let xattrs = if expected.xattrs == entry.xattrs {
                ""
            } else {
                "; other attributes"
            };
            let payload = if expected.payload == entry.payload {
                ""
            } else {
                "; other contents"
            };
            let (expected, found) = (brief(&expected), brief(entry));
            return Some(format!(
                "{shown}: {expected} is shown as {found}{xattrs}{payload}"
            ));
        }
    }
    let missing = listing.keys().next()?;
    Some(format!("{} is missing", String::from_utf8_lossy(missing)))
}
