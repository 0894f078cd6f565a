//! Machines, in both layouts of repositories.

use cowfs_format::device::MemDevice;
use cowfs_format::volume::Volume;
use cowfs_tests::session::{Session as _, contents, find, pattern, writable};
use mkfs_cowfs::Options;

use crate::rig::Image;
use crate::tree::subtree;

const TWO: &str = "# the template\nbootloader = '/usr/bin/pygrub'\nname = 'el5'\nmemory = 1024\nvcpus = 2\n\
    disk = ['file:/OVS/seed_pool/el5/System.img,xvda,w',\n        'file:/OVS/seed_pool/el5/data.img,xvdb,w',\n        'file:/OVS/iso_pool/cd.iso,hdc:cdrom,r',\n        'file:/OVS/sharedDisk/all.img,xvdd,w!']\n\
    vif = ['bridge=xenbr0', 'mac=00:16:3E:11:22:33, bridge=xenbr1']\nuuid = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'\nvncconsole = \"/OVS/seed_pool/el5/console.log\"\n";

const THREE: &str = "OVM_simple_name = 'db one'\nname = '0004fb0000060000aaaaaaaaaaaaaaaa'\n\
    disk = ['file:/OVS/Repositories/0004fb0000030000cccccccccccccccc/VirtualDisks/0004fb0000120000bbbbbbbbbbbbbbbb.img,xvda,w']\n\
    vif = ['mac=00:21:f6:00:00:01,bridge=0a00']\nuuid = '0004fb00-0006-0000-aaaa-aaaaaaaaaaaa'\nmemory = 512\n";

fn options() -> Options {
    Options {
        block_size: Some(4096),
        slots: Some(1),
        journal_size: Some(4 << 20),
        ..Options::default()
    }
}

fn two(volume: &mut Volume<&MemDevice>) {
    for name in ["running_pool", "seed_pool", "seed_pool/el5", "iso_pool"] {
        volume.mkdir(name).unwrap();
    }
    volume
        .write("seed_pool/el5/System.img", &pattern(400_000, 1))
        .unwrap();
    volume
        .write("seed_pool/el5/data.img", &pattern(50_000, 2))
        .unwrap();
    volume
        .write("seed_pool/el5/vm.cfg", TWO.as_bytes())
        .unwrap();
    volume.write("seed_pool/el5/readme", b"notes").unwrap();
}

fn three(volume: &mut Volume<&MemDevice>) {
    let machine = "VirtualMachines/0004fb0000060000aaaaaaaaaaaaaaaa";
    for name in ["VirtualMachines", "Templates", "VirtualDisks", machine] {
        volume.mkdir(name).unwrap();
    }
    volume
        .write(
            "VirtualDisks/0004fb0000120000bbbbbbbbbbbbbbbb.img",
            &pattern(300_000, 4),
        )
        .unwrap();
    volume
        .write(&format!("{machine}/vm.cfg"), THREE.as_bytes())
        .unwrap();
}

fn text(image: &Image, path: &str) -> String {
    String::from_utf8(contents(&image.volume(), path)).unwrap()
}

