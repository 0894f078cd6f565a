//! Each verb, its errors, a full volume, and the rules of Linux for what is made.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cowfs_tests::session::pattern;
use cowfs_tests::skip::Missing;
use cowfs_tests::{need, oracle};
use tempfile::TempDir;

use crate::support::Shell;
use crate::{Random, bytes_of, demand_sound, manifest, theirs, volume};

#[test]
fn each_verb_does_what_debugfs_ocfs2_sees() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let host = dir.path().join("host");
    std::fs::write(&host, pattern(100_000, 3)).unwrap();
    let host = host.to_str().unwrap();
    for (block, cluster) in [(512, 4096), (4096, 4096), (4096, 1 << 20)] {
        let image = volume(block, cluster);
        let mut shell = Shell::edit(image.path()).unwrap();
        let mut lines = vec![
            "mkdir /d".to_owned(),
            "mkdir -p /p/q/r".to_owned(),
            "mkdir -p -m 700 /p/q/s".to_owned(),
            format!("write {host} /d/file"),
            "ln /d/file /d/second".to_owned(),
            "ln /d/file /p".to_owned(),
            "reflink /d/file /d/clone".to_owned(),
            "symlink ../d/file /p/link".to_owned(),
            format!("symlink /{} /p/long", "x".repeat(700)),
            "mknod /d/null c 1 3".to_owned(),
            "mknod -m 660 /d/disk b 259:70000".to_owned(),
            "mknod -m u=rw,go= /d/fifo p".to_owned(),
            "mknod /d/socket s".to_owned(),
            "mknod /d/empty f".to_owned(),
            "touch -d 1234567890.5 /d/empty /d/made".to_owned(),
            "chmod 4751 /d/clone".to_owned(),
            "chmod u-s,o+w /d/clone /d/empty".to_owned(),
            "chown 1000:100 /d/clone /d/null".to_owned(),
            "truncate /d/clone 50000".to_owned(),
            "punch /d/clone 8192 16384".to_owned(),
            "fallocate /d/made 0 2M".to_owned(),
            "setxattr /d/clone user.small value".to_owned(),
            "setxattr /d/clone user.gone 0x00ff".to_owned(),
            format!("setxattr -f {host} /d/clone user.large"),
            "rmxattr /d/clone user.gone".to_owned(),
            "setfacl -m u:1000:rwx,g:50:r-x /d/clone".to_owned(),
            "mv /d/second /p/q/r/moved".to_owned(),
            "mv -T /p/q/s /p/q/t".to_owned(),
            "mv /d/fifo /d/socket /p/q".to_owned(),
            "unlink /d/disk".to_owned(),
            "rmdir /p/q/t".to_owned(),
            "mkdir /tree".to_owned(),
        ];
        // A value of 100,000 bytes is too long.
        let long = lines
            .iter()
            .position(|line| line.starts_with("setxattr -f"));
        let long = lines.remove(long.unwrap());
        assert!(shell.run(&long).err.contains("65536"), "{block}");
        for i in 0..40 {
            lines.push(format!("mkdir /tree/{i}"));
            lines.push(format!("reflink /d/file /tree/{i}/clone"));
        }
        lines.push("rm -r /tree /d/made".to_owned());
        for line in &lines {
            let said = shell.run(line);
            assert!(said.good, "{block}/{cluster}: {line}: {}", said.err);
        }
        drop(shell);
        demand_sound(image.path(), &format!("{block}/{cluster}"));

        let listed = |path: &str| -> Vec<String> {
            let text = oracle::debugfs(image.path(), &format!("ls {path}")).unwrap();
            let names = text
                .lines()
                .filter_map(|line| line.split_whitespace().nth(4));
            let mut names: Vec<String> = names.map(str::to_owned).collect();
            names.retain(|name| !["lost+found", ".", ".."].contains(&name.as_str()));
            names.sort();
            names
        };
        assert_eq!(listed("/"), ["d", "p"]);
        assert_eq!(listed("/d"), ["clone", "empty", "file", "null"]);
        assert_eq!(listed("/p"), ["file", "link", "long", "q"]);
        assert_eq!(listed("/p/q"), ["fifo", "r", "socket"]);
        assert_eq!(listed("/p/q/r"), ["moved"]);
        for (path, words) in [
            ("/d", &["Links: 2", "Mode: 0755", "Type: Directory"][..]),
            ("/p", &["Links: 3"]),
            ("/d/file", &["Links: 3"]),
            ("/p/q/r/moved", &["Links: 3", "Size: 100000"]),
            (
                "/d/clone",
                &[
                    "Links: 1",
                    "Mode: 0773",
                    "User: 1000",
                    "Group: 100",
                    "Size: 50000",
                ],
            ),
            (
                "/d/null",
                &["Mode: 0644", "User: 1000", "Type: Char Device"],
            ),
            (
                "/d/empty",
                &["Mode: 0646", "mtime: 0x499602d2 0x1dcd6500", "Size: 0"],
            ),
            ("/p/q/fifo", &["Mode: 0600", "Type: FIFO"]),
            ("/p/q/socket", &["Type: Socket"]),
            ("/p/link", &["Type: Symbolic Link", "../d/file"]),
            ("/p/long", &["Type: Symbolic Link", "Size: 701"]),
        ] {
            let said = theirs(image.path(), path);
            for word in words {
                assert!(
                    said.contains(word),
                    "{block}/{cluster} {path} {word}: {said}"
                );
            }
        }
        let mut expected = pattern(100_000, 3);
        assert!(bytes_of(image.path(), "/p/q/r/moved") == expected);
        expected.truncate(50_000);
        expected[8192..8192 + 16384].fill(0);
        assert!(bytes_of(image.path(), "/d/clone") == expected);
        let mut shell = Shell::seen(image.path());
        let said = shell.text("stat /d/null");
        assert!(said.contains("Device: 1, 3"), "{said}");
        let said = shell.text("xattr -v /d/clone");
        assert!(
            said.contains("user.small") && !said.contains("user.gone"),
            "{said}"
        );
        assert!(
            said.contains("user:1000:rwx,group::r-x,group:50:r-x,mask::rwx,other::-wx"),
            "{said}"
        );
    }
}

