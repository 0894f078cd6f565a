//! The sizes of a volume: what is given, and what follows from the size of the device.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::MAX_SLOTS;
use cowfs_format::toolkit::size::show_size;
use cowfs_format::units::Geometry;

use crate::options::{Mount, Options, Usage};

/// Smallest journal that drivers accept.
pub(crate) const MIN_JOURNAL: u64 = 4 << 20;
/// Journals stay below this: tools of the format keep their size in 32 bits.
const JOURNAL_LIMIT: u64 = 4 << 30;
/// Blocks of the smallest volume.
const MIN_BLOCKS: u64 = 2048;
/// Blocks that a volume has besides its journals, at the least.
const MIN_OTHER_BLOCKS: u64 = 1024;

/// The sizes that everything else follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Block size, cluster size, clusters.
    pub geo: Geometry,
    /// Node slots.
    pub slots: u16,
    /// Bytes of each journal, whole clusters.
    pub journal_bytes: u64,
    /// Whether journals hold 64-bit block numbers.
    pub journal64: bool,
    /// Groups that each slot's extent allocator begins with.
    pub extent_groups: u32,
}

/// Decides the sizes for a device of `device_bytes` bytes.
pub(crate) fn decide(options: &Options, device_bytes: u64) -> Result<Sizes> {
    let (block_bits, bytes) = block_size(options, device_bytes)?;
    let cluster_bits = match options.cluster_size {
        Some(size) => bits_of("cluster size", size, Geometry::CLUSTER_BITS)?,
        None => default_cluster_bits(options.usage, bytes)?,
    };
    let clusters = u32::try_from(bytes >> cluster_bits).map_err(|_| Error::Input {
        what: format!(
            "a volume of {} has more than {} clusters of {}; use larger clusters (-C)",
            show_size(bytes),
            u32::MAX,
            show_size(1 << cluster_bits)
        ),
    })?;
    let geo = Geometry::new(block_bits, cluster_bits, clusters).ok_or_else(|| Error::Input {
        what: "block or cluster size out of range".to_owned(),
    })?;
    if geo.blocks() < MIN_BLOCKS {
        return Err(Error::Input {
            what: format!(
                "{} is too small for a volume: {} blocks of {} bytes, and at least {MIN_BLOCKS} are \
                 needed; make it larger, or use smaller blocks (-b)",
                show_size(bytes),
                geo.blocks(),
                geo.block_bytes()
            ),
        });
    }
    let slots = slots(options, &geo)?;
    Ok(Sizes {
        geo,
        slots,
        journal_bytes: journal_bytes(options, &geo, slots)?,
        journal64: journal64(options, &geo)?,
        extent_groups: options
            .extent_groups
            .unwrap_or_else(|| extent_groups(options.usage, &geo, slots)),
    })
}

/// log2 of the block size, and the bytes that whole blocks take.
fn block_size(options: &Options, device_bytes: u64) -> Result<(u32, u64)> {
    let sector = options.sector_size.max(512);
    let bits = match options.block_size {
        Some(size) => bits_of("block size", size, Geometry::BLOCK_BITS)?,
        None => {
            // As long as the block size is being chosen, a number of blocks means large ones.
            let bytes = options
                .blocks
                .map_or(device_bytes, |n| n.saturating_mul(4096));
            let by_size = match bytes {
                0..=0x30_0000 => 9,
                0x30_0001..0x2000_0000 => 10,
                0x2000_0000..0x4000_0000 => 11,
                _ => 12,
            };
            // No smaller than a sector: no driver could mount that.
            by_size.max(sector.ilog2())
        }
    };
    if sector > 1 << bits {
        return Err(Error::Input {
            what: format!(
                "the device has sectors of {sector} bytes, which are larger than blocks of {} can \
                 be; use -b {}",
                1u32 << bits,
                sector.next_power_of_two()
            ),
        });
    }
    let available = device_bytes >> bits;
    match options.blocks {
        Some(blocks) if blocks > available => Err(Error::Input {
            what: format!(
                "{blocks} blocks of {} bytes are more than the {available} that the device has",
                1u32 << bits
            ),
        }),
        given => Ok((bits, given.unwrap_or(available) << bits)),
    }
}

