//! What a crash of two nodes left, without a cluster to ask: the golden volume `two-dirty-slots`.
//! (`tests/cluster.rs` has the living nodes.)

#![allow(clippy::unwrap_used)]

mod support;

use cowfs_tests::{golden, need, oracle};
use debugfs_cowfs::session::{Session, Superblock};
use serde_json::{Value, json};
use support::{Shell, Sink};

/// Nodes with the slots that they hold.
fn held(shell: &mut Shell) -> Vec<(Value, Value, Value)> {
    let said = shell.json("nodes");
    let nodes = said["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            assert_eq!(node["heartbeat"]["intact"], true);
            (
                node["node"].clone(),
                node["slots"].clone(),
                node["dirty"].clone(),
            )
        })
        .collect()
}

#[test]
fn heartbeats_are_those_of_debugfs_ocfs2() {
    need!(oracle::tools());
    let image = golden::open("two-dirty-slots").unwrap();
    let rows = |text: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|line| line.contains(": "));
        let words = rows.map(|line| line.split_whitespace().take(5).map(str::to_owned).collect());
        words.collect()
    };
    let theirs = rows(&oracle::debugfs(image.path(), "hb").unwrap());
    let mut shell = Shell::open(image.path()).unwrap();
    let ours = rows(&shell.text("hb"));
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 3, "a head and two nodes: {ours:?}");
}

/// Their slots owe something (clusters set aside, orphans, changes of quota), which only a mount
/// settles: they stay held, because a mount looks at no others. Their logs are replayed.
#[test]
fn slots_of_dead_nodes_are_replayed_and_stay_held_while_they_owe() {
    need!(oracle::tools());
    let image = golden::open("two-dirty-slots").unwrap();
    let mut shell = Shell::open(image.path()).unwrap();
    let both = [
        (json!(0), json!([0]), json!(true)),
        (json!(1), json!([1]), json!(true)),
    ];
    assert_eq!(held(&mut shell), both);
    let names =
        |shell: &mut Shell| ["/node0", "/node1"].map(|dir| shell.text(&format!("ls {dir}")));
    let before = names(&mut shell);
    assert!(
        before.iter().all(|names| names.contains("reflinks")),
        "{before:?}"
    );
    drop(shell);

    let (out, err) = (Sink::default(), Sink::default());
    let mut session = Session::new(Box::new(out), Box::new(err.clone()));
    session.writes = true;
    let path = image.path().to_path_buf();
    session.open(path, Superblock::default()).unwrap();
    assert!(session.line(b"mkdir /new").unwrap());
    drop(session);

    let mut shell = Shell::open(image.path()).unwrap();
    assert_eq!(held(&mut shell), both);
    assert_eq!(names(&mut shell), before);
    shell.text("stat /new");
    for journal in shell.json("stats")["journals"].as_array().unwrap() {
        assert_eq!(journal["pending_transactions"], 0, "{journal}");
    }
    // As the tools said of the image as it was: see its recipe.
    let report = oracle::check(image.path()).unwrap();
    assert_eq!(report.codes, ["DX_TREE_MISSING"], "{report:?}");
}
