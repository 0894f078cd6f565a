//! The volumes, what is in them, and both programs run on them.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use cowfs_tests::{golden, oracle};

use crate::support::Shell;

/// A file of a volume.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) inode: u64,
    /// As directories give it: 1 regular, 2 directory, 7 symlink.
    pub(crate) kind: u64,
    pub(crate) size: u64,
    pub(crate) links: u64,
    pub(crate) inline: bool,
    pub(crate) has_extents: bool,
    pub(crate) has_xattrs: bool,
    pub(crate) dx_root: u64,
    pub(crate) refcounts: u64,
    /// Blocks of its extent tree.
    tree: Vec<u64>,
    /// Descriptors at the heads of its chains.
    groups: Vec<u64>,
}

/// A volume and what is in it.
pub(crate) struct Volume {
    pub(crate) name: String,
    image: tempfile::NamedTempFile,
    files: Vec<File>,
    slots: u64,
    blocks: u64,
    root: u64,
    /// Whether it has a backup of its superblock.
    pub(crate) backup: bool,
}

/// Volumes that mkfs.ocfs2 makes: options and size in MiB.
const MADE: &[(&str, u64)] = &[
    ("-b 512 -C 4096 -M local -N 1 -J size=4M", 24),
    ("-b 2048 -C 65536 -M cluster -N 4 -L label", 40),
    ("-M local --fs-feature-level=max-features", 300),
    ("-T mail -M local -J block64", 1100),
];

/// Names of all volumes: of golden images, or options of mkfs.ocfs2.
pub(crate) fn names() -> Vec<String> {
    let golden = golden::all().unwrap().into_iter().map(|image| image.name);
    // debugfs.ocfs2 does not look into journals that wait for their replay.
    let golden =
        golden.filter(|name| !["dirty-journal", "two-dirty-slots"].contains(&name.as_str()));
    let made = MADE.iter().map(|(options, _)| (*options).to_owned());
    golden.chain(made).collect()
}

/// Between the texts of command lines: a command whose text is known. It is not one that a test
/// gives.
const MARK: &str = "encode <2>";
/// What it prints.
const MARKED: &str = "\tS000000000000000000000200000000";

/// At most `most` of many, evenly taken.
fn evenly<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let step = all.len().div_ceil(most.max(1)).max(1);
    all.into_iter().step_by(step).collect()
}

impl Volume {
    pub(crate) fn open(name: &str) -> Self {
        let made = MADE.iter().find(|(options, _)| *options == name);
        let image = match made {
            None => golden::open(name).unwrap(),
            Some((options, mib)) => {
                let file = tempfile::NamedTempFile::new().unwrap();
                let options: Vec<&str> = options.split(' ').collect();
                oracle::mkfs(file.path(), mib << 20, &options).unwrap();
                file
            }
        };
        let mut shell = Shell::open(image.path()).unwrap();
        let mut files = Vec::new();
        let mut list = |directory: &str, prefix: &str, most: usize| -> Vec<(String, u64)> {
            let said = shell.json(&format!("ls {directory}"));
            let mut directories = Vec::new();
            for entry in evenly(said["entries"].as_array().unwrap().clone(), most) {
                let name = entry["name"].as_str().unwrap();
                let odd = |c: char| c.is_whitespace() || c.is_control() || c == '\u{fffd}';
                // debugfs.ocfs2 splits lines at blanks and knows no quotes.
                if name.starts_with('.') || name.contains(odd) || name.contains(['\\', '#']) {
                    continue;
                }
                let path = format!("{prefix}{name}");
                let inode = entry["inode"].as_u64().unwrap();
                if entry["file_type"] == 2 {
                    directories.push((path.clone(), inode));
                }
                files.push(File::of(&mut shell, path, inode));
            }
            directories
        };
        list("//", "//", usize::MAX);
        for (path, _) in list("/", "/", 40) {
            list(&path, &format!("{path}/"), 14);
        }
        let stats = shell.json("stats");
        let root = stats["root_blkno"].as_u64().unwrap();
        files.push(File::of(&mut shell, "/".to_owned(), root));
        let blocks = shell.json("df")["size_bytes"].as_u64().unwrap()
            / stats["block_size"].as_u64().unwrap();
        Self {
            name: name.to_owned(),
            image,
            files,
            slots: stats["max_slots"].as_u64().unwrap(),
            blocks,
            root,
            backup: made.is_some_and(|(_, mib)| *mib > 1024),
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.image.path().to_str().unwrap()
    }

    /// Runs a script of debugfs.ocfs2; the text of each line.
    pub(crate) fn theirs(&self, lines: &[String]) -> Vec<String> {
        if lines.is_empty() {
            return Vec::new();
        }
        let mut script = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            // The next line begins where this one did.
            let root = self.root;
            writeln!(script, "{line}\nchroot <{root}>\ncd <{root}>\n{MARK}").unwrap();
        }
        let ran = Command::new("debugfs.ocfs2")
            .args(["-n", "-f"])
            .args([script.path(), self.image.path()])
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(ran.status.code().is_some(), "{lines:?}: {}", ran.status);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let mut texts: Vec<String> = said.split(MARKED).map(str::to_owned).collect();
        // Behind each mark stands the end of its line.
        for text in texts.iter_mut().skip(1) {
            *text = text
                .trim_start_matches(' ')
                .trim_start_matches('\n')
                .to_owned();
        }
        // Behind the last one nothing stands.
        if texts.len() > 1 && texts.last().is_some_and(String::is_empty) {
            texts.pop();
        }
        texts
    }