/// log2 of a size that must be a power of two in a range.
fn bits_of(name: &str, size: u32, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
    if size.is_power_of_two() && range.contains(&size.ilog2()) {
        return Ok(size.ilog2());
    }
    Err(Error::Input {
        what: format!(
            "{name} {size} cannot be: it is a power of two between {} and {}",
            1u32 << range.start(),
            1u32 << range.end()
        ),
    })
}

/// log2 of the cluster size that fits a volume.
fn default_cluster_bits(usage: Usage, bytes: u64) -> Result<u32> {
    match usage {
        Usage::General | Usage::Mail => Ok((12..20)
            .find(|bits| bytes >> bits <= u64::from(u32::MAX - 1))
            .unwrap_or(20)),
        Usage::Datafiles | Usage::Vmstore => match bytes >> 30 {
            0..2 => Err(Error::Input {
                what: format!(
                    "-T datafiles and -T vmstore are for volumes of 2 GiB and more, this one has \
                     {}; leave out -T, or choose a cluster size (-C)",
                    show_size(bytes)
                ),
            }),
            2..64 => Ok(17),
            64..96 => Ok(18),
            96..128 => Ok(19),
            _ => Ok(20),
        },
    }
}

fn slots(options: &Options, geo: &Geometry) -> Result<u16> {
    match options.slots {
        Some(n) if (1..=MAX_SLOTS).contains(&n) => Ok(n),
        Some(n) => Err(Error::Input {
            what: format!("{n} node slots cannot be: give 1 to {MAX_SLOTS}"),
        }),
        None if options.mount == Mount::Local => Ok(1),
        None => Ok(match geo.bytes() >> 30 {
            0..2 => 2,
            2..10 => 4,
            10..1024 => 8,
            _ => 16,
        }),
    }
}

/// Whether journals hold 64-bit block numbers.
fn journal64(options: &Options, geo: &Geometry) -> Result<bool> {
    let needed = geo.blocks() > u64::from(u32::MAX);
    match options.journal64 {
        Some(false) if needed => Err(Error::Input {
            what: format!(
                "{} blocks are too many for journals with 32-bit block numbers; leave out -J \
                 block32, or use larger blocks (-b)",
                geo.blocks()
            ),
        }),
        given => Ok(given.unwrap_or(needed)),
    }
}

fn journal_bytes(options: &Options, geo: &Geometry, slots: u16) -> Result<u64> {
    let cluster = geo.cluster_bytes();
    // A transaction may take an eighth of the journal, and mkdir needs more than a cluster.
    let least = MIN_JOURNAL.max(9 * cluster);
    let bytes = match options.journal_size {
        Some(size) if size < least => {
            return Err(Error::Input {
                what: format!(
                    "a journal of {} is too small: with clusters of {} it has at least {}",
                    show_size(size),
                    show_size(cluster),
                    show_size(least)
                ),
            });
        }
        Some(size) if size >= JOURNAL_LIMIT => {
            return Err(Error::Input {
                what: format!(
                    "a journal of {} is too large: it stays below 4 GiB",
                    show_size(size)
                ),
            });
        }
        Some(size) => size,
        None => (default_journal_blocks(options.usage, geo) << geo.block_bits()).max(least),
    };
    let bytes = geo.clusters_for(bytes) << geo.cluster_bits();
    if least_blocks(geo, bytes, slots) > geo.blocks() {
        return Err(Error::Input {
            what: format!(
                "{slots} journal(s) of {} do not fit into {}; make the volume larger, or the \
                 journals smaller (-J size=), or use fewer node slots (-N) or smaller clusters (-C)",
                show_size(bytes),
                show_size(geo.bytes())
            ),
        });
    }
    Ok(bytes)
}

/// Blocks of the smallest volume with `slots` journals of a size.
pub(crate) fn least_blocks(geo: &Geometry, journal_bytes: u64, slots: u16) -> u64 {
    let journals = (journal_bytes >> geo.block_bits()).saturating_mul(u64::from(slots));
    journals.saturating_add(MIN_OTHER_BLOCKS).max(MIN_BLOCKS)
}