#[test]
fn machines_of_the_second_layout() {
    let image = Image::new(32, &options(), two);
    let template = subtree(image.volume().view(), "/seed_pool");
    let made = image.json("vm clone", &["el5", "web"]);
    assert_eq!(
        (&made["transactions"], &made["directory"]),
        (&1.into(), &"running_pool/web".into()),
        "{made}"
    );
    assert_eq!(made["other_disks"].as_array().unwrap().len(), 2, "{made}");
    image.is_sound("clone");
    assert_eq!(subtree(image.volume().view(), "/seed_pool"), template);
    assert_eq!(text(&image, "running_pool/web/readme"), "notes");
    assert!(contents(&image.volume(), "running_pool/web/System.img") == pattern(400_000, 1));

    // What had to change, and nothing else.
    let new = text(&image, "running_pool/web/vm.cfg");
    let lines: Vec<(&str, &str)> = TWO
        .lines()
        .zip(new.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert_eq!(TWO.lines().count(), new.lines().count());
    let keys: Vec<&str> = lines
        .iter()
        .map(|(a, _)| a.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "name",
            "disk",
            "'file:/OVS/seed_pool/el5/data.img,xvdb,w',",
            "vif",
            "uuid",
            "vncconsole"
        ]
    );
    assert!(
        new.contains("'file:/OVS/running_pool/web/System.img,xvda,w'"),
        "{new}"
    );
    assert!(
        new.contains("'file:/OVS/running_pool/web/data.img,xvdb,w'"),
        "{new}"
    );
    assert!(
        new.contains("name = 'web'") && new.contains("'/OVS/running_pool/web/console.log'"),
        "{new}"
    );
    assert!(
        !new.contains("11:22:33") && new.contains("mac=00:16:3E:") && new.contains("mac=00:16:3e:"),
        "{new}"
    );

    image.json("vm snap", &["web", "clean"]);
    image.is_sound("snapshot");
    let clean = subtree(image.volume().view(), "/running_pool/web");
    let mut volume = writable(&image.path);
    volume
        .overwrite("running_pool/web/System.img", 5, b"changed")
        .unwrap();
    volume
        .overwrite("running_pool/web/vm.cfg", 0, b"# changed it")
        .unwrap();
    drop(volume);
    let rolled = image.json("vm rollback", &["running_pool/web", "clean"]);
    assert_eq!(rolled["disks"].as_array().unwrap().len(), 2, "{rolled}");
    assert_eq!(subtree(image.volume().view(), "/running_pool/web"), clean);
    image.is_sound("rollback");

    let back = image.json("vm template", &["web", "web-template"]);
    assert_eq!(back["directory"], "seed_pool/web-template");
    let new = text(&image, "seed_pool/web-template/vm.cfg");
    assert!(
        !new.contains("mac=") && new.contains("/OVS/seed_pool/web-template/System.img"),
        "{new}"
    );
    find(&image.volume(), "seed_pool/web-template/.snapshots").unwrap_err();

    let list = image.json("vm ls", &[]);
    let names: Vec<&str> = list["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web", "el5", "web-template"]);
    assert_eq!(
        list["machines"][0]["snapshots"],
        serde_json::json!(["clean"])
    );
    assert_eq!(list["machines"][0]["size_bytes"], 450_000);
    assert_eq!(list["machines"][0]["exclusive_bytes"], 0);

    let bytes = std::fs::read(&image.path).unwrap();
    for (verb, paths, says) in [
        ("vm clone", &["el5", "web"][..], "exists"),
        ("vm clone", &["absent", "x"], "no such machine"),
        ("vm clone", &["el5", "a/b"], "no slash"),
        ("vm snap", &["web", "clean"], "exists"),
        ("vm rollback", &["web", "dirty"], "no snapshot"),
        (
            "vm clone --repository /iso_pool",
            &["el5", "x"],
            "no repository",
        ),
        ("vm clone -n", &["el5", "other"], ""),
        ("vm rm -n", &["web"], ""),
    ] {
        let ran = image.run(verb, paths);
        assert_eq!(ran.code, u8::from(!verb.ends_with("-n")), "{verb}: {ran:?}");
        assert!(
            ran.err.contains(says) && ran.err.lines().count() <= 1,
            "{verb}: {ran:?}"
        );
        assert!(std::fs::read(&image.path).unwrap() == bytes, "{verb}");
    }
    image.json("vm rm --snapshot clean", &["web"]);
    find(&image.volume(), "running_pool/web/.snapshots/clean").unwrap_err();
    image.json("vm snap", &["web", "again"]);
    image.json("vm rm", &["web"]);
    image.json("vm rm", &["web-template"]);
    find(&image.volume(), "running_pool/web").unwrap_err();
    assert_eq!(subtree(image.volume().view(), "/seed_pool"), template);
    image.is_sound("removed");
}

