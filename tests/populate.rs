//! Volumes that are filled while they are made: from a directory, and from archives of it by GNU tar.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use cowfs_format::device::MemDevice;
use cowfs_format::volume::Volume;
use cowfs_tests::session::{pattern, writable};
use cowfs_tests::{Guest, Kernel, need, oracle, place};
use tempfile::TempDir;

/// Runs a program of the host, which must succeed.
fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// Runs mkfs.cowfs; what it says, and whether it succeeded.
fn mkfs(args: &[&str]) -> (bool, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("mkfs.cowfs").chain(args.iter().copied());
    let code = mkfs_cowfs::run(args, &mut out, &mut err);
    out.extend(err);
    (code == 0, String::from_utf8(out).unwrap())
}

/// The manifest of a volume, with times.
fn manifest(image: &Path, command: &str) -> String {
    let script = ["debugfs.cowfs", "-R", command, image.to_str().unwrap()];
    let out = Command::new(place::own("debugfs-cowfs"))
        .args(&script[1..])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    // The volume makes this one by itself, and nobody gave it a time.
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("./lost+found "))
        .fold(String::new(), |all, line| all + line + "\n")
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// A tree with one of each kind of thing. Devices, owners and attributes of the system need root.
fn tree(top: &Path) {
    fs::create_dir_all(top.join("dir/sub")).unwrap();
    fs::write(top.join("empty"), b"").unwrap();
    fs::write(top.join("small"), b"hello\n").unwrap();
    fs::hard_link(top.join("small"), top.join("dir/same")).unwrap();
    fs::write(top.join("block"), pattern(4096, 1)).unwrap();
    fs::write(top.join("large"), pattern(3_000_000, 2)).unwrap();
    fs::write(top.join("dir/large again"), pattern(3_000_000, 2)).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    for at in [0u64, 9 << 20, 33 << 20] {
        sparse.write_all_at(&pattern(70_000, at), at).unwrap();
    }
    symlink("../small", top.join("dir/short")).unwrap();
    symlink("long/".repeat(780), top.join("dir/long")).unwrap();
    let odd = std::ffi::OsString::from_vec(b"odd \xFF\xC3\n name".to_vec());
    fs::write(top.join("dir").join(odd), b"odd").unwrap();
    for n in 0..700 {
        fs::write(top.join(format!("dir/sub/entry number {n}")), n.to_string()).unwrap();
    }
    set_xattr(&top.join("small"), "user.one", b"1");
    for n in 0..40 {
        set_xattr(&top.join("dir"), &format!("user.many{n}"), &pattern(60, n));
    }
    set_xattr(&top.join("large"), "user.big", &pattern(3000, 9));
    fs::set_permissions(top.join("dir/sub"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(top.join("block"), fs::Permissions::from_mode(0o4711)).unwrap();
    if rustix::process::geteuid().is_root() {
        run("mkfifo", &[top.join("fifo").to_str().unwrap()]);
        run(
            "mknod",
            &[top.join("null").to_str().unwrap(), "c", "1", "3"],
        );
        run(
            "mknod",
            &[top.join("disk").to_str().unwrap(), "b", "259", "65540"],
        );
        run(
            "chown",
            &["12345:54321", top.join("empty").to_str().unwrap()],
        );
        run(
            "setfacl",
            &[
                "-m",
                "u:4711:rw,g:4712:r",
                top.join("small").to_str().unwrap(),
            ],
        );
        run(
            "setfacl",
            &["-d", "-m", "u:4711:rwx", top.join("dir").to_str().unwrap()],
        );
        set_xattr(
            &top.join("empty"),
            "security.selinux",
            b"system_u:object_r:t:s0\0",
        );
    }
    run(
        "touch",
        &[
            "-h",
            "-d",
            "2001-02-03 04:05:06.789012345",
            top.join("dir/short").to_str().unwrap(),
        ],
    );
    run(
        "touch",
        &[
            "-d",
            "2002-02-03 04:05:06.789012345",
            top.join("dir").to_str().unwrap(),
        ],
    );
    run(
        "touch",
        &["-d", "2003-02-03 04:05:06.5", top.to_str().unwrap()],
    );
}

use std::os::unix::ffi::OsStringExt;

/// The same tree by every way into a volume; each must be healthy and give the same manifest.
#[test]
fn directories_and_archives_give_the_same_volume() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let top = at("top");
    tree(&top);
    let tar = |name: &str, extra: &[&str]| {
        let file = at(name);
        let mut args = vec!["-cf", file.to_str().unwrap(), "-C", top.to_str().unwrap()];
        args.extend(["--xattrs", "--acls", "--sort=name", "--numeric-owner"]);
        args.extend(extra);
        args.push(".");
        run("tar", &args);
        file
    };
    let sources = [
        top.clone(),
        tar("pax.tar", &["--format=pax"]),
        tar("sparse.tar", &["--format=pax", "-S"]),
        tar(
            "sparse-0.tar.gz",
            &["--format=pax", "-S", "--sparse-version=0.1", "-z"],
        ),
        tar("zstd.tar.zst", &["--format=pax", "--zstd"]),
    ];
    let mut first: Option<String> = None;
    for options in [
        "-b 4096 -C 4096",
        "-b 1024 -C 16384",
        "--fs-feature-level=max-features",
    ] {
        for source in &sources {
            let image = at("image");
            let _ = fs::remove_file(&image);
            let mut args: Vec<&str> = options.split(' ').collect();
            args.extend([
                "--size",
                "200M",
                "-d",
                source.to_str().unwrap(),
                image.to_str().unwrap(),
            ]);
            let (done, said) = mkfs(&args);
            assert!(done, "{source:?}: {said}");
            let report = oracle::check(&image).unwrap();
            assert!(
                report.is_silent() && report.finished(),
                "{source:?}: {report:?}"
            );
            let volume = writable(&image);
            let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
            assert!(checked.is_clean(), "{source:?}: {:?}", checked.findings);
            drop(volume);
            let found = manifest(&image, "manifest -t -r");
            match &first {
                None => first = Some(found),
                Some(first) => assert_eq!(&found, first, "{source:?} with {options}"),
            }
        }
    }
    let first = first.unwrap();
    assert!(
        first.contains("./dir/sub/entry\\040number\\040699 "),
        "{first}"
    );
}

/// Files of equal contents share their clusters, and read the same.
#[test]
fn equal_contents_are_stored_once() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let (top, image) = (dir.path().join("top"), dir.path().join("image"));
    tree(&top);
    let args = [
        "--size",
        "200M",
        "--dedupe",
        "-d",
        top.to_str().unwrap(),
        image.to_str().unwrap(),
    ];
    let (done, said) = mkfs(&args);
    assert!(done && said.contains(" of them shared"), "{said}");
    let report = oracle::check(&image).unwrap();
    assert!(report.is_silent(), "{report:?}");
    let shared = manifest(&image, "manifest");
    assert!(shared.contains("reflink=./dir/large"), "{shared}");
}

