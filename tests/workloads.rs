//! Volumes that the driver wore out, each in its own way: the checker is silent on every one of them, and a repair
//! does not change a byte.
#![allow(clippy::unwrap_used)] // A test may panic.

use std::path::{Path, PathBuf};

use cowfs_tests::said::{fsck, silent};
use cowfs_tests::{Ending, Guest, Kernel, need, oracle};

/// What is done on a volume, with the functions of `golden.sh` and those of [`FUNCTIONS`].
struct Workload {
    mib: u64,
    /// Block and cluster size.
    sizes: (u32, u32),
    /// Further options of mkfs.ocfs2.
    options: &'static str,
    mount: &'static str,
    work: &'static str,
}

/// Those that end with an unmounted volume.
const WORKLOADS: &[Workload] = &[
    Workload {
        mib: 64,
        sizes: (4096, 4096),
        options: "-N 2",
        mount: "",
        work: "grown; unwritten; holes; fragmented 700",
    },
    Workload {
        mib: 24,
        sizes: (1024, 4096),
        options: "-N 1",
        mount: "",
        work: "full",
    },
    Workload {
        mib: 64,
        sizes: (512, 4096),
        options: "-N 1 --fs-feature-level=max-features",
        mount: "",
        work: "deep 80; churned 100; shared 120",
    },
    Workload {
        mib: 96,
        sizes: (4096, 32768),
        options: "-N 1 --fs-feature-level=max-features",
        mount: "",
        work: "attributes 500; storm 30; acls; attribute_clones",
    },
    Workload {
        mib: 64,
        sizes: (4096, 4096),
        options: "-N 1 --fs-feature-level=max-features",
        mount: "",
        work: "cloned 40; reflinks",
    },
    Workload {
        mib: 64,
        sizes: (2048, 8192),
        options: "-N 2 --fs-feature-level=max-features",
        mount: "usrquota,grpquota",
        work: "owners; charged 100; inline",
    },
    Workload {
        mib: 64,
        sizes: (1024, 8192),
        options: "-N 1 --fs-feature-level=max-compat",
        mount: "",
        work: "many 400; links; devices; grown",
    },
];

/// Left by a power cut in the middle.
const CRASHED: &[Workload] = &[Workload {
    mib: 64,
    sizes: (4096, 4096),
    options: "-N 1 --fs-feature-level=max-features",
    mount: "usrquota,grpquota",
    work: "owners; reflinks; sync; orphans; charged 60; churned 60; xfs_io -c fsync owners/late; rm -r reflinks",
}];

const FUNCTIONS: &str = r##"
# grown: files that grow in turns, so that their extents alternate; some are cut, some grow on.
grown() (
    cd_new grown
    for ((round = 0; round < 24; round++)); do
        for ((file = 0; file < 8; file++)); do
            printf "%0$((CS + round * 7))d" $file >>$file
        done
    done
    truncate -s 5 1
    truncate -s $((CS * 9 + 1)) 2
    truncate -s $((CS * 40)) 3
    rm 4
    echo more >>2
)

# full: nothing fits any more, then a third goes, then nothing fits again.
full() (
    cd_new full
    piece=$(words full $((CS * 2)))
    for ((i = 0; ; i++)); do echo "$piece" 2>/dev/null >$i || break; done
    for ((k = 0; k < i; k += 3)); do echo $k; done | xargs rm -f
    echo "$piece$piece$piece" >mixed
    for ((k = 0; ; k++)); do : 2>/dev/null >name-$k || break; [ $k -lt 3000 ] || break; done
    dd if=/dev/zero of=rest bs=64K status=none 2>/dev/null || true
    sync
)

# deep LEVELS: directories inside each other, each with a file; the middle is moved to the top.
deep() (
    cd_new deep
    for ((level = 0; level < $1; level++)); do
        mkdir d && echo $level >f && cd d
        [ $level != $(($1 / 2)) ] || middle=$PWD
    done
    cd "$MNT/deep"
    mv "$middle" moved
)

# churned NAMES: names made, renamed within and between directories, over others, and removed.
churned() (
    cd_new churned
    mkdir a b
    for ((i = 0; i < $1; i++)); do echo $i >a/name-$i; done
    mv a/name-*1 b
    mv a/name-*2 a/name-*3 b
    for ((i = 0; i < $1; i++)); do : >a/other-of-more-length-$i; done
    mv b/name-1 a/name-4
    mv a/name-4 b/name-11
    rm a/name-*
    mv b a/inside
    mv a/inside/name-2 .
)

