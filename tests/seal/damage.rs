//! Seeds of damage. The oracle is the sealed volume itself: within the promise every protected block is
//! byte for byte what it was, and beyond it that is said. What the promise is, is computed here anew,
//! from the groups as the layout's page describes them.

use cowfs_format::device::DeviceMut;
use cowfs_format::layout::SEAL_MAGIC;

use crate::rig::{Bed, Dice, beds, garble, lose, restore, unlike};

/// Seeds for each kind of damage and volume; `SEAL_SEEDS` in the environment sets another number.
fn seeds() -> u64 {
    std::env::var("SEAL_SEEDS").map_or(4, |text| text.parse().unwrap())
}

/// Runs a kind of damage, which must be made good.
fn each(kind: &str, damage: impl Fn(&Bed, &mut Dice) -> Vec<u64>) {
    let mut wrong = Vec::new();
    for bed in beds() {
        for seed in 0..seeds() {
            let mut dice = Dice::new(seed + 1);
            let lost = damage(bed, &mut dice);
            let device = bed.device();
            lose(&device, bed.block(), &lost, &mut dice);
            let beyond = restore(bed, &device);
            let left = unlike(bed, &device);
            if beyond != Ok(Vec::new()) || !left.is_empty() {
                wrong.push(format!(
                    "{} {kind} {seed}: {beyond:?}, left {left:?}",
                    bed.name
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.len(),
        wrong[..wrong.len().min(9)].join("\n")
    );
}

#[test]
fn any_parity_number_of_each_group_comes_back() {
    each("groups", |bed, dice| {
        let count = usize::from(bed.sealed.parity_shards);
        let groups = bed.groups();
        groups
            .iter()
            .flat_map(|group| dice.some(group, count))
            .collect()
    });
}

/// The least distance between a member of a group and the one `parity` members further on.
fn promised(bed: &Bed) -> (u64, u64) {
    let parity = usize::from(bed.sealed.parity_shards);
    let mut least = (u64::MAX, 0);
    for mut group in bed.groups() {
        group.sort_unstable();
        for pair in group.windows(parity + 1) {
            least = least.min((pair[parity] - pair[0], pair[0]));
        }
    }
    least
}

#[test]
fn the_promise_is_what_it_says() {
    for bed in beds() {
        let (least, _) = promised(bed);
        let tables = bed.tables[2][0] - bed.tables[0][0];
        assert_eq!(bed.sealed.run, least.min(tables), "{}", bed.name);
        // The formula, for seals in one piece.
        let formula = u64::from(bed.sealed.parity_shards) * bed.sealed.groups;
        assert_eq!(bed.seal.list.places.len(), 1, "{}", bed.name);
        assert!(
            bed.sealed.run >= formula,
            "{}: {} < {formula}",
            bed.name,
            bed.sealed.run
        );
    }
}

#[test]
fn runs_up_to_the_promise_come_back() {
    each("run", |bed, dice| {
        let blocks = bed.bytes.len() as u64 / bed.block() as u64;
        let len = (bed.sealed.run - dice.below(2)).min(blocks);
        // Half of them where the metadata lies thickest, at the start, or over the seal itself.
        let start = match dice.below(4) {
            0 => 0,
            1 => bed.tables[0][0].saturating_sub(dice.below(len)),
            _ => dice.below(blocks - len + 1),
        };
        (start..(start + len).min(blocks)).collect()
    });
}

/// The place where the promise is tightest, at its length and one block more.
#[test]
fn one_block_beyond_the_promise_is_beyond() {
    for bed in beds() {
        let (least, start) = promised(bed);
        if least > bed.sealed.run {
            continue;
        }
        let mut dice = Dice::new(7);
        let device = bed.device();
        let run: Vec<u64> = (start..start + least).collect();
        lose(&device, bed.block(), &run, &mut dice);
        assert_eq!(restore(bed, &device), Ok(Vec::new()), "{}", bed.name);
        assert!(unlike(bed, &device).is_empty(), "{}", bed.name);

        let device = bed.device();
        let run: Vec<u64> = (start..=start + least).collect();
        garble(&device, bed.block(), &run, &mut dice);
        let beyond = restore(bed, &device).unwrap();
        let left: Vec<u64> = unlike(bed, &device).into_keys().collect();
        assert!(!beyond.is_empty(), "{}", bed.name);
        // What is beyond is said, and everything else is back.
        assert_eq!(beyond, left, "{}", bed.name);
    }
}

/// All tables but one copy of each block, and whatever parity the groups can spare.
#[test]
fn a_seal_that_is_damaged_itself_still_serves() {
    each("seal", |bed, dice| {
        let mut lost = Vec::new();
        for number in 0..bed.tables[0].len() {
            let kept = usize::try_from(dice.below(3)).unwrap();
            for (copy, table) in bed.tables.iter().enumerate() {
                if copy != kept {
                    lost.push(table[number]);
                }
            }
        }
        for group in bed.groups() {
            let count =
                usize::try_from(dice.below(u64::from(bed.sealed.parity_shards) + 1)).unwrap();
            lost.extend(dice.some(&group, count));
        }
        lost
    });
}

/// A run over superblock, system directory and root, and nothing left that leads to the seal by name.
#[test]
fn a_volume_without_superblock_and_root_comes_back() {
    each("head", |bed, dice| {
        let parity = usize::from(bed.sealed.parity_shards);
        let head = bed.sealed.run.min(64);
        let mut lost: Vec<u64> = (0..head).collect();
        for group in bed.groups() {
            let (mut own, others): (Vec<u64>, Vec<u64>) =
                group.into_iter().partition(|blkno| *blkno < head);
            let spare = parity - own.len();
            own.extend(dice.some(&others, spare));
            lost.extend(own);
        }
        lost.sort_unstable();
        lost.dedup();
        lost
    });
}

/// Foreign and old blocks of tables do not lead a search astray.
#[test]
fn a_search_takes_no_foreign_seal() {
    let bed = &beds()[0];
    let device = bed.device();
    let block = bed.block();
    let mut dice = Dice::new(3);
    lose(&device, block, &[0, 1, 2, 5, 6, 7], &mut dice);
    // Blocks of the table moved to places that are not theirs, and heads without contents.
    let free = bed.bytes.len() as u64 / block as u64 / 2;
    for (i, number) in bed.tables[1].iter().enumerate() {
        let bytes = bed.bytes_of(*number).to_vec();
        device
            .write_at((free + i as u64) * block as u64, &bytes)
            .unwrap();
    }
    let mut head = vec![0; block];
    head[..8].copy_from_slice(&SEAL_MAGIC);
    device.write_at((free + 100) * block as u64, &head).unwrap();
    assert_eq!(restore(bed, &device), Ok(Vec::new()));
    assert!(unlike(bed, &device).is_empty());
}