/// Fills a volume in a process of its own, with a fixed time; its bytes.
fn reproduced(image: &Path, source: &Path, args: &[&str], shell: &str) -> Vec<u8> {
    let _ = fs::remove_file(image);
    let script = format!("{shell}; exec \"$@\"");
    let status = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(place::own("mkfs-cowfs"))
        .args(["-q", "-d"])
        .arg(source)
        .args(args)
        .arg(image)
        .env("SOURCE_DATE_EPOCH", "1650000000")
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(image).unwrap()
}

/// A directory of files that were made in ascending or descending order.
fn numbered(top: &Path, reverse: bool) {
    fs::create_dir(top).unwrap();
    let mut numbers: Vec<u64> = (0..300).collect();
    if reverse {
        numbers.reverse();
    }
    for n in numbers {
        let path = top.join(format!("file {n}"));
        fs::write(&path, pattern(500 * usize::try_from(n % 40).unwrap(), n)).unwrap();
        run("touch", &["-d", "@1600000000", path.to_str().unwrap()]);
    }
    run("touch", &["-d", "@1600000000", top.to_str().unwrap()]);
}

/// Whatever the source's order of names, the time, its zone, the umask or the threads: the same
/// bytes. And another byte somewhere in the tree gives another UUID.
#[test]
fn the_same_tree_gives_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let (one, two, image) = (
        dir.path().join("one"),
        dir.path().join("two"),
        dir.path().join("image"),
    );
    numbered(&one, false);
    numbered(&two, true);
    for size in ["--size=64M", "--size=auto"] {
        let first = reproduced(&image, &one, &[size, "--threads=1"], ":");
        for (source, threads, shell) in [
            (&two, "--threads=2", "umask 077"),
            (&one, "--threads=7", "export TZ=Asia/Kathmandu LC_ALL=C"),
        ] {
            let other = reproduced(&image, source, &[size, threads], shell);
            assert!(other == first, "{threads} {shell} {size}");
        }
        let uuid = |bytes: &[u8]| {
            let volume = Volume::open(MemDevice::new(bytes.to_vec())).unwrap();
            volume.info().uuid_text()
        };
        let file = two.join("file 7");
        let before = fs::read(&file).unwrap();
        fs::write(&file, [&before[1..], b"?"].concat()).unwrap();
        run("touch", &["-d", "@1600000000", file.to_str().unwrap()]);
        let changed = reproduced(&image, &two, &[size], ":");
        assert_ne!(uuid(&changed), uuid(&first));
        let report = fsck_cowfs::check(
            &Volume::open(MemDevice::new(changed)).unwrap(),
            &fsck_cowfs::Options::default(),
        );
        assert!(report.unwrap().is_clean());
        fs::write(&file, before).unwrap();
        run("touch", &["-d", "@1600000000", file.to_str().unwrap()]);
    }
}