/// One line each, and the volume is byte for byte as before.
#[test]
fn what_cannot_be_done_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let host = dir.path().join("host");
    std::fs::write(&host, b"bytes").unwrap();
    let host = host.to_str().unwrap();
    let image = volume(1024, 4096);
    let mut shell = Shell::edit(image.path()).unwrap();
    for line in [
        "mkdir -p /a/b/c",
        "mkdir /e",
        "mknod /fifo p",
        "touch /file",
        "touch /other",
        "symlink /a /link",
    ] {
        assert!(shell.run(line).good, "{line}");
    }
    let before = std::fs::read(image.path()).unwrap();
    let long = "n".repeat(256);
    let huge = "x".repeat(4096);
    for (line, why) in [
        ("unlink /absent", "/absent: no such file"),
        ("unlink /file /absent", "/absent: no such file"),
        ("unlink /a", "it is a directory"),
        ("unlink /lost+found/..", "cannot be made"),
        ("unlink //global_bitmap", "volume's own"),
        ("unlink <5>", "names no file"),
        ("rmdir /a", "not empty"),
        ("rmdir /file", "no directory"),
        ("rmdir /absent", "no such file"),
        ("rmdir /", "names no file"),
        ("rm /a", "use rmdir, or rm -r"),
        ("rm /absent", "no such file"),
        ("rm -r /absent", "nothing was removed"),
        ("rm -r //", "names no file"),
        ("ln /a /hard", "one name only"),
        ("ln /file /other", "exists"),
        ("ln /absent /new", "no such file"),
        ("ln //slot_map /new", "belongs to the volume"),
        ("symlink x /file", "exists"),
        ("symlink \"\" /new", "1 to 4095 bytes"),
        (&format!("symlink {huge} /new"), "1 to 4095 bytes"),
        ("mknod /new q", "none of the types"),
        ("mknod /new b", "MAJOR MINOR"),
        ("mknod /new b 8", "MAJOR MINOR"),
        ("mknod /new c 4096 0", "0 to 4095"),
        ("mknod /new c 0:1048576", "0 to 1048575"),
        ("mknod /new p 1 2", "only devices"),
        ("mknod /file f", "exists"),
        ("mknod -m 99 /new f", "no mode"),
        ("mknod /absent/new f", "no such file"),
        ("mknod /file/new f", "no directory"),
        (&format!("mkdir /{long}"), "at most 255 bytes"),
        (&format!("mknod /{long} f"), "at most 255 bytes"),
        (&format!("mv /file /{long}"), "at most 255 bytes"),
        (&format!("write {host} /{long}"), "at most 255 bytes"),
        (&format!("mkdir -p /a/{long}/x"), "at most 255 bytes"),
        ("mkdir /a", "exists"),
        ("mkdir -p /file/x", "no directory"),
        ("mkdir //new", "volume's own"),
        ("mv /a /a/b/c", "into itself"),
        ("mv -T /a /a/b/c/d", "into itself"),
        ("mv -T /a /a/x", "into itself"),
        ("mv /absent /new", "no such file"),
        ("mv -T /file /a", "it is a directory"),
        ("mv -T /e /a", "not empty"),
        ("mv -T /e /file", "no directory"),
        ("mv /file /other /fifo", "a directory only"),
        ("mv / /e", "names no file"),
        ("chmod 8 /file", "no mode"),
        ("chmod u+x /absent", "no such file"),
        ("chmod 644 /link", "no mode"),
        ("chmod 644 //slot_map", "belongs to the volume"),
        ("chown x /file", "no number"),
        ("chown : /file", "neither"),
        ("chown 4294967295 /file", "no number"),
        ("touch -c /absent", "no such file"),
        ("touch -d yesterday /file", "is no time"),
        ("touch -d 1. /file", "is no time"),
        ("truncate /a 5", "only regular files"),
        ("truncate /file x", "x"),
        ("truncate /file 20T", "use larger clusters"),
        ("punch /fifo 0 1", "only regular files"),
        ("fallocate /file 0 1T", "clusters"),
        ("fallocate /link 0 1", "only regular files"),
        ("setxattr /file nothing x", "user.*"),
        ("setxattr /file user.a", "-f"),
        ("setxattr /file user.a 0xabc", "hexadecimal"),
        ("setxattr /fifo user.a x", "regular files and directories"),
        ("setxattr /file system.posix_acl_access x", "setfacl"),
        ("rmxattr /file user.a", "no such attribute"),
        ("setfacl /file", "nothing to change"),
        ("setfacl -m u:1000 /file", "no ACL"),
        ("setfacl -m u:root:rwx /file", "no ACL"),
        ("setfacl -d -m u:1:r /file", "only directories"),
        ("setfacl -s u::rwx,u::r,g::r,o::r /file", "nobody twice"),
        ("setfacl -x u:5 /file", "no such entry"),
        ("setfacl -m u:5:r /link", "symbolic link"),
        ("reflink /a /new", "only regular files"),
        ("reflink /file /other", "exists"),
        ("reflink /file /absent/new", "no such file"),
        (&format!("write {host} /file"), "exists"),
        (&format!("write {host} /a"), "exists"),
        (&format!("write -o x {host} /file"), "x"),
        (&format!("write -o 1 {host} /a"), "only regular files"),
        ("commit", "no group was begun"),
        ("abort", "no group was begun"),
    ] {
        let said = shell.run(line);
        assert!(!said.good, "{line}");
        assert_eq!(said.err.lines().count(), 1, "{line}: {}", said.err);
        assert!(said.err.contains(why), "{line}: {}", said.err);
        assert!(said.out.is_empty(), "{line}");
        assert!(std::fs::read(image.path()).unwrap() == before, "{line}");
    }
}

