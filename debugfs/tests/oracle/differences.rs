//! Where we show something else than debugfs.ocfs2, each with its reason. The test fails when one
//! of these is no longer seen anywhere.

use crate::facts::{Fact, ROW};

/// A difference.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    /// Why it is right as it is here.
    pub(crate) why: &'static str,
    /// The commands that have it.
    pub(crate) commands: &'static [&'static str],
    pub(crate) change: Change,
}

/// How the facts are brought together.
pub(crate) enum Change {
    /// Fields that only we show; the beginnings of their keys.
    OursAlone(&'static [&'static str]),
    /// Fields that only debugfs.ocfs2 shows.
    TheirsAlone(&'static [&'static str]),
    /// Changes what we show.
    Ours(fn(&mut Vec<Fact>)),
    /// Changes what debugfs.ocfs2 shows.
    Theirs(fn(&mut Vec<Fact>)),
    /// Changes what we show, by what debugfs.ocfs2 shows.
    Beside(fn(&[Fact], &mut Vec<Fact>)),
}

pub(crate) const ALL: &[Difference] = &[
    Difference {
        name: "states of the journals",
        why: "a volume whose log waits is shown as after its replay, so that must be said",
        commands: &["stats", "stat_sysdir"],
        change: Change::Ours(without_journals),
    },
    Difference {
        name: "device numbers",
        why: "debugfs.ocfs2 shows the room for extents of a device in place of its number",
        commands: &["stat", "stat -T", "logdump"],
        change: Change::OursAlone(&["Device"]),
    },
    Difference {
        name: "extents of what has none",
        why: "devices, FIFOs and sockets have no extent list; the bytes there mean something else",
        commands: &["stat", "logdump"],
        change: Change::Theirs(without_extents_of_devices),
    },
    Difference {
        name: "the list in the inode",
        why: "-T leaves out what other blocks hold; the list in the inode itself costs nothing",
        commands: &["stat -T"],
        change: Change::Ours(without_body),
    },
    Difference {
        name: "checks of trailers",
        why: "it swaps the bytes of a block before it sums them, so it calls every check wrong",
        commands: &["dirblocks", "dx_space"],
        change: Change::TheirsAlone(&["**FAILED CHECKSUM** Computed CRC32"]),
    },
    Difference {
        name: "the second line of a wrong check",
        why: "as above: the ECC that it computes stands behind",
        commands: &["dirblocks", "dx_space"],
        change: Change::Theirs(without_second_ecc),
    },
    Difference {
        name: "sums of a refcount tree",
        why: "we add what the records come to",
        commands: &["refcount", "refcount -e"],
        change: Change::OursAlone(&["Counted clusters", "Shared clusters"]),
    },
    Difference {
        name: "head of an extent tree",
        why: "depth and number of records stand in the list, which is shown as well",
        commands: &["refcount -e"],
        change: Change::TheirsAlone(&["Depth", "Records"]),
    },
    Difference {
        name: "the UUID of a tag",
        why: "it is always zeros in OCFS2, whose journals have no user but one",
        commands: &["logdump"],
        change: Change::TheirsAlone(&["UUID"]),
    },
    Difference {
        name: "names of the flags of tags",
        why: "we leave the prefix of the kernel's source away, and say nothing where none is set",
        commands: &["logdump"],
        change: Change::Theirs(plain_tag_flags),
    },
    Difference {
        name: "names of the journal's features",
        why: "that block numbers have 32 bits is no feature; the bit of 64 is called 64bit",
        commands: &["logdump"],
        change: Change::Theirs(plain_features),
    },
    Difference {
        name: "the state of the journal",
        why: "whether the log is to be replayed stands in the inode; we say it here",
        commands: &["logdump"],
        change: Change::OursAlone(&["Dirty"]),
    },
    Difference {
        name: "titles of blocks without a type",
        why: "what is neither a record nor metadata is called data",
        commands: &["logdump"],
        change: Change::Theirs(plain_titles),
    },
    Difference {
        name: "the first block with room",
        why: "it is a field of the root of an index like others",
        commands: &["dx_root", "dx_dump", "logdump"],
        change: Change::OursAlone(&["First Block With Room"]),
    },
    Difference {
        name: "entries of an index in its root",
        why: "it shows them by dx_dump only; they are what the block holds",
        commands: &["dx_root"],
        change: Change::Ours(without_entries_of_root),
    },
    Difference {
        name: "the list of an index",
        why: "it shows the root's extents by dx_root only; a dump of all has them",
        commands: &["dx_dump"],
        change: Change::Ours(without_list_of_root),
    },
    Difference {
        name: "counts of an index in its root",
        why: "it says them twice",
        commands: &["dx_dump"],
        change: Change::Theirs(counts_once),
    },
    Difference {
        name: "room in a directory whose index fits its root",
        why: "it shows no list for such a directory, though the root leads to one",
        commands: &["dx_space"],
        change: Change::Beside(|theirs, ours| {
            if theirs.is_empty() {
                ours.clear();
            }
        }),
    },
    Difference {
        name: "directory blocks in a log",
        why: "it does not recognise their trailers and calls them data",
        commands: &["logdump"],
        change: Change::Ours(directories_as_data),
    },
    Difference {
        name: "what roots of indexes and refcount blocks hold, in a log",
        why: "it shows the heads of these blocks only",
        commands: &["logdump"],
        change: Change::Ours(heads_of_roots),
    },
    Difference {
        name: "attributes in images",
        why: "we show their names, values and hashes",
        commands: &["logdump"],
        change: Change::Ours(plain_attributes),
    },
];