/// The smallest volume holds the tree and is healthy; one that is a hundredth smaller does not hold
/// it. It is the one that its size would give, so nothing was put elsewhere to find it.
#[test]
fn the_smallest_volume_cannot_be_smaller() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let (top, image) = (dir.path().join("top"), dir.path().join("image"));
    tree(&top);
    // Enough for several groups of inodes, and for a cluster group and a bit.
    fs::write(top.join("much"), pattern(150 << 20, 3)).unwrap();
    for n in 0..3000 {
        fs::write(top.join(format!("dir/sub/more {n}")), pattern(5000, n)).unwrap();
    }
    let archive = dir.path().join("archive");
    run(
        "tar",
        &[
            "-cf",
            archive.to_str().unwrap(),
            "-C",
            top.to_str().unwrap(),
            ".",
        ],
    );
    let uuid = "-U=01234567-89ab-cdef-0123-456789abcdef";
    for (source, options) in [
        (&top, "-b 4096"),
        (&top, "-b 1024 -C 16384 --fs-features=nodiscontig-bg"),
        (&archive, "--fs-feature-level=max-features -T mail"),
    ] {
        let mut args: Vec<&str> = options.split(' ').collect();
        args.push(uuid);
        let mut fitting = args.clone();
        fitting.push("--size=auto");
        let smallest = reproduced(&image, source, &fitting, ":");
        let report = oracle::check(&image).unwrap();
        assert!(
            report.is_silent() && report.finished(),
            "{options}: {report:?}"
        );
        let volume = Volume::open(MemDevice::new(smallest)).unwrap();
        let checked = fsck_cowfs::check(&volume, &fsck_cowfs::Options::default()).unwrap();
        assert!(checked.is_clean(), "{options}: {:?}", checked.findings);
        let size = volume.info().geo.bytes();
        let smallest = volume.device().snapshot();
        assert_eq!(size, smallest.len() as u64, "{options}");

        let given = format!("--size={size}");
        fitting.pop();
        fitting.push(&given);
        let same = reproduced(&image, source, &fitting, ":");
        assert!(
            same == smallest,
            "{options}: another volume of the same size"
        );
        let less = format!("--size={}", size - size / 100);
        let _ = fs::remove_file(&image);
        args.extend([
            "-d",
            source.to_str().unwrap(),
            &less,
            image.to_str().unwrap(),
        ]);
        let (done, said) = mkfs(&args);
        assert!(!done && said.contains("no space left"), "{options}: {said}");
    }
    // And with space to spare, from a pipe.
    let _ = fs::remove_file(&image);
    let status = Command::new(place::own("mkfs-cowfs"))
        .args(["-q", "-d", "-", "--size=auto", "--free=30M"])
        .arg(&image)
        .stdin(File::open(&archive).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let report = oracle::check(&image).unwrap();
    assert!(report.is_silent() && report.finished(), "{report:?}");
    let mut volume = writable(&image);
    let free = volume.begin().unwrap().free_clusters().unwrap();
    assert_eq!(free, (30 << 20) / 4096);
}