    /// Runs our commands; the text of each line.
    pub(crate) fn ours(&self, lines: &[String]) -> Vec<String> {
        let mut shell = Shell::open(self.image.path()).unwrap();
        let mut texts = Vec::new();
        for line in lines {
            let mut text = String::new();
            for command in line.split('\n') {
                let said = shell.run(command);
                assert!(said.good, "{}: {command}: {}", self.name, said.err);
                text += &String::from_utf8_lossy(&said.out);
                if shell.session.ended {
                    texts.push(text);
                    return texts;
                }
            }
            shell.run(&format!("chroot <{0}>", self.root));
            shell.run(&format!("cd <{0}>", self.root));
            texts.push(text);
        }
        texts
    }

    /// A command of ours that fails, and what it says.
    pub(crate) fn fails(&self, line: &str) -> (bool, String) {
        let said = Shell::open(self.image.path()).unwrap().run(line);
        (said.good, said.err)
    }

    /// Files of a kind, at most `most`.
    pub(crate) fn files(&self, is: impl Fn(&File) -> bool, most: usize) -> Vec<File> {
        evenly(self.files.iter().filter(|f| is(f)).cloned().collect(), most)
    }

    /// A command for each of some files, by their inodes.
    pub(crate) fn each(
        &self,
        command: &str,
        is: impl Fn(&File) -> bool,
        most: usize,
    ) -> Vec<String> {
        let files = self.files(is, most).into_iter();
        files.map(|f| format!("{command} <{}>", f.inode)).collect()
    }

    /// A command for each of some files, by their paths in place of `PATH`.
    pub(crate) fn each_path(
        &self,
        command: &str,
        is: impl Fn(&File) -> bool,
        most: usize,
    ) -> Vec<String> {
        let files = self.files(is, most).into_iter();
        files.map(|f| command.replace("PATH", &f.path)).collect()
    }

    /// A command for a block of each of some files.
    pub(crate) fn blocks(
        &self,
        command: &str,
        block: impl Fn(&File) -> Option<u64>,
        most: usize,
    ) -> Vec<String> {
        let blocks: Vec<u64> = self.files.iter().filter_map(block).collect();
        let lines = evenly(blocks, most).into_iter();
        lines.map(|block| format!("{command} <{block}>")).collect()
    }

    /// Some inodes as words.
    pub(crate) fn some(&self, most: usize) -> String {
        let files = self.files(|_| true, most).into_iter();
        files.map(|f| format!("<{}> ", f.inode)).collect()
    }

    /// Blocks from all over the volume, and some that are used for sure.
    pub(crate) fn spread(&self, most: u64) -> String {
        let step = (self.blocks / most).max(1);
        let spread = (0..most).map(|i| i * step).filter(|b| *b < self.blocks);
        let known = self.files.iter().flat_map(|f| {
            let first = f.groups.first().copied();
            [Some(f.inode), f.tree.first().copied(), first]
        });
        let known = evenly(known.flatten().collect(), 30).into_iter();
        spread.chain(known).map(|b| format!("{b} ")).collect()
    }

    pub(crate) fn slots(&self, command: &str) -> Vec<String> {
        (0..self.slots)
            .map(|slot| format!("{command} {slot}"))
            .collect()
    }

    /// Blocks of files: in the beginning, in the middle, at the end. Beyond the end debugfs.ocfs2
    /// shows none, and of contents in the inode it reads bytes as extents.
    pub(crate) fn bmap(&self) -> Vec<String> {
        let wanted = |f: &File| !f.inline && matches!(f.kind, 1 | 2 | 7);
        let files = self.files(wanted, 12).into_iter();
        files
            .flat_map(|f| {
                let last = f.size / 4096;
                [0, last / 3, last].map(|logical| format!("bmap <{}> {logical}", f.inode))
            })
            .collect()
    }

