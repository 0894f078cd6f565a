//! Tests of the lines: what is written is read back, and nothing else is read.

use proptest::prelude::*;

use super::*;

fn share(offset: u64, len: u64, path: &[u8], at: u64) -> Share {
    let path = path.into();
    Share {
        offset,
        len,
        path,
        at,
    }
}

/// An entry in which every fact stands.
fn full() -> Entry {
    Entry {
        kind: Some(FileType::Regular),
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        attr: 0x10,
        links: 2,
        size: Some(12_288),
        mtime: Some((1_790_000_000, 5)),
        sum: Some(Sum::Whole([0xAB; 32])),
        hard_link: Some(b"bin/a b".to_vec()),
        shares: vec![
            share(0, 4096, b"x:1", 0),
            share(4096, 4096, b"y", 0),
            share(8192, 4096, b"x:1", 12_288),
        ],
        xattrs: vec![
            Xattr {
                name: b"user.a=b".to_vec(),
                value: Value::Short(b"\0=\xff".to_vec()),
            },
            Xattr {
                name: b"user.long".to_vec(),
                value: Value::Long([1; 32], 70_000),
            },
        ],
        trouble: vec![Trouble::Contents, Trouble::Xattrs],
        ..Entry::empty(b"bin/\xff\n#".to_vec())
    }
}

fn line(entry: &Entry) -> String {
    let mut line = String::new();
    write(&mut line, entry);
    line
}

#[test]
fn a_line_is_what_the_grammar_says() {
    let (ab, one) = ("ab".repeat(32), "01".repeat(32));
    let expected = format!(
        "./bin/\\377\\012# type=file mode=4755 uid=1000 gid=100 attr=0x10 nlink=2 size=12288 \
         time=1790000000.000000005 sha256={ab} hardlink=./bin/a\\040b \
         reflink=./x\\0721:0+4096,8192+4096@12288 reflink=./y:4096+4096@0 \
         xattr.user.a\\075b=3:\\000=\\377 xattr.user.long=70000:sha256:{one} \
         trouble=contents,xattrs\n"
    );
    assert_eq!(line(&full()), expected);
    let entry = parse(expected.trim_end_matches('\n').as_bytes()).unwrap();
    assert_eq!(entry, full());
    let root = Entry {
        kind: Some(FileType::Directory),
        mode: 0o755,
        ..Entry::empty(Vec::new())
    };
    assert_eq!(line(&root), ". type=dir mode=0755 uid=0 gid=0\n");
}

#[test]
fn lines_of_other_types_are_read_back() {
    let with = |kind, change: fn(&mut Entry)| {
        let mut entry = Entry::empty(b"x".to_vec());
        entry.kind = Some(kind);
        change(&mut entry);
        entry
    };
    let mut lost = Entry::empty(b"lost".to_vec());
    lost.note(Trouble::Inode);
    for entry in [
        lost,
        with(FileType::Symlink, |e| e.target = Some(b"../a b".to_vec())),
        with(FileType::Symlink, |e| e.target = Some(Vec::new())),
        with(FileType::CharDevice, |e| e.device = Some((1, 3))),
        with(FileType::BlockDevice, |e| {
            e.device = Some((4095, 1_048_575))
        }),
        with(FileType::Fifo, |_| {}),
        with(FileType::Socket, |e| e.links = 3),
        with(FileType::Regular, |e| {
            e.size = Some(u64::MAX);
            e.sum = Some(Sum::Pieces([7; 32]));
        }),
    ] {
        let text = line(&entry);
        assert_eq!(parse(text.trim_end().as_bytes()).unwrap(), entry, "{text}");
    }
}

#[test]
fn what_is_no_line_is_refused() {
    let sum = "00".repeat(31);
    for (text, why) in [
        ("", "no path"),
        ("/a type=fifo", "no path"),
        ("./ type=fifo", "no path"),
        ("./a//b type=fifo", "no path"),
        ("./a", "type= is missing"),
        ("./a type=fifo mode=0644 uid=0", "gid= is missing"),
        ("./a type=file mode=0644 uid=0 gid=0", "size= is missing"),
        ("./a type=door", "impossible"),
        ("./a type=fifo mode=9", "impossible"),
        ("./a type=fifo mode=17777", "impossible"),
        ("./a type=fifo uid=-1", "impossible"),
        ("./a type=fifo uid=+1", "impossible"),
        ("./a type=fifo uid=4294967296", "impossible"),
        ("./a type=file time=1.5", "impossible"),
        (&format!("./a type=file sha256={sum}"), "impossible"),
        ("./a type=link link=\\9", "impossible"),
        ("./a type=link link=\\777", "impossible"),
        ("./a type=file reflink=./b", "impossible"),
        ("./a type=file reflink=b:1+1", "impossible"),
        ("./a type=file xattr.user.a=3:ab", "impossible"),
        ("./a type=file xattr.user.a=70000:ab", "impossible"),
        ("./a type=file trouble=much", "impossible"),
        ("./a type=fifo type=fifo", "stands twice"),
        ("./a type=fifo colour=red", "is unknown"),
        ("./a type=fifo  mode=0644", "no key=value"),
        ("./\u{e9} type=fifo", "ASCII"),
    ] {
        let message = parse(text.as_bytes()).unwrap_err();
        assert!(message.contains(why), "{text}: {message}");
    }
}

#[test]
fn the_head_names_version_and_fields() {
    let all = Fields {
        times: true,
        ..Fields::default()
    };
    assert_eq!(head(all), "#cowfs-manifest 1 sums times xattrs sharing\n");
    for fields in [all, Fields::default()] {
        assert_eq!(parse_head(head(fields).trim_end().as_bytes()), Ok(fields));
    }
    for (text, why) in [
        ("#mtree", "begins with"),
        ("#cowfs-manifest 2 sums", "version \"2\""),
        ("#cowfs-manifest 1 smell", "does not know"),
    ] {
        let message = parse_head(text.as_bytes()).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn many_shares_are_written_fast() {
    let mut entry = full();
    entry.shares = (0..200_000)
        .map(|n| share(n * 8192, 4096, format!("{}", n % 50_000).as_bytes(), 0))
        .collect();
    let text = line(&entry);
    assert_eq!(parse(text.trim_end().as_bytes()).unwrap(), entry);
}

proptest! {
    #[test]
    fn any_bytes_are_read_back(
        path in proptest::collection::vec(any::<u8>(), 1..40),
        target in proptest::collection::vec(any::<u8>(), 0..40),
        name in proptest::collection::vec(any::<u8>(), 0..20),
        value in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        prop_assume!(is_path(&path));
        let entry = Entry {
            kind: Some(FileType::Symlink),
            target: Some(target),
            xattrs: vec![Xattr { name, value: Value::of(value) }],
            ..Entry::empty(path)
        };
        let text = line(&entry);
        prop_assert!(text.trim_end_matches('\n').bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        prop_assert_eq!(parse(text.trim_end_matches('\n').as_bytes()).unwrap(), entry);
    }

    #[test]
    fn what_is_read_is_written_so_that_it_is_read_again(
        line in "\\./a type=fifo mode=0[0-7]{3} uid=[0-9]{1,3} gid=[0-9]{1,3}( nlink=[0-9]{1,3})?"
    ) {
        let entry = parse(line.as_bytes()).unwrap();
        let mut again = String::new();
        write(&mut again, &entry);
        prop_assert_eq!(parse(again.trim_end().as_bytes()).unwrap(), entry);
    }
}