/// One entry of a ustar archive.
fn entry(name: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = tar_header(name, kind, data.len());
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn tar_header(name: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// What cannot be stored is named, and leaves nothing that looks like a volume.
#[test]
fn hostile_archives_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let (archive, image) = (dir.path().join("archive"), dir.path().join("image"));
    let end = vec![0; 1024];
    let long = format!("{}/b", "n".repeat(90));
    let said = |key: &str, value: &str| {
        let record = format!("{key}={value}\n");
        // The length counts itself.
        let own = |len: usize| len + 1 + record.len();
        let digits = (1..9).find(|n| own(*n).to_string().len() == *n).unwrap();
        format!("{} {record}", own(digits))
    };
    let pax = |key: &str, value: &str| entry("x", b'x', said(key, value).as_bytes());
    let wide = "w".repeat(1 << 20);
    let bomb = (0..20).flat_map(|n| pax(&format!("comment{n}"), &wide));
    let global = |n: u32| {
        entry(
            "g",
            b'g',
            said(&format!("comment{n}"), &wide[..4000]).as_bytes(),
        )
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("../up: a name with \"..\"", entry("../up", b'0', b"x")),
        (
            "/etc/passwd: an absolute name",
            entry("/etc/passwd", b'0', b"x"),
        ),
        (
            "/twice",
            [entry("twice", b'0', b"x"), entry("twice", b'0', b"y")].concat(),
        ),
        ("cut off", entry("short", b'0', &[1; 3000])[..1024].to_vec()),
        ("cut off", tar_header("none", b'0', 100)),
        ("checksum", vec![7; 1024]),
        ("at most 16777216", tar_header("x", b'x', 1 << 31)),
        ("LENGTH KEY=VALUE", entry("x", b'x', b"9999 path=a\n")),
        ("which did not come before it", entry("link", b'1', b"")),
        ("unknown type", entry("odd", b'Z', b"")),
        ("holds no member", Vec::new()),
        (
            "came before",
            [entry(&long[..90], b'0', b"x"), entry(&long, b'0', b"y")].concat(),
        ),
        (
            "a name of 40000 bytes",
            [pax("path", &"d/".repeat(20_000)), entry("f", b'0', b"")].concat(),
        ),
        (
            "extended headers of 16777",
            bomb.chain(entry("f", b'0', b"")).collect(),
        ),
        (
            "global headers of 6",
            (0..20)
                .flat_map(global)
                .chain(entry("f", b'0', b""))
                .collect(),
        ),
        (
            "a name has at most 255 bytes",
            [pax("path", &wide[..256]), entry("f", b'0', b"")].concat(),
        ),
        (
            "/f: ",
            [pax("size", "18446744073709551615"), entry("f", b'0', b"x")].concat(),
        ),
        (
            "/f: ",
            [[
                said("GNU.sparse.realsize", "9223372036854775807"),
                said("GNU.sparse.map", "9223372036854775806,1"),
            ]
            .concat()]
            .map(|text| entry("x", b'x', text.as_bytes()))
            .into_iter()
            .chain([entry("f", b'0', b"x")])
            .collect::<Vec<_>>()
            .concat(),
        ),
        (
            "uid 4294967296",
            [pax("uid", "4294967296"), entry("f", b'0', b"x")].concat(),
        ),
        (
            "/f: ",
            [
                pax(&format!("SCHILY.xattr.user.{}", &wide[..300]), "1"),
                entry("f", b'0', b"x"),
            ]
            .concat(),
        ),
        ("a target has 1 to 4095 bytes", entry("empty", b'2', b"")),
        (
            "a file of that name came before",
            [entry("file", b'0', b"x"), entry("file/inside", b'0', b"y")].concat(),
        ),
        (
            "/much: no space left on the volume",
            entry("much", b'0', &vec![3; 40 << 20]),
        ),
    ];
    for (why, bytes) in cases {
        let mut file = File::create(&archive).unwrap();
        file.write_all(&bytes).unwrap();
        file.write_all(&end).unwrap();
        if why == "cut off" {
            file.set_len(bytes.len() as u64).unwrap();
        }
        let (archive, image) = (archive.to_str().unwrap(), image.to_str().unwrap());
        // What is only too much for a volume has one that is large enough.
        for size in ["auto", "30M"] {
            if size == "auto" && why.starts_with("/much") {
                continue;
            }
            let _ = fs::remove_file(image);
            let (done, said) = mkfs(&["--size", size, "-d", archive, image]);
            assert!(
                !done && said.lines().count() == 1 && (said.contains(why) || size == "auto"),
                "{size} {why}: {said}"
            );
        }
        let file = File::open(image).unwrap();
        let mut block = vec![
            0;
            file.metadata()
                .unwrap()
                .size()
                .min(16384)
                .try_into()
                .unwrap()
        ];
        file.read_exact_at(&mut block, 0).unwrap();
        assert!(!block.windows(6).any(|part| part == b"OCFSV2"), "{why}");
    }
}

/// An archive on standard input, read by the driver and compared by GNU tar itself.
#[test]
fn the_driver_reads_what_was_packed() {
    let guest = need!(Guest::new(Kernel::V6_1));
    let dir = TempDir::new().unwrap();
    let (top, image) = (dir.path().join("top"), dir.path().join("image"));
    tree(&top);
    // The volume has one in any case.
    fs::create_dir(top.join("lost+found")).unwrap();
    let mut tar = Command::new("tar")
        .args(["-c", "--xattrs", "--acls", "--numeric-owner", "-S", "-C"])
        .args([top.to_str().unwrap(), "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let made = Command::new(place::own("mkfs-cowfs"))
        .args(["-q", "--size", "200M", "-d", "-", image.to_str().unwrap()])
        .stdin(tar.stdout.take().unwrap())
        .status()
        .unwrap();
    assert!(tar.wait().unwrap().success() && made.success());
    let sums = Command::new("sh")
        .args(["-c", "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; find . ! -name . -printf '%y %m %U %G %T@ %P %l\\n' | LC_ALL=C sort | sha256sum; getfattr -R -P -h -d -m - -e hex . | sort | sha256sum"])
        .current_dir(&top)
        .output()
        .unwrap();
    let expected = String::from_utf8(sums.stdout).unwrap();
    let script = "mount_vol; cd $MNT; \
        find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; \
        find . ! -name . -printf '%y %m %U %G %T@ %P %l\\n' | LC_ALL=C sort | sha256sum; \
        getfattr -R -P -h -d -m - -e hex . | sort | sha256sum; cd /; umount_vol";
    let said = guest.disk(&image).run(script).unwrap().expect_success();
    for line in expected.lines() {
        assert!(
            said.to_string().contains(line),
            "{line} is not among\n{said}"
        );
    }
    let report = oracle::check(&image).unwrap();
    assert!(report.is_silent(), "{report:?}");
}