/// The name, mode and owner of all that a volume holds.
fn owned(image: &Path) -> Vec<(String, String, String)> {
    let manifest = Shell::seen(image).text("manifest -n");
    let lines = manifest.lines().filter(|line| line.starts_with("./t"));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let of = |key: &str| {
                let found = words.iter().find_map(|word| word.strip_prefix(key));
                found.unwrap().to_owned()
            };
            let owner = format!("{}:{}", of("uid="), of("gid="));
            (words[0].to_owned(), of("mode="), owner)
        })
        .collect()
}

/// More than one transaction's worth, a link that leads out, and a file with two names; modes become
/// what chmod(1) of the host makes of the same tree.
#[test]
fn trees_change_their_modes_and_owners() {
    let image = volume(1024, 4096);
    let dir = TempDir::new().unwrap();
    let mut shell = Shell::edit(image.path()).unwrap();
    let mut script = vec!["begin".to_owned(), "mkdir /t".to_owned()];
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir(dir.path().join("t")).unwrap();
    set(&dir.path().join("t"), 0o755);
    for n in 0..20 {
        let at = format!("t/d{n}");
        std::fs::create_dir(dir.path().join(&at)).unwrap();
        set(&dir.path().join(&at), 0o755);
        script.push(format!("mkdir /{at}"));
        for m in 0..20 {
            let mode = [0o644, 0o755, 0o600, 0o4711][(n + m) % 4];
            let file = format!("{at}/f{m}");
            std::fs::write(dir.path().join(&file), b"").unwrap();
            set(&dir.path().join(&file), mode.try_into().unwrap());
            script.push(format!("mknod -m {mode:o} /{file} f"));
        }
    }
    std::fs::hard_link(dir.path().join("t/d0/f0"), dir.path().join("t/d1/link")).unwrap();
    std::os::unix::fs::symlink("/outside", dir.path().join("t/symlink")).unwrap();
    for line in [
        "ln /t/d0/f0 /t/d1/link",
        "symlink /outside /t/symlink",
        "touch /outside",
        "commit",
    ] {
        script.push(line.to_owned());
    }
    for line in &script {
        assert!(shell.run(line).good, "{line}");
    }
    let outside = shell.text("stat /outside");
    let before = owned(image.path());
    assert_eq!(before.len(), 1 + 20 + 400 + 2);
    // Given up, nothing stays of it.
    shell.text("begin");
    shell.text("chmod -R 0 /t");
    shell.text("abort");
    assert_eq!(owned(image.path()), before);

    let done = shell.json("chmod -R go-rwx,u+X,u-s /t");
    assert_eq!(done["changed"], 1 + 20 + 400, "{done}");
    assert!(done["transactions"].as_u64().unwrap() > 1, "{done}");
    let mut chmod = Command::new("chmod");
    chmod
        .args(["-R", "go-rwx,u+X,u-s"])
        .arg(dir.path().join("t"));
    assert!(chmod.status().unwrap().success());
    for (name, mode, owner) in owned(image.path()) {
        let path = dir.path().join(&name);
        let theirs = std::fs::symlink_metadata(path)
            .unwrap()
            .permissions()
            .mode()
            & 0o7777;
        assert_eq!(u32::from_str_radix(&mode, 8).unwrap(), theirs, "{name}");
        assert_eq!(owner, "0:0", "{name}");
    }
    // Links are changed themselves, as chown(1) -R does without -H and -L.
    let done = shell.json("chown -R 7:8 /t/d3 /t/symlink");
    assert_eq!(done["changed"], 1 + 20 + 1, "{done}");
    for (name, _, owner) in owned(image.path()) {
        let below = name.starts_with("./t/d3/") || ["./t/d3", "./t/symlink"].contains(&&*name);
        assert_eq!(owner, if below { "7:8" } else { "0:0" }, "{name}");
    }
    assert_eq!(shell.text("stat /outside"), outside);
    let said = shell.run("chmod -R 700 /absent");
    assert!(
        !said.good && said.err.contains("no such file"),
        "{}",
        said.err
    );

    shell.text("touch -d 2001-02-03T04:05:06.789 /t/d3/f1");
    // From `date -u -d 2001-02-03T04:05:06 +%s`, in hexadecimal.
    let said = theirs(image.path(), "/t/d3/f1");
    assert!(said.contains("mtime: 0x3a7b8372 0x2f072f40"), "{said}");
    drop(shell);
    demand_sound(image.path(), "trees");
}