fn without_extents_of_devices(facts: &mut Vec<Fact>) {
    let mut inside = false;
    facts.retain(|fact| {
        match fact.key.as_str() {
            "Type" => {
                let kinds = ["char device", "block device", "fifo", "socket"];
                inside = kinds.contains(&fact.value.as_str());
            }
            "Inode" => inside = false,
            key if key.starts_with("Block ") => inside = false,
            _ => {}
        }
        !(inside && ["Tree Depth", "Count", "Next Free Rec", ROW].contains(&fact.key.as_str()))
    });
}

fn without_body(facts: &mut Vec<Fact>) {
    let starts = [
        "Tree Depth",
        "Clusters per Group",
        "Total Records",
        "Local Bitmap Offset",
        "Fast Symlink Destination",
    ];
    if let Some(at) = facts
        .iter()
        .position(|fact| starts.contains(&fact.key.as_str()))
    {
        facts.truncate(at);
    }
}

fn without_second_ecc(facts: &mut Vec<Fact>) {
    // Each check is a CRC32 and an ECC; what it computed itself is an ECC without a CRC32.
    let mut last_was_crc = false;
    facts.retain(|fact| {
        let keep = fact.key != "ECC" || last_was_crc;
        last_was_crc = fact.key == "CRC32";
        keep
    });
}

#[allow(
    clippy::ptr_arg,
    reason = "stands in a table with functions that remove facts"
)]
fn plain_tag_flags(facts: &mut Vec<Fact>) {
    for fact in facts.iter_mut().filter(|fact| fact.key == ROW) {
        if !fact
            .value
            .split(' ')
            .next()
            .is_some_and(|word| word.ends_with('.'))
        {
            continue;
        }
        fact.value = fact
            .value
            .replace("jbd2_flag_same_uuid", "sameuuid")
            .replace("jbd2_flag_last_tag", "last")
            .replace("jbd2_flag_escape", "escape")
            .replace("jbd2_flag_deleted", "deleted")
            .replace(" none", "");
    }
}

#[allow(
    clippy::ptr_arg,
    reason = "stands in a table with functions that remove facts"
)]
fn plain_features(facts: &mut Vec<Fact>) {
    for fact in facts
        .iter_mut()
        .filter(|fact| fact.key == "Feature Incompat")
    {
        let words = fact.value.split(' ').filter(|word| *word != "block32");
        let mut words: Vec<&str> = words
            .map(|word| if word == "block64" { "64bit" } else { word })
            .collect();
        words.sort_unstable();
        fact.value = words.join(" ");
    }
}