/// Blocks of a journal by the use and size of the volume.
fn default_journal_blocks(usage: Usage, geo: &Geometry) -> u64 {
    let steps = |small, middle, large| match geo.blocks() {
        0..0x4_0000 => small,
        0x4_0000..0x8_0000 => middle,
        _ => large,
    };
    match usage {
        Usage::Datafiles => 8192,
        Usage::Mail => steps(16384, 32768, 65536),
        Usage::Vmstore => steps(8192, 16384, 32768),
        Usage::General => match geo.blocks() {
            0..0x8000 => MIN_JOURNAL >> geo.block_bits(),
            0x8000..0x4_0000 => 4096,
            blocks => (blocks / 160).clamp(16384, 65536),
        },
    }
}

/// Clusters of a group of an inode or extent allocator.
#[must_use]
pub(crate) const fn suballoc_group_clusters(geo: &Geometry) -> u32 {
    let megabytes = match geo.block_bits() {
        9 => 1,
        10 => 2,
        _ => 4,
    };
    (megabytes << 20) >> geo.cluster_bits()
}

/// Groups that each extent allocator begins with: a thousandth of the volume (three with large
/// files), at least one, but less where that would be more than a twentieth.
fn extent_groups(usage: Usage, geo: &Geometry, slots: u16) -> u32 {
    let per_mille = match usage {
        Usage::Datafiles | Usage::Vmstore => 3,
        Usage::General | Usage::Mail => 1,
    };
    let volume = u128::from(geo.bytes());
    let unit = (u128::from(suballoc_group_clusters(geo)) << geo.cluster_bits()) * u128::from(slots);
    let groups = (volume * per_mille).div_ceil(unit * 1000).max(1);
    let too_much = groups * unit * 100 > volume * 5;
    u32::try_from(groups - u128::from(too_much)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(options: &Options, bytes: u64) -> Sizes {
        decide(options, bytes).unwrap()
    }

    #[test]
    fn defaults_follow_the_size() {
        // (size, block size, cluster size, journal) as mkfs.ocfs2 1.8.7 -M local chooses them.
        for (bytes, block, cluster, journal) in [
            (8 << 20, 1024, 4096, 4 << 20),
            (300 << 20, 1024, 4096, 16384 << 10),
            (600 << 20, 2048, 4096, 16384 << 11),
            (2 << 30, 4096, 4096, 16384 << 12),
            (64 << 30, 4096, 4096, 65536 << 12),
            (15 << 40, 4096, 4096, 65536 << 12),
        ] {
            let s = sizes(&Options::default(), bytes);
            assert_eq!(s.geo.block_bytes(), block, "{bytes}");
            assert_eq!(s.geo.cluster_bytes(), cluster, "{bytes}");
            assert_eq!(s.journal_bytes, journal, "{bytes}");
        }
    }

    #[test]
    fn blocks_of_512_bytes_get_a_journal_that_drivers_accept() {
        let options = Options {
            block_size: Some(512),
            ..Options::default()
        };
        assert_eq!(sizes(&options, 64 << 20).journal_bytes, MIN_JOURNAL);
    }

    #[test]
    fn nonsense_is_refused_with_a_remedy() {
        for (options, bytes, word) in [
            (Options::default(), 512 << 10, "-b"),
            (Options::default(), 0, "larger"),
            (
                Options {
                    block_size: Some(3000),
                    ..Options::default()
                },
                1 << 30,
                "power of two",
            ),
            (
                Options {
                    slots: Some(256),
                    ..Options::default()
                },
                1 << 30,
                "1 to 255",
            ),
            (
                Options {
                    blocks: Some(1 << 20),
                    ..Options::default()
                },
                1 << 30,
                "device has",
            ),
            (
                Options {
                    cluster_size: Some(4096),
                    ..Options::default()
                },
                1 << 50,
                "larger clusters",
            ),
            (
                Options {
                    usage: Usage::Vmstore,
                    ..Options::default()
                },
                1 << 30,
                "leave out -T",
            ),
        ] {
            let message = decide(&options, bytes).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn large_volumes_choose_what_they_need() {
        let s = sizes(&Options::default(), 1 << 50);
        assert_eq!(s.geo.cluster_bytes(), 1 << 18 << 1);
        assert!(s.journal64);
        let s = sizes(&Options::default(), 4 << 40);
        assert!(!s.journal64);
        assert_eq!(s.extent_groups, 1049);
    }

    #[test]
    fn blocks_are_no_smaller_than_sectors() {
        let options = Options {
            sector_size: 4096,
            ..Options::default()
        };
        assert_eq!(sizes(&options, 100 << 20).geo.block_bytes(), 4096);
    }
}