#[test]
fn a_full_volume_refuses_and_stays_sound() {
    need!(oracle::tools());
    let image = volume(1024, 4096);
    let dir = TempDir::new().unwrap();
    let host = dir.path().join("host");
    std::fs::write(&host, pattern(3 << 20, 1)).unwrap();
    let host = host.to_str().unwrap();
    let mut shell = Shell::edit(image.path()).unwrap();
    shell.text("mkdir /d");
    shell.text(&format!("write {host} /d/kept"));
    let mut made = 0;
    while shell.run(&format!("write {host} /d/{made}")).good {
        made += 1;
    }
    assert!(made > 3, "{made}");
    shell.text("touch /filler");
    let mut size = 0u64;
    for step in [1 << 20, 4096u64] {
        while shell.run(&format!("fallocate /filler {size} {step}")).good {
            size += step;
        }
    }
    let before = manifest(image.path());
    for line in [
        &format!("write {host} /d/more"),
        &format!("write -o 10M {host} /d/kept"),
        "fallocate /filler 100M 1M",
        &format!("symlink {} /long", "x".repeat(2000)),
        "setxattr /d/kept user.x 0x00",
    ] {
        let said = shell.run(line);
        if said.good {
            // Only what needs no cluster.
            assert!(line.starts_with("setxattr"), "{line}");
            continue;
        }
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        assert!(
            said.err.contains("no space") || said.err.contains("full"),
            "{}",
            said.err
        );
    }
    shell.text("rmxattr /d/kept user.x");
    assert!(manifest(image.path()) == before);
    demand_sound(image.path(), "full");
    shell.text("rm -r /d /filler");
    shell.text("mkdir /d");
    shell.text(&format!("write {host} /d/again"));
    drop(shell);
    demand_sound(image.path(), "emptied");
}