#[allow(
    clippy::ptr_arg,
    reason = "stands in a table with functions that remove facts"
)]
fn plain_titles(facts: &mut Vec<Fact>) {
    for fact in facts
        .iter_mut()
        .filter(|fact| fact.key.starts_with("Block "))
    {
        if fact.value.contains("unknown") && fact.value.contains("data") {
            fact.value = "data".to_owned();
        }
    }
}

fn plain_attributes(facts: &mut Vec<Fact>) {
    facts.retain(|fact| {
        let titles = ["Extended attributes in", "Root of a tree"];
        let is_value = fact.key.contains(" = ") || fact.value == "not read";
        !titles.iter().any(|title| fact.key.starts_with(title)) && !is_value
    });
    for fact in facts.iter_mut().filter(|fact| fact.key == ROW) {
        let words: Vec<&str> = fact.value.split(' ').collect();
        if words.len() == 6 && words[0].starts_with('#') {
            fact.value = words[..5].join(" ");
        }
    }
}

fn without_journals(facts: &mut Vec<Fact>) {
    facts.retain(|fact| {
        let slot = fact.key.strip_prefix("Journal ").unwrap_or("");
        slot.is_empty() || !slot.bytes().all(|b| b.is_ascii_digit())
    });
}

fn without_entries_of_root(facts: &mut Vec<Fact>) {
    let inline = |fact: &Fact| fact.key == "Flags" && fact.value.contains("inline");
    if facts.iter().any(inline) {
        facts.retain(|fact| fact.key != ROW);
    }
}

fn without_list_of_root(facts: &mut Vec<Fact>) {
    let find = |key: &str| facts.iter().position(|fact| fact.key == key);
    if let (Some(list), Some(leaf)) = (find("Tree Depth"), find("Dir Index Leaf"))
        && list < leaf
    {
        facts.drain(list..leaf);
    }
}

fn counts_once(facts: &mut Vec<Fact>) {
    let twice = facts.windows(4).position(|w| w[..2] == w[2..]);
    if let Some(at) = twice {
        facts.drain(at..at + 2);
    }
}

/// The blocks of a log that a title speaks of.
fn run(fact: &Fact) -> Option<(u64, u64)> {
    let (first, last) = match fact.key.strip_prefix("Block ")?.split_once(" to ") {
        Some(run) => run,
        None => (&fact.key[6..], &fact.key[6..]),
    };
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn directories_as_data(facts: &mut Vec<Fact>) {
    let mut kept: Vec<Fact> = Vec::new();
    let mut inside = false;
    for mut fact in std::mem::take(facts) {
        let Some((first, last)) = run(&fact) else {
            if !inside {
                kept.push(fact);
            }
            continue;
        };
        inside = fact.value == "dirblock";
        if inside {
            fact.value = "data".to_owned();
        }
        if let Some(before) = kept.last_mut()
            && let Some((start, end)) = run(before)
            && (before.value.as_str(), fact.value.as_str()) == ("data", "data")
            && end + 1 == first
        {
            before.key = format!("Block {start} to {last}");
            continue;
        }
        kept.push(fact);
    }
    *facts = kept;
}

fn heads_of_roots(facts: &mut Vec<Fact>) {
    let (mut inside, mut list, mut refcounts) = (false, false, false);
    facts.retain(|fact| {
        if run(fact).is_some() {
            (inside, list) = (fact.value == "dxroot", false);
            refcounts = fact.value == "refcount";
        }
        if refcounts && ["Refcount records", "Used", ROW].contains(&fact.key.as_str()) {
            return false;
        }
        list |= fact.key == "Tree Depth";
        let of_list = ["Tree Depth", "Count", "Next Free Rec"].contains(&fact.key.as_str());
        !(inside && (fact.key == ROW || list && of_list))
    });
}