# storm FILES: attributes of many files, set, replaced by larger and smaller ones, removed.
storm() (
    cd_new storm
    for round in 10 2000 90; do
        for ((file = 0; file < $1; file++)); do
            : >>$file
            awk -v file=$file -v len=$((round + file)) 'BEGIN {
                print "# file: " file
                for (i = 0; i < 9; i++) {
                    printf "user.%d-%d=\"%0" len "d\"\n", i, len % 2 ? i : file, i
                }
                print ""
            }'
        done >/tmp/attributes
        setfattr --restore=/tmp/attributes
    done
    for ((file = 0; file < $1; file += 4)); do setfattr -x user.3-$file $file 2>/dev/null || setfattr -x user.3-3 $file; done
)

# cloned CLONES: clones of a file in pieces, each written elsewhere, a half removed again with the original.
cloned() (
    cd_new cloned
    scattered disk 100 2
    for ((i = 0; i < $1; i++)); do cp --reflink=always disk clone-$i; done
    for ((i = 0; i < $1; i++)); do
        xfs_io -c "pwrite -q -S $i $((CS * 2 * (i % 100))) $((CS * 3))" -c "pwrite -q $((CS * i)) 10" clone-$i
    done
    rm disk clone-*[02468]
    truncate -s $((CS * 31)) clone-1
    fallocate -p -o $((CS * 8)) -l $((CS * 50)) clone-3
)

# charged FILES: of many owners, given to others, removed.
charged() (
    cd_new charged
    for ((i = 0; i < $1; i++)); do printf "%0$((i * 97 + 1))d" $i >$i; done
    for ((owner = 0; owner < 10; owner++)); do chown $((owner * 1000)):$((owner + 5)) *$owner; done
    chown 77:78 *5
    rm *3
    truncate -s 100000 *7
    truncate -s 1 *8
)
"##;

fn format(dir: &Path, workload: &Workload, number: usize) -> PathBuf {
    let image = dir.join(format!("{number}.img"));
    let sizes = [workload.sizes.0, workload.sizes.1].map(|size| size.to_string());
    let mut args = vec![
        "-M", "local", "-J", "size=4M", "-b", &sizes[0], "-C", &sizes[1],
    ];
    args.extend(workload.options.split(' '));
    oracle::mkfs(&image, workload.mib << 20, &args).unwrap();
    image
}

/// Makes the volumes, and has the driver do the work on them.
fn worn(
    guest: Guest,
    dir: &Path,
    workloads: &[Workload],
    end: &str,
    ending: Ending,
) -> Vec<PathBuf> {
    let functions = include_str!("bin/golden.sh").replace("cd \"$MNT\"\n", "");
    let mut script = functions + FUNCTIONS;
    let (mut images, mut guest) = (Vec::new(), guest);
    for (number, workload) in workloads.iter().enumerate() {
        let image = format(dir, workload, number);
        guest = guest.disk(&image);
        images.push(image);
        let letter = char::from(b'a' + u8::try_from(number).unwrap());
        let (block, cluster) = workload.sizes;
        let (mount, work) = (workload.mount, workload.work);
        script.push_str(&format!(
            "DISK=/dev/vd{letter}; BS={block}; CS={cluster}; mount_vol {mount}; cd $MNT; {work}; cd /; {end}\n"
        ));
    }
    let said = guest.run(&script).unwrap();
    assert_eq!(said.ending, ending, "{said}");
    if ending == Ending::PoweredOff {
        said.expect_success();
    }
    images
}

/// Nothing is found on a volume, and nothing is done to it.
fn left_alone(image: &Path, work: &str) {
    let before = std::fs::read(image).unwrap();
    for options in ["-fn", "-fy"] {
        let out = silent(options, image).unwrap_or_else(|said| panic!("{work}: {said}"));
        let inodes = out.split(' ').nth(2).unwrap().parse::<u32>().unwrap();
        assert!(inodes > 30, "little was done of {work}: {out}");
    }
    assert!(
        std::fs::read(image).unwrap() == before,
        "{work}: bytes changed"
    );
}

#[test]
fn nothing_is_found_on_what_linux_6_12_wore_out() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let guest = need!(Guest::new(Kernel::V6_12));
    let images = worn(
        guest,
        dir.path(),
        WORKLOADS,
        "umount_vol",
        Ending::PoweredOff,
    );
    for (image, workload) in images.iter().zip(WORKLOADS) {
        left_alone(image, workload.work);
    }
}

#[test]
fn what_a_power_cut_left_is_done_once() {
    need!(oracle::tools());
    let dir = tempfile::tempdir().unwrap();
    let guest = need!(Guest::new(Kernel::V6_12));
    for image in worn(guest, dir.path(), CRASHED, "crash", Ending::Crashed) {
        let path = image.to_str().unwrap();
        // What is pending is no damage.
        let (code, out, err) = fsck(&["-fn", path]);
        assert_eq!(code, 0, "{out}{err}");
        let (code, out, err) = fsck(&["-fy", path]);
        assert_eq!(code, 1, "{out}{err}");
        left_alone(&image, "after a crash");
    }
}