    pub(crate) fn decode(&self) -> Vec<String> {
        let files = self.files(|_| true, 4).into_iter();
        files
            .map(|f| format!("decode <M000000{:016x}{:08x}>", f.inode, f.size))
            .collect()
    }

    pub(crate) fn dx_leaf(&self) -> Vec<String> {
        let mut shell = Shell::open(self.image.path()).unwrap();
        let roots = self.files(|f| f.dx_root != 0, 3).into_iter();
        roots
            .flat_map(|f| {
                let said = shell.json(&format!("dx_dump <{}>", f.inode));
                let leaves = said["leaves"].as_array().unwrap().clone();
                evenly(leaves, 3)
            })
            .map(|leaf| format!("dx_leaf <{}>", leaf["blkno"]))
            .collect()
    }

    pub(crate) fn extent(&self) -> Vec<String> {
        let blocks: Vec<u64> = self.files.iter().flat_map(|f| f.tree.clone()).collect();
        let lines = evenly(blocks, 6).into_iter();
        lines.map(|block| format!("extent <{block}>")).collect()
    }

    pub(crate) fn groups(&self, command: &str) -> Vec<String> {
        let blocks: Vec<u64> = self.files.iter().flat_map(|f| f.groups.clone()).collect();
        let lines = evenly(blocks, 20).into_iter();
        lines.map(|block| format!("{command} <{block}>")).collect()
    }

    /// Writes over the beginning of a file whose clusters stand together.
    pub(crate) fn write_file(&self, spec: &str, bytes: &[u8]) {
        let mut shell = Shell::open(self.image.path()).unwrap();
        let block_size = shell.json("stats")["block_size"].as_u64().unwrap();
        let at = shell.json(&format!("bmap {spec} 0"))["blkno"]
            .as_u64()
            .unwrap();
        let file = self.image.as_file();
        file.write_all_at(bytes, at * block_size).unwrap();
    }
}

impl File {
    /// A regular file with contents; of a system file without debugfs.ocfs2 dies.
    pub(crate) fn is_plain(&self) -> bool {
        self.kind == 1 && !self.path.starts_with("//")
    }

    fn of(shell: &mut Shell, path: String, inode: u64) -> Self {
        let stat = shell.json(&format!("stat <{inode}>"));
        let number = |key: &str| stat[key].as_u64().unwrap_or(0);
        let body = &stat["body"];
        let blocks = |list: &serde_json::Value, key: &str| -> Vec<u64> {
            let list = list.as_array().into_iter().flatten();
            list.map(|item| item[key].as_u64().unwrap()).collect()
        };
        let features = stat["dyn_features"]["bits"].as_u64().unwrap();
        let kind = match stat["file_type"].as_str().unwrap() {
            "regular" => 1,
            "directory" => 2,
            "symlink" => 7,
            _ => 3,
        };
        Self {
            path,
            inode,
            kind,
            size: number("size"),
            links: number("links"),
            inline: features & 1 != 0,
            has_extents: body["kind"] == "extents" || body["kind"] == "journal",
            has_xattrs: features & 2 != 0,
            dx_root: number("dx_root"),
            refcounts: number("refcount_block"),
            tree: blocks(&body["tree_blocks"], "blkno"),
            groups: blocks(&body["chains"], "blkno"),
        }
    }
}

/// What a file of the host is: kind, permissions, times as asked for, contents.
pub(crate) fn host_facts(path: &Path, preserved: bool) -> String {
    let meta = std::fs::symlink_metadata(path).unwrap();
    if meta.is_symlink() {
        return format!("-> {:?}", std::fs::read_link(path).unwrap());
    }
    let kept = if preserved {
        let (mode, mtime) = (meta.mode(), meta.mtime());
        format!("{mode:o} {} {} {mtime}", meta.uid(), meta.gid())
    } else {
        String::new()
    };
    let bytes = std::fs::read(path).unwrap();
    format!(
        "{kept} {} {}",
        bytes.len(),
        cowfs_tests::sum::sha256(&bytes)
    )
}

/// All files below a directory of the host: paths, permissions, contents.
pub(crate) fn host_tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str();
            let name = OsStr::as_bytes(name).escape_ascii().to_string();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                found.push(format!("{name}/ {:o}", meta.mode()));
                left.push(path);
            } else if meta.is_file() || meta.is_symlink() {
                found.push(format!("{name} {}", host_facts(&path, false)));
            }
        }
    }
    found.sort();
    found
}