/// The same calls on the host, whose rules for modes, groups and ACLs are those of Linux.
#[test]
fn what_is_made_inherits_as_on_linux() {
    need!(oracle::tools());
    let dir = TempDir::new().unwrap();
    let parent = dir.path().join("parent");
    std::fs::create_dir(&parent).unwrap();
    let run = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).arg(&parent).status();
        ran.is_ok_and(|status| status.success())
    };
    let acl = "u::rwx,u:1000:rwx,g::r-x,g:50:rw-,m::rwx,o::r--";
    let tried = run("setfacl", &["-d", "--set", acl]) && run("chown", &["0:77"]);
    let tried = tried && run("chmod", &["2775"]);
    let missing = || {
        Missing::new(
            "setfacl as root on the host",
            "the package acl; run as root",
        )
    };
    need!(tried.then_some(()).ok_or_else(|| missing().into()));

    let image = volume(4096, 4096);
    let mut shell = Shell::edit(image.path()).unwrap();
    for line in [
        "mkdir /parent",
        "mkdir /plain",
        "chown :77 /parent /plain",
        "chmod 2775 /parent /plain",
        &format!("setfacl -d -s {acl} /parent"),
        "mkdir /parent/d",
        "touch /parent/f",
        "mkdir /parent/d/below",
        "mknod -m 600 /parent/d/p p",
        "symlink x /parent/d/l",
        "mkdir /plain/d",
        "touch /plain/f",
        "reflink /plain/f /parent/clone",
    ] {
        let said = shell.run(line);
        assert!(said.good, "{line}: {}", said.err);
    }
    let script = "umask 022; mkdir parent/d parent/d/below; touch parent/f; (umask 0; mknod -m 600 q p; \
                  rm q; mkfifo parent/d/x; rm parent/d/x); ln -s x parent/d/l; \
                  mkdir plain; chown 0:77 plain; chmod 2775 plain; mkdir plain/d; touch plain/f";
    let mut sh = Command::new("sh");
    let ran = sh.args(["-c", script]).current_dir(dir.path()).status();
    assert!(ran.unwrap().success());
    // A shell's mknod -m changes the mode afterwards; the call itself is made here.
    let fifo = parent.join("d/p");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let numbers = |path: &Path| -> Vec<String> {
        let said = Command::new("getfacl")
            .args(["-n", "-c", "-p", "-E"])
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    for path in [
        "parent/d",
        "parent/f",
        "parent/d/below",
        "parent/d/p",
        "plain/d",
        "plain/f",
    ] {
        let on_host = dir.path().join(path);
        let meta = std::fs::metadata(&on_host).unwrap();
        let said = shell.json(&format!("stat /{path}"));
        let number = |key: &str| said[key].as_u64().unwrap();
        let mode = u64::from(meta.permissions().mode());
        assert_eq!(number("mode") & 0o7777, mode & 0o7777, "{path} {mode:o}");
        assert_eq!(number("gid"), u64::from(meta.gid()), "{path}");
        let text = shell.text(&format!("xattr -v /{path}"));
        let mut ours = Vec::new();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(" = ") else {
                continue;
            };
            let prefix = if name.contains("default") {
                "default:"
            } else {
                ""
            };
            ours.extend(value.split(',').map(|entry| format!("{prefix}{entry}")));
        }
        let theirs = numbers(&on_host);
        if ours.iter().all(|entry| entry.starts_with("default:")) {
            // What the mode says alone is no ACL.
            assert!(
                theirs.iter().filter(|e| !e.starts_with("default:")).count() == 3,
                "{path}"
            );
        }
        for entry in &ours {
            assert!(
                theirs.contains(entry),
                "{path}: {entry} of {ours:?}, not {theirs:?}"
            );
        }
        let extra = theirs.iter().filter(|entry| !ours.contains(entry));
        assert!(extra.count() <= 3, "{path}: {ours:?} {theirs:?}");
    }
    let link = shell.json("stat /parent/d/l");
    let meta = std::fs::symlink_metadata(parent.join("d/l")).unwrap();
    assert_eq!(link["gid"].as_u64(), Some(meta.gid().into()));
    drop(shell);
    demand_sound(image.path(), "inherited");
}