#[test]
fn machines_of_the_third_layout() {
    let image = Image::new(32, &options(), three);
    let made = image.json("vm clone", &["db one", "db two"]);
    let directory = made["directory"].as_str().unwrap();
    assert!(
        directory.starts_with("VirtualMachines/0004fb0000060000"),
        "{made}"
    );
    let new = text(&image, &format!("{directory}/vm.cfg"));
    assert!(new.contains("OVM_simple_name = 'db two'"), "{new}");
    assert!(
        new.contains(&format!(
            "name = '{}'",
            directory.split('/').nth(1).unwrap()
        )),
        "{new}"
    );
    let disk = new
        .split("VirtualDisks/")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    assert!(
        disk.starts_with("0004fb0000120000") && !disk.contains("bbbb"),
        "{new}"
    );
    assert!(contents(&image.volume(), &format!("VirtualDisks/{disk}")) == pattern(300_000, 4));
    assert!(
        new.contains("mac=00:21:f6:") && !new.contains("00:00:01"),
        "{new}"
    );
    image.is_sound("clone");

    image.json("vm snap", &["db two", "s"]);
    let mut volume = writable(&image.path);
    volume
        .overwrite(&format!("VirtualDisks/{disk}"), 0, b"other")
        .unwrap();
    drop(volume);
    image.json("vm rollback", &["db two", "s"]);
    assert!(contents(&image.volume(), &format!("VirtualDisks/{disk}")) == pattern(300_000, 4));
    image.json("vm rm", &["db two"]);
    find(&image.volume(), &format!("VirtualDisks/{disk}")).unwrap_err();
    find(&image.volume(), directory).unwrap_err();
    assert!(
        contents(
            &image.volume(),
            "VirtualDisks/0004fb0000120000bbbbbbbbbbbbbbbb.img"
        ) == pattern(300_000, 4)
    );
    image.is_sound("removed");
}

/// With `SOURCE_DATE_EPOCH`, the same clone of the same machine is the same, bit for bit.
#[test]
fn clones_are_reproducible() {
    for (layout, source) in [
        (two as fn(&mut Volume<&MemDevice>), "el5"),
        (three, "db one"),
    ] {
        let image = Image::new(32, &options(), layout);
        let before = std::fs::read(&image.path).unwrap();
        let cloned = |epoch: &str, name: &str| {
            std::fs::write(&image.path, &before).unwrap();
            // Beside the directory of the tests.
            let tests = std::env::current_exe().unwrap();
            let program = tests.ancestors().nth(2).unwrap().join("reflink-cowfs");
            let status = std::process::Command::new(program)
                .args(["vm", "clone", "-q"])
                .arg(&image.path)
                .args([source, name])
                .env("SOURCE_DATE_EPOCH", epoch)
                .status()
                .unwrap();
            assert!(status.success());
            image.is_sound(name);
            std::fs::read(&image.path).unwrap()
        };
        let one = cloned("1700000000", "new");
        assert!(cloned("1700000000", "new") == one);
        assert!(cloned("1700000001", "new") != one && cloned("1700000000", "other") != one);
    }
}

#[test]
fn what_is_no_configuration_is_told_and_never_run() {
    let image = Image::new(32, &options(), |volume| {
        two(volume);
        volume.mkdir("running_pool/evil").unwrap();
        let evil = b"name = 'evil'\nimport os\nos.system('touch /tmp/x')\n";
        volume.write("running_pool/evil/vm.cfg", evil).unwrap();
    });
    let ran = image.run("vm ls --json", &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("evil: vm.cfg, line 2:"), "{ran:?}");
    let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(list["machines"][0]["name"], "el5");
    let ran = image.run("vm clone", &["evil", "x"]);
    assert!(ran.code == 1 && ran.err.contains("line 2"), "{ran:?}");
}