/// Writing over a file behind its last change, at odd places, as the host does.
#[test]
fn sizes_change_as_on_the_host() {
    let dir = TempDir::new().unwrap();
    for (block, cluster) in [(512, 4096), (4096, 65536)] {
        let image = volume(block, cluster);
        let mut shell = Shell::edit(image.path()).unwrap();
        shell.text("touch /f");
        let model = std::fs::File::create_new(dir.path().join(format!("model-{block}"))).unwrap();
        let mut random = Random(u64::from(block));
        for step in 0..40 {
            let (offset, size) = (random.below(300_000), 1 + random.below(150_000));
            let len = model.metadata().unwrap().len();
            let line = match random.below(6) {
                0 => {
                    model.set_len(offset).unwrap();
                    format!("truncate /f {offset}")
                }
                1 => {
                    let end = (offset + size).min(len);
                    if offset < end {
                        let zeros = vec![0; usize::try_from(end - offset).unwrap()];
                        model.write_all_at(&zeros, offset).unwrap();
                    }
                    format!("punch /f {offset} {size}")
                }
                2 => {
                    model.set_len(len.max(offset + size)).unwrap();
                    format!("fallocate /f {offset} {size}")
                }
                3 => format!("fallocate -k /f {offset} {size}"),
                _ => {
                    let bytes = pattern(usize::try_from(size).unwrap(), step);
                    let path = dir.path().join("bytes");
                    std::fs::write(&path, &bytes).unwrap();
                    model.write_all_at(&bytes, offset).unwrap();
                    format!("write -o {offset} {} /f", path.display())
                }
            };
            // In a group now and then: what is staged is read back.
            match step % 8 {
                3 => drop(shell.text("begin")),
                6 => drop(shell.text("commit")),
                _ => {}
            }
            let said = shell.run(&line);
            assert!(said.good, "{line}: {}", said.err);
            let mut expected = vec![0; usize::try_from(model.metadata().unwrap().len()).unwrap()];
            model.read_exact_at(&mut expected, 0).unwrap();
            assert!(
                shell.run("cat /f").out == expected,
                "{block} {step}: {line}"
            );
        }
        drop(shell);
        if oracle::tools().is_ok() {
            // Preallocation beyond the end is no damage, whatever it says.
            shell = Shell::edit(image.path()).unwrap();
            let size = shell.json("stat /f")["size"].as_u64().unwrap();
            shell.text(&format!("truncate /f {}", size + 1_000_000));
            shell.text(&format!("truncate /f {size}"));
            drop(shell);
            demand_sound(image.path(), &format!("{block}/{cluster}"));
        }
    }
}
